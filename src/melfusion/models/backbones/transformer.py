"""What the diffusion transformers share: latents are a row of frames, and every block can listen."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from melfusion.batch import VisualFeatures
from melfusion.models.backbones.base import Backbone, separate
from melfusion.models.synapse.layers import Site


class Transformer(Backbone):
    """Latents (B, C, T), or (B, C, T, F) of a mel codec, whose bins become channels."""

    attribute = "transformer"
    blocks: str  # name of the list of blocks in the network
    attention: str  # name of the cross-attention in a block

    def channels_of(self, latent_shape: tuple[int, ...]) -> int:
        return latent_shape[0] * math.prod(latent_shape[2:])

    def sites(self) -> list[Site]:
        count = len(getattr(self.network, self.blocks))
        paths = [f"{self.blocks}.{i}.{self.attention}" for i in range(count)]
        return [
            Site(path, f"block{i + 1}", path, *self.widths_of(self.network.get_submodule(path))) for i, path in enumerate(paths)
        ]

    def widths_of(self, attention: Any) -> tuple[int, int, int]:
        """Width of keys and of values, and their heads."""
        return separate(attention)

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
        row = noisy_latents if noisy_latents.ndim == 3 else noisy_latents.transpose(2, 3).flatten(1, 2)
        made = super().forward(row, timesteps, text_embeds, text_mask, visual_features, has_image, extra)
        return made if noisy_latents.ndim == 3 else made.unflatten(1, (noisy_latents.shape[1], -1)).transpose(2, 3)
