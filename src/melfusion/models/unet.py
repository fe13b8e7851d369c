"""SynapticUNet: the stock text-to-music UNet2DConditionModel with visual synapses in its cross-attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from melfusion.batch import VisualFeatures
from melfusion.models.denoiser import Denoiser
from melfusion.models.image_encoder import ImageEncoder
from melfusion.models.published import save_network
from melfusion.models.synapse.kinds import SYNAPSES
from melfusion.models.synapse.layers import layer_specs
from melfusion.models.synapse.processor import attach


class SynapticUNet(Denoiser):
    """UNet and synapse as one denoiser.

    Args:
        unet: stock diffusers UNet; its state_dict keeps its keys.
        image_encoder: asked for the widths of its features and not kept; None with kind "none".
        kind, layers: see synapse/; further keywords go to the synapse of that kind.
        trainable: all | decoder | cross_attn | synapse (the synapse always trains).
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        image_encoder: ImageEncoder | None = None,
        kind: str = "none",
        layers: list[str] | None = None,
        trainable: str = "all",
        **synapse: Any,
    ):
        super().__init__()
        specs = [] if image_encoder is None else layer_specs(unet, image_encoder.width_of, layers or ["decoder"])
        self.unet, self.synapse = unet, SYNAPSES[kind](specs, **synapse)
        self.synapse.grow(unet)
        attach(unet, self.synapse)
        self.trainable = trainable
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(trains(name, trainable))

    @property
    def frames_multiple(self) -> int:
        """Every level below the first halves the frames."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def layers(self) -> list[str]:
        return list(self.synapse.specs)

    def prepare(self, features: VisualFeatures, text_length: int) -> VisualFeatures:
        return self.synapse.prepare(features, text_length)

    def provenance(self, text_length: int) -> dict[str, Any]:
        return {"layers": self.layers, "match": self.synapse.match, "tokens": self.synapse.matched_length(text_length)}

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the UNet alone. What the synapse does once a pass stays as it is."""
        self.unet.compile(*args, **kwargs)

    def forward(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None = None,
        visual_features: VisualFeatures | None = None,
        has_image: Tensor | None = None,
    ) -> Tensor:
        inputs: dict[str, Any] = {"encoder_hidden_states": text_embeds, "encoder_attention_mask": text_mask}
        if visual_features is not None and has_image is not None and self.layers:
            prepared = self.prepare(visual_features, text_embeds.shape[1])
            prepared, more = self.synapse.enter(noisy_latents, timesteps, text_embeds, text_mask, prepared, has_image)
            inputs |= {"cross_attention_kwargs": {"visual_features": prepared, "has_image": has_image}} | more
        return self.unet(noisy_latents, timesteps, **inputs).sample

    def export(self, folder: Path) -> None:
        save_network(self.unet, folder / "unet")

    def alphas(self) -> dict[str, nn.Parameter]:
        return dict(self.synapse.alphas.items())


def trains(name: str, trainable: str) -> bool:
    """Does this parameter of the UNet train?"""
    decoder = name.startswith("up_blocks")
    return {"all": True, "decoder": decoder, "cross_attn": decoder and ".attn2." in name, "synapse": False}[trainable]
