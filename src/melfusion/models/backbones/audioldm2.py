"""AudioLDM 2's UNet (Liu et al. 2023, arXiv 2308.05734), which attends to two texts, with a synapse."""

from __future__ import annotations

from typing import Any

from diffusers import Transformer2DModel
from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel
from torch import Tensor

from melfusion.models.backbones.base import separate
from melfusion.models.backbones.unet import SynapticUNet
from melfusion.models.synapse.layers import Site, attention_layers, block_names


class AudioLDM2(SynapticUNet):
    """Each of its layers attends to what a GPT-2 wrote (extra `generated`, (B, M, D')) and then to T5's text (text_embeds).

    The picture joins T5's: that is the text itself, whose length is fixed, while the GPT-2's tokens already are a guess of the
    sound.
    """

    unet: AudioLDM2UNet2DConditionModel

    @property
    def text_width(self) -> int:
        return self.widths[2]

    @property
    def widths(self) -> tuple[Any, ...]:
        """Of what the attentions of a layer attend to: None (itself), the GPT-2's tokens, the text."""
        first: Any = next(block for block in self.unet.down_blocks if hasattr(block, "attentions"))
        return tuple(first.cross_attention_dim)

    def sites(self) -> list[Site]:
        names = attention_layers(self.unet)
        blocks, count = block_names(names), len(self.widths)
        chosen = [name for name in names if int(name.split("attentions.")[1].split(".")[0]) % count == 2]
        paths = {name: f"{name}.attn2" for name in chosen}
        return [Site(f"text.{name}", blocks[name], path, *separate(self.unet.get_submodule(path))) for name, path in paths.items()]

    def checkpoint_activations(self) -> None:
        """Its blocks hand their arguments to the transformers one place too far (diffusers 0.42): here they go by name."""
        names = ("encoder_hidden_states", "timestep", "class_labels", "cross_attention_kwargs", "attention_mask")

        def run(module: Any, hidden_states: Tensor, *args: Any) -> Any:
            if not isinstance(module, Transformer2DModel):
                return self.sight.checkpointed(module, hidden_states, *args)
            named = dict(zip((*names, "encoder_attention_mask"), args, strict=True))
            text, mask = named.pop("encoder_hidden_states"), named.pop("encoder_attention_mask")

            def called(hidden: Tensor, text: Tensor | None, mask: Tensor | None) -> Any:
                return module(hidden, encoder_hidden_states=text, encoder_attention_mask=mask, return_dict=False, **named)

            return self.sight.checkpointed(called, hidden_states, text, mask)

        self.unet.enable_gradient_checkpointing(run)

    def run(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None,
        extra: dict[str, Tensor],
        more: dict[str, Any],
    ) -> Tensor:
        text = {"encoder_hidden_states_1": text_embeds, "encoder_attention_mask_1": text_mask}
        return self.unet(noisy_latents, timesteps, encoder_hidden_states=extra["generated"], **text, **more).sample
