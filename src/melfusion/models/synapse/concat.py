"""Kinds that keep the picture's tokens beside the words': concat and decoupled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from melfusion.errors import ConfigError
from melfusion.models.synapse.base import AlphaSynapse, VisualSynapse, attention, attention_to, make_projections, project
from melfusion.models.synapse.layers import LayerSpec


class Concat(VisualSynapse):
    """Image tokens, normalised and projected, stand beside the text tokens as extra keys and values; no α."""

    keeps_tokens = True

    def __init__(self, specs: list[LayerSpec], image_tokens: int = 64, **shared: Any):
        super().__init__(specs, **shared)
        self.image_tokens = image_tokens
        self.projections = make_projections(specs)

    def matched_length(self, text_length: int) -> int:
        return self.image_tokens

    def mix(
        self, layer: str, key: Tensor, value: Tensor, mask: Tensor | None, features: tuple[Tensor, Tensor], has_image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        image_key, image_value = project(self.projections, layer, features)
        batch, tokens = image_key.shape[:2]
        if mask is None:
            mask = key.new_zeros(batch, 1, key.shape[1])
        # -inf, since a caption that hides all its tokens gives them the same finite bias
        image_mask = torch.where(has_image > 0, 0.0, -torch.inf)[:, None, None].to(mask.dtype).expand(-1, 1, tokens)
        return (
            torch.cat([key, image_key.to(key.dtype)], 1),
            torch.cat([value, image_value.to(value.dtype)], 1),
            torch.cat([mask, image_mask], 2),
        )


class Decoupled(AlphaSynapse):
    """The picture has an attention of its own beside the text's, added through a gate per layer that starts at α.

    After Ye et al. 2023 (IP-Adapter, arXiv 2308.06721), with the gate learned. At α = 0 it equals stock.
    """

    beside = keeps_tokens = True

    def __init__(self, specs: list[LayerSpec], image_tokens: int = 64, **shared: Any):
        super().__init__(specs, **shared)
        if uneven := [spec.name for spec in specs if spec.widths["key"] != spec.width]:
            raise ConfigError(
                f"synapse.kind=decoupled adds one attention, and {uneven[0]} is the difference of two: use kv_mix_proj or concat."
            )
        self.image_tokens = image_tokens
        self.projections = make_projections(specs)

    def matched_length(self, text_length: int) -> int:
        return self.image_tokens

    def look(self, layer: str, query: Tensor, features: tuple[Tensor, Tensor], has_image: Tensor, heads: int) -> Tensor:
        key, value = project(self.projections, layer, features)
        seen = attention(query, key.to(query.dtype), value.to(query.dtype), heads)
        return (self.gate(layer, heads) * has_image[:, None, None]).to(seen.dtype) * seen

    def gate(self, layer: str, heads: int) -> Tensor:
        """α: a scalar, or (D,) of the query where each head has its own."""
        alpha = self.alpha(layer)
        if not alpha.ndim:
            return alpha
        groups = self.specs[layer].heads  # of the values, which groups of query heads share
        return alpha.unflatten(0, (groups, -1)).repeat_interleave(heads // groups, 0).flatten()

    @torch.no_grad()
    def looked_at(self, layer: str, query: Tensor, features: tuple[Tensor, Tensor], has_image: Tensor, heads: int) -> Tensor:
        key, groups = project(self.projections, layer, features)[0].to(query.dtype), self.specs[layer].heads
        weight = (self.gate(layer, heads).abs() * has_image[:, None, None]).to(query.dtype)

        def attend(marks: Tensor) -> Tensor:
            return weight * attention(query, key, marks.repeat(1, groups).to(key).expand(len(key), -1, -1), heads)

        return attention_to(key.shape[1], query.shape[2] // heads, attend)
