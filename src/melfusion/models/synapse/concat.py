"""Kinds that keep the picture's tokens beside the words': concat and decoupled."""

from __future__ import annotations

import torch

from melfusion.models.synapse.base import VisualSynapse, attention, make_projections, project
from melfusion.models.synapse.layers import LayerSpec


class Concat(VisualSynapse):
    """Image tokens, normalised and projected, stand beside the text tokens as extra keys and values; no α."""

    def __init__(self, specs: list[LayerSpec], **kwargs):
        super().__init__(specs, **kwargs)
        self.projections = make_projections(specs)

    def matched_length(self, text_length: int) -> int:
        return self.num_tokens

    def mix(self, layer, key, value, mask, features, has_image):
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


class Decoupled(VisualSynapse):
    """The picture has an attention of its own beside the text's, added through a gate per layer that starts at α.

    After Ye et al. 2023 (IP-Adapter, arXiv 2308.06721), with the gate learned. At α = 0 it equals stock.
    """

    has_alpha = True

    def __init__(self, specs: list[LayerSpec], **kwargs):
        super().__init__(specs, **kwargs)
        self.projections = make_projections(specs)

    def matched_length(self, text_length: int) -> int:
        return self.num_tokens

    def attend(self, layer, query, key, value, mask, features, has_image):
        heads = self.specs[layer].heads
        image_key, image_value = (t.to(key.dtype) for t in project(self.projections, layer, features))
        seen = attention(query, image_key, image_value, None, heads)
        gate = (self.alpha(layer) * has_image[:, None, None]).to(seen.dtype)
        return attention(query, key, value, mask, heads) + gate * seen
