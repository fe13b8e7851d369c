"""SynapticUNet: the stock text-to-music UNet2DConditionModel with visual synapses in its cross-attention."""

from __future__ import annotations

from typing import Any

import lightning
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from melfusion.batch import VisualFeatures
from melfusion.models.synapse.kinds import SYNAPSES
from melfusion.models.synapse.layers import layer_specs
from melfusion.models.synapse.processor import attach


class SynapticUNet(lightning.LightningModule):
    """UNet and synapse as one denoiser.

    Args:
        unet: stock diffusers UNet; its state_dict keeps its keys.
        image_unet: read for widths only, not kept; or the width of a model that tells all layers the same. None with kind "none".
        kind, layers: see synapse.py; further keywords go to the synapse.
        trainable: all | decoder | cross_attn | synapse (the synapse always trains).
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        image_unet: UNet2DConditionModel | int | None = None,
        kind: str = "none",
        layers: list[str] | None = None,
        trainable: str = "all",
        **synapse,
    ):
        super().__init__()
        specs = layer_specs(unet, image_unet, layers or ["decoder"]) if kind != "none" else []
        self.unet, self.synapse = unet, SYNAPSES[kind](specs, **synapse)
        self.synapse.grow(unet)
        attach(unet, self.synapse)
        self.trainable = trainable
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(trains(name, trainable))

    def forward(
        self,
        noisy_latents: Tensor,
        timesteps: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None = None,
        visual_features: VisualFeatures | None = None,
        has_image: Tensor | None = None,
    ) -> Tensor:
        """(B, C, T, F), (B,), (B, L, D), (B, L) bool, layer → (B, N, D) pair, (B,) → model_output (B, C, T, F)."""
        told: dict[str, Any] = {"encoder_hidden_states": text_embeds, "encoder_attention_mask": text_mask}
        if visual_features is not None and self.synapse.specs:
            prepared = self.synapse.prepare(visual_features, text_embeds.shape[1])
            prepared, more = self.synapse.enter(noisy_latents, timesteps, text_embeds, text_mask, prepared, has_image)
            told |= {"cross_attention_kwargs": {"visual_features": prepared, "has_image": has_image}} | more
        return self.unet(noisy_latents, timesteps, **told).sample

    def alpha_parameters(self) -> list[nn.Parameter]:
        """α: their own parameter group, without weight decay."""
        return list(self.synapse.alphas.parameters())

    def other_parameters(self) -> list[nn.Parameter]:
        """Everything else that trains."""
        alphas = {id(p) for p in self.alpha_parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in alphas]


def trains(name: str, trainable: str) -> bool:
    """Does this parameter of the UNet train?"""
    decoder = name.startswith("up_blocks")
    return {"all": True, "decoder": decoder, "cross_attn": decoder and ".attn2." in name, "synapse": False}[trainable]
