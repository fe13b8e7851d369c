"""DDIM inversion and its way back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from melfusion.models.diffusion.process import ddim_step, to_epsilon


def ddim_invert(
    denoise: Callable[[Tensor, Tensor], Tensor], latents: Tensor, grid: Tensor, alpha_bar: Tensor, prediction_type: str = "epsilon"
) -> Tensor:
    """Deterministic DDIM run from clean latents (B, C, h, w) up the grid (G,) on the host, grid[0] = 0 being the clean latent.

    Returns (B, G, C, h, w). Each move uses the ε at its start (Song et al. eq. 14, Euler): sampling back along the
    same grid reconstructs up to the change of ε over one move.
    """
    path = [latents]
    for t, t_to in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        at = path[-1]
        a, a_to = alpha_bar[t].expand(len(at)), alpha_bar[t_to].expand(len(at))
        epsilon = to_epsilon(denoise(at, torch.full((len(at),), t, device=at.device)), at, a, prediction_type)
        path.append(ddim_step(at, epsilon, a, a_to))
    return torch.stack(path, dim=1)


def ddim_reverse(
    denoise: Callable[[Tensor, Tensor], Tensor], latents: Tensor, grid: Tensor, alpha_bar: Tensor, prediction_type: str = "epsilon"
) -> Tensor:
    """The way back down the grid from latents at grid[-1] to the clean latents (B, C, h, w)."""
    for t, t_to in zip(grid.flip(0)[:-1].tolist(), grid.flip(0)[1:].tolist(), strict=True):
        a, a_to = alpha_bar[t].expand(len(latents)), alpha_bar[t_to].expand(len(latents))
        timesteps = torch.full((len(latents),), t, device=latents.device)
        epsilon = to_epsilon(denoise(latents, timesteps), latents, a, prediction_type)
        latents = ddim_step(latents, epsilon, a, a_to)
    return latents
