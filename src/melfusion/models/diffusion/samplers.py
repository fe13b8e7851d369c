"""Samplers, DDIM inversion and guidance: pure functions of a denoise callable `(latents, timestep, …) → model_output`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from melfusion.models.diffusion.process import add_noise, shifted, target, to_clean
from melfusion.models.options import DiffusionConfig

# First-order DPM-Solver++ is DDIM. diffusers' own DDIMScheduler steps by 1000 // n whatever the spacing, so that it starts
# at the wrong noise at 400 steps; and without λ-uniform steps the last second-order move leaves noise behind.
SAMPLERS: dict[str, dict[str, Any]] = {
    "ddim": {"solver_order": 1, "final_sigmas_type": "sigma_min"},
    "dpm": {"solver_order": 2, "use_lu_lambdas": True},
}


def make_scheduler(sampler: str, config: DiffusionConfig) -> DPMSolverMultistepScheduler:
    """diffusers' scheduler of that name on the training schedule."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        prediction_type=config.prediction_type,
        algorithm_type="dpmsolver++",
        **SAMPLERS[sampler],
    )


def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    scheduler: Any,
    num_inference_steps: int,
    progress: Callable = iter,
    from_pure_noise: bool = False,
) -> Tensor:
    """Start from `noise` (B, C, T, F) and follow the scheduler; returns latents.

    from_pure_noise: the network was trained to expect it at the last timestep (`diffusion.pure_noise_share`). What it makes
        of the noise there is then put under it, as at that timestep x_0 is, before the scheduler's first move.
    """
    scheduler.set_timesteps(num_inference_steps)  # on the host: it looks timesteps up, and the device would have to be waited for
    latents, first = noise * scheduler.init_noise_sigma, from_pure_noise
    for timestep, at in zip(progress(scheduler.timesteps.to(noise.device)), scheduler.timesteps.tolist(), strict=True):
        model_output = denoise(scheduler.scale_model_input(latents, at), timestep)
        if first:
            alpha_bar = noise.new_full((len(noise),), scheduler.alphas_cumprod[at].item())
            clean = to_clean(model_output, noise, alpha_bar, scheduler.config.prediction_type)
            latents = add_noise(clean, noise, alpha_bar)
            model_output = target(clean, noise, alpha_bar, scheduler.config.prediction_type)
            first = False
        latents = scheduler.step(model_output, at, latents, return_dict=False)[0]
    return latents


def sample_flow(
    denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, num_steps: int, shift: float, progress: Callable = iter
) -> Tensor:
    """Euler steps of a rectified flow from `noise` at time 1 down to 0, with evenly spread times that are shifted after."""
    times = shifted(torch.linspace(1, 0, num_steps + 1, device=noise.device), shift)
    latents = noise
    for i in progress(range(num_steps)):
        latents = latents + (times[i + 1] - times[i]) * denoise(latents, times[i])
    return latents
