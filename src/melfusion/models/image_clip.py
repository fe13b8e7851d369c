"""ClipFeatures: CLIP's vision transformer looks at the picture in place of the image-diffusion model (`image.model=clip`).

One of the paper's other ways to condition on the picture (experiments/conditioner): every layer of the synapse is told the same
patch tokens, which know nothing of diffusion and so of no timestep. The layer before the last is read, as Ye et al. 2023
(IP-Adapter, arXiv 2308.06721) do.
"""

from __future__ import annotations

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionModel

from melfusion.batch import VisualFeatures

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training pictures


def clip_pixels(image: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) in [-1, 1] → (B, 3, side, side) as CLIP was trained to see it."""
    pixels = F.interpolate((image + 1) / 2, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(v, device=image.device)[:, None, None] for v in (MEAN, STD))
    return (pixels - mean) / std


class ClipFeatures(lightning.LightningModule):
    """What `ImageFeatureExtractor` is to the system: `invert` once a picture, `features` at every timestep.

    Args:
        network: frozen.
        layers: names that the features go by.
    """

    reading = "clip"

    def __init__(self, network: CLIPVisionModel, layers: list[str] | None = None):
        super().__init__()
        self.network, self.layers = network, layers or []

    @property
    def seen_by(self) -> int:
        """The width of its tokens."""
        return self.network.config.hidden_size

    @torch.no_grad()
    def invert(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1] → patch tokens (B, 1, N, D), cacheable; nothing is inverted."""
        pixels = clip_pixels(image, self.network.config.image_size)
        return self.network(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, None, 1:]

    def features(self, image_latents: Tensor, timesteps: Tensor, noise: Tensor | None = None) -> VisualFeatures:
        """What `invert` gave → layer → (tokens, tokens), each (B, N, D), whatever the timestep."""
        return dict.fromkeys(self.layers, (image_latents[:, 0], image_latents[:, 0]))

    def noise_shape(self, height: int, width: int) -> tuple[int, ...]:
        """It reads no noise."""
        return (0,)

    def provenance(self) -> dict[str, str]:
        """What its features depend on beside its weights."""
        return {"reading": self.reading}
