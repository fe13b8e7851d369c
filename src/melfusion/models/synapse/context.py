"""Mixing before the projections: the released code's way."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from melfusion.models.synapse.base import AlphaSynapse


class ContextMix(AlphaSynapse):
    """The released code's way, for comparison: image values, pooled over tokens and channels to the text's shape, enter the
    text before its projections with weight (2σ(α) - 1) / 5, so within ±0.2 and 0 at α = 0.
    """

    def context(self, layer: str, text_embeds: Tensor, features: tuple[Tensor, Tensor], has_image: Tensor) -> Tensor:
        alpha = self.alphas[self.group(self.specs[layer])].mean()
        weight = ((2 * alpha.sigmoid() - 1) / 5 * has_image[:, None, None]).to(text_embeds.dtype)
        image = F.adaptive_avg_pool1d(features[1], text_embeds.shape[-1]).to(text_embeds.dtype)
        return text_embeds + weight * (image - text_embeds)

    def mix(
        self, layer: str, key: Tensor, value: Tensor, mask: Tensor | None, features: tuple[Tensor, Tensor], has_image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return key, value, None if mask is None else mask * (1 - has_image[:, None, None])
