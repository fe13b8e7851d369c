"""The attention processor through which a synapse enters a stock diffusers UNet."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from melfusion.batch import VisualFeatures
from melfusion.models.synapse.base import VisualSynapse


class SynapseProcessor:
    """Wraps diffusers' processor on every attention layer; a layer without a synapse calls the stock one.

    A plain object, not an nn.Module: the UNet's state_dict keeps its stock keys. Features come with each forward pass
    through `cross_attention_kwargs`, keyed by layer, so recomputation under activation checkpointing sees the same.
    """

    def __init__(self, stock: Any, layer: str, synapse: VisualSynapse | None):
        self.stock, self.layer, self.synapse = stock, layer, synapse

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        visual_features: VisualFeatures | None = None,
        has_image: Tensor | None = None,
    ) -> Tensor:
        if self.synapse is None or visual_features is None or has_image is None or encoder_hidden_states is None:
            return self.stock(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        features = visual_features[self.layer]
        has_image = has_image.to(hidden_states.dtype)
        context = self.synapse.context(self.layer, encoder_hidden_states, features, has_image)
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        out = self.synapse.attend(self.layer, query, key, value, attention_mask, features, has_image.to(key.dtype))
        return attn.to_out[1](attn.to_out[0](out))


def attach(unet: UNet2DConditionModel, synapse: VisualSynapse) -> None:
    """Put a SynapseProcessor on every attention layer of a diffusers UNet."""
    processors = {}
    for name, stock in unet.attn_processors.items():
        layer, _, kind = name.removesuffix(".processor").rpartition(".")
        chosen = synapse if kind == "attn2" and layer in synapse.specs else None
        processors[name] = SynapseProcessor(stock, layer, chosen)
    unet.set_attn_processor(processors)
