"""Backbone: a stock diffusers network and a visual synapse as one denoiser."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from melfusion.batch import VisualFeatures
from melfusion.models.backbones.base_options import DenoiserConfig
from melfusion.models.denoiser import Denoiser
from melfusion.models.image_encoder import ImageEncoder
from melfusion.models.lora import add_lora, merged, stock_name
from melfusion.models.published import save_network
from melfusion.models.synapse.kinds import SYNAPSES
from melfusion.models.synapse.layers import Site, layer_specs
from melfusion.models.synapse.processor import Sight, SynapseProcessor, attach


def separate(attention: Any) -> tuple[int, int, int]:
    """Width of keys and of values, and their heads, of a stock attention with to_q, to_k and to_v."""
    keys = attention.to_k.out_features
    return keys, attention.to_v.out_features, keys * attention.heads // attention.to_q.out_features


class Backbone(Denoiser):
    """A subclass says where its network can listen (`sites`), which processor enters there, and how it is called (`run`).

    Args:
        network: its state_dict keeps its stock keys. It stands under the name `attribute`, as in the published pipelines.
        image_encoder: asked for the widths of its features and not kept; None with kind "none".
        kind, layers: see synapse/; further keywords go to the synapse of that kind.
        trainable: all | decoder | cross_attn | synapse (the synapse always trains).
    """

    attribute: str
    processor: type[SynapseProcessor] = SynapseProcessor
    default_layers = DenoiserConfig.LISTENS

    def __init__(
        self,
        network: Any,
        image_encoder: ImageEncoder | None = None,
        kind: str = "none",
        layers: list[str] | None = None,
        trainable: str = "all",
        **synapse: Any,
    ):
        super().__init__()
        setattr(self, self.attribute, network)
        specs = [] if image_encoder is None else layer_specs(self.sites(), image_encoder, layers or self.default_layers)
        self.synapse, self.sight, self.trainable = SYNAPSES[kind](specs, **synapse), Sight(), trainable
        self.synapse.grow(network, self.text_width)
        attach(network, self.synapse, self.sight, self.processor)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(
                parameter.requires_grad and self.trains(name)
            )  # some, such as frequencies of a time, never train

    def adapt(self, rank: int, targets: list[str] | None = None) -> None:
        """Train a LoRA of that rank in place of the network. `targets`: globs over its linear layers; none: the attentions that
        listen, or could where there is no synapse.
        """
        places = [spec.attention for spec in self.synapse.specs.values()] or [site.path for site in self.sites()]
        add_lora(self.network, targets or [f"{place}.*" for place in places], rank)

    @property
    def network(self) -> Any:
        return getattr(self, self.attribute)

    def sites(self) -> list[Site]:
        """The cross-attentions of the network, in forward order."""
        raise NotImplementedError

    def trains(self, name: str) -> bool:
        """Does this parameter of the network train?"""
        listens = any(name.startswith(f"{spec.attention}.") for spec in self.synapse.specs.values())
        return {"all": True, "decoder": True, "cross_attn": listens, "synapse": False}[self.trainable]

    def run(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None,
        extra: dict[str, Tensor],
        more: dict[str, Any],
    ) -> Tensor:
        """One pass of the stock network; `more` are arguments that the synapse adds."""
        raise NotImplementedError

    def forward(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None = None,
        visual_features: VisualFeatures | None = None,
        has_image: Tensor | None = None,
        extra: dict[str, Tensor] | None = None,
    ) -> Tensor:
        seen: tuple[VisualFeatures, Tensor] | None = None
        more: dict[str, Any] = {}
        if visual_features is not None and has_image is not None and self.synapse.specs:
            prepared = self.prepare(visual_features, text_embeds.shape[1])
            prepared, more = self.synapse.enter(noisy_latents, timesteps, text_embeds, text_mask, prepared, has_image)
            seen = (prepared, has_image)
        with self.sight.of(seen, text_mask):
            return self.run(noisy_latents, timesteps, text_embeds, text_mask, extra or {}, more)

    def measuring_attention(self) -> AbstractContextManager[dict[str, Tensor]]:
        return self.sight.measuring()

    @property
    def keeps_tokens(self) -> bool:
        return self.synapse.keeps_tokens and bool(self.synapse.specs) and self.processor.one_softmax

    def over_picture(self, attended: dict[str, Tensor], features: VisualFeatures) -> dict[str, Tensor]:
        return self.synapse.over_picture(attended, features)

    @property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(spec.image_layer for spec in self.synapse.specs.values()))

    def prepare(self, features: VisualFeatures, text_length: int) -> VisualFeatures:
        return self.synapse.prepare(features, text_length)

    def provenance(self, text_length: int) -> dict[str, Any]:
        names = list(self.synapse.specs)
        return {"layers": names, "match": self.synapse.match, "tokens": self.synapse.matched_length(text_length)}

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the network alone. What the synapse does once a pass stays as it is."""
        self.network.compile(*args, **kwargs)

    def checkpoint_activations(self) -> None:
        """Compute activations twice, for less memory."""
        self.network.enable_gradient_checkpointing(self.sight.checkpointed)

    def pieces(self) -> list[nn.Module]:
        """The items of the network's lists, and what has lists in it."""
        found = []
        for child in self.network.children():
            if isinstance(child, nn.ModuleList):
                found += list(child)
            elif any(isinstance(module, nn.ModuleList) for module in child.modules()):
                found.append(child)
        return found

    def export(self, folder: Path) -> None:
        with merged(self.network):
            save_network(self.network, folder / self.attribute)

    def frozen_state(self) -> dict[str, Tensor]:
        return {stock_name(name): tensor for name, tensor in super().frozen_state().items()}

    def alphas(self) -> dict[str, nn.Parameter]:
        return dict(self.synapse.alphas.items())
