"""ClipFeatures: CLIP's vision transformer reads the picture in place of the image-diffusion model (`image.kind=clip`).

One of the paper's other ways to condition on the picture (experiments/conditioner). Every layer of the synapse gets the same
patch tokens. They do not depend on a timestep. The layer before the last is read, as Ye et al. 2023 (IP-Adapter,
arXiv 2308.06721) do.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from melfusion.batch import VisualFeatures
from melfusion.models.image_encoder import ImageEncoder

# mean and standard deviation of CLIP's training pictures
STATISTICS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(image: Tensor, side: int, statistics: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) in [-1, 1] → (B, 3, side, side) as CLIP was trained to see it.

    statistics: STATISTICS (2, 3) as a tensor on the image's device; None copies them there.
    """
    pixels = F.interpolate((image + 1) / 2, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(STATISTICS, device=image.device) if statistics is None else statistics)[..., None, None]
    return (pixels - mean) / std


class ClipFeatures(ImageEncoder):
    """A frozen vision transformer as an image encoder.

    Args:
        network: transformers' CLIPVisionModel.
    """

    statistics: Tensor

    def __init__(self, network: Any):
        super().__init__()
        self.network = network
        self.register_buffer("statistics", torch.tensor(STATISTICS), persistent=False)  # moved once, not with every batch

    def width_of(self, layer: str) -> int:
        return self.network.config.hidden_size

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1] → patch tokens (B, 1, N, D)."""
        pixels = clip_pixels(image, self.network.config.image_size, self.statistics)
        return self.network(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, None, 1:]

    def features(
        self, image_latents: Tensor, timesteps: Tensor, noise: Tensor | None = None, layers: list[str] | None = None
    ) -> VisualFeatures:
        """Patch tokens (B, 1, N, D) → layer → (tokens, tokens), each (B, N, D), at every timestep; no layer where none is named."""
        return dict.fromkeys(layers or [], (image_latents[:, 0], image_latents[:, 0]))

    def provenance(self) -> dict[str, str]:
        return {"reading": "clip"}
