"""ImageEncoder: picture → the tokens that the layers of the denoiser attend to."""

from __future__ import annotations

from typing import Any

import lightning
from torch import Tensor

from melfusion.batch import VisualFeatures


class ImageEncoder(lightning.LightningModule):
    """Base of all models that read the picture; frozen in the system.

    A picture is read in two moves. `encode` runs once a picture, and its result can be cached. `features` runs at the
    timesteps of the music. A model that knows no timesteps does all its work in `encode`.

    B pictures, H×W pixels, G grid timesteps, N image tokens, D width of a token.
    """

    @property
    def reads_once(self) -> bool:
        """Are the features the same at every timestep? Then `generate` computes them once, and precompute stores them."""
        return False

    def layer_for(self, name: str, depth: float) -> str:
        """The layer that one of the denoiser's listens to: by name, or by its relative depth from 0 to 1."""
        return name

    def width_of(self, layer: str) -> int:
        """D of the features of this layer; ConfigError where the encoder has none of that name."""
        raise NotImplementedError

    def encode(self, image: Tensor) -> Tensor:
        """image (B, 3, H, W) in [-1, 1] → image_latents (B, G, …), without a gradient."""
        raise NotImplementedError

    def features(
        self, image_latents: Tensor, timesteps: Tensor, noise: Tensor | None = None, layers: list[str] | None = None
    ) -> VisualFeatures:
        """image_latents, the music's timesteps (B,) and the noise of `noise_shape` → layer → (key, value), each (B, N, D).

        Args:
            layers: names that `layer_for` gave; None: all that the encoder has.
        """
        raise NotImplementedError

    def noise_shape(self, height: int, width: int) -> tuple[int, ...] | None:
        """Shape of one sample's noise for a picture of that many pixels; None where `features` needs no noise."""
        return None

    def provenance(self) -> dict[str, Any]:
        """Plain values that the features depend on beside the weights."""
        return {}


class OneLayer(ImageEncoder):
    """Base of those whose `encode` gives tokens (B, 1, N, D) that serve every layer at every timestep."""

    def features(
        self, image_latents: Tensor, timesteps: Tensor, noise: Tensor | None = None, layers: list[str] | None = None
    ) -> VisualFeatures:
        """Tokens (B, 1, N, D) → layer → (tokens, tokens), each (B, N, D); no layer where none is named."""
        return dict.fromkeys(layers or [], (image_latents[:, 0], image_latents[:, 0]))
