"""Mixing before the projections: the released code's way."""

from __future__ import annotations

import torch.nn.functional as F

from melfusion.models.synapse.base import VisualSynapse


class ContextMix(VisualSynapse):
    """The released code's way, for comparison: image values, pooled over tokens and channels to the text's shape, enter the
    text before its projections with weight (2σ(α) - 1) / 5, so within ±0.2 and 0 at α = 0.
    """

    has_alpha = True

    def context(self, layer, text_embeds, features, has_image):
        alpha = self.alphas[self._group(self.specs[layer])].mean()
        weight = ((2 * alpha.sigmoid() - 1) / 5 * has_image[:, None, None]).to(text_embeds.dtype)
        image = F.adaptive_avg_pool1d(features[1], text_embeds.shape[-1]).to(text_embeds.dtype)
        return text_embeds + weight * (image - text_embeds)

    def mix(self, layer, key, value, mask, features, has_image):
        return key, value, None if mask is None else mask * (1 - has_image[:, None, None])
