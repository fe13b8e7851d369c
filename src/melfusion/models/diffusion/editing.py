"""Sampling of latents of which something is known: parts of them, or what they should be like."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from melfusion.models.diffusion.process import add_noise, from_clean, to_clean


@dataclass(frozen=True)
class Edit:
    """What a sampler knows of the latents that it makes.

    At each step the x_0 that the network's output stands for is replaced by the known latents, and turned back into such an
    output. With a constant x_0 every sampler stays on √ᾱ x_0 + √(1-ᾱ) ε, so that what is not known sees the known beside it
    exactly as noisy as in training, and the known comes out unchanged.

    Attributes:
        latents: (1 or B, C, T, …) clean.
        kept: (T,) in [0, 1], by how much a frame is known: 1 stays what it is, 0 is made.
        strength: share in [0, 1] of the sampler's schedule that is gone through: 1 starts from noise, as if nothing were known
            of the frames that are made; less starts from `latents` with the noise of a later step (Meng et al. 2022, SDEdit,
            arXiv 2108.01073); 0 gives `latents`.
    """

    latents: Tensor
    kept: Tensor
    strength: float = 1.0

    @property
    def knows(self) -> bool:
        """Is any frame known?"""
        return bool((self.kept > 0).any())

    def keep(self, clean: Tensor) -> Tensor:
        """x_0 (B, C, T, …) with what is known in its place."""
        if not self.knows:
            return clean
        kept = self.kept.to(clean).reshape(1, 1, -1, *[1] * (clean.ndim - 3))
        return torch.lerp(clean, self.latents.to(clean).expand_as(clean), kept.expand_as(clean))

    def imposed(self, model_output: Tensor, noisy: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
        """Network output at x_t → the output that stands for x_0 with what is known; alpha_bar (B,)."""
        if not self.knows:
            return model_output
        clean = self.keep(to_clean(model_output, noisy, alpha_bar, prediction_type))
        return from_clean(clean, noisy, alpha_bar, prediction_type)

    def started(self, noise: Tensor, alpha_bar: Tensor) -> Tensor:
        """The known latents with this noise; alpha_bar (B,)."""
        return add_noise(self.latents.to(noise).expand_as(noise), noise, alpha_bar)

    def to(self, device: torch.device) -> Edit:
        return Edit(self.latents.to(device), self.kept.to(device), self.strength)


def schedule(num_steps: int, edit: Edit | None, most: int | None = None) -> tuple[int, int]:
    """(Steps of the whole schedule, how many at its beginning are left out), so that `num_steps` are gone through.

    `most`: a schedule has no more steps; then fewer are gone through.
    """
    if edit is None or edit.strength >= 1:
        return num_steps, 0
    whole = round(num_steps / edit.strength)
    if most is not None and whole > most:
        whole, num_steps = most, max(1, round(most * edit.strength))
    return whole, whole - num_steps
