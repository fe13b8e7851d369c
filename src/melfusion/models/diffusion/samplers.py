"""Samplers, DDIM inversion and guidance: pure functions of a denoise callable `(latents, timestep, …) → model_output`."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, EDMDPMSolverMultistepScheduler
from torch import Tensor

from melfusion.errors import ConfigError
from melfusion.models.diffusion.editing import Edit, schedule
from melfusion.models.diffusion.options import CosineConfig, DiffusionConfig
from melfusion.models.diffusion.process import add_noise, between, shifted, target, to_clean

# First-order DPM-Solver++ is DDIM. diffusers' own DDIMScheduler steps by 1000 // n whatever the spacing, so that it starts
# at the wrong noise at 400 steps; and without λ-uniform steps the last second-order move leaves noise behind.
SAMPLERS: dict[str, dict[str, Any]] = {
    "ddim": {"solver_order": 1, "final_sigmas_type": "sigma_min"},
    "dpm": {"solver_order": 2, "use_lu_lambdas": True},
    "published": {},  # the scheduler that came with the weights, with all its settings
}


def make_scheduler(sampler: str, config: DiffusionConfig, published: Any = None) -> Any:
    """diffusers' scheduler of that name on the training schedule, or a new one like the published."""
    if sampler == "published":
        return again(published)
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
    generators: list[torch.Generator] | None = None,
    edit: Edit | None = None,
) -> Tensor:
    """Start from `noise` (B, C, T, F) and follow the scheduler; returns latents.

    generators: of each sample's own noise, where the scheduler draws more of it.
    from_pure_noise: the network was trained to expect it at the last timestep (`diffusion.pure_noise_share`). What it makes
        of the noise there is then put under it, as at that timestep x_0 is, before the scheduler's first move.
    edit: what is known of the latents.
    """
    whole, skipped = schedule(num_inference_steps, edit, scheduler.config.num_train_timesteps)
    scheduler.set_timesteps(whole)  # on the host: it looks timesteps up, and the device would have to be waited for
    draws = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    timesteps, kind = scheduler.timesteps[skipped:], scheduler.config.prediction_type
    latents = noise * scheduler.init_noise_sigma if edit is None or not skipped else _begun(scheduler, skipped, edit, noise)
    first = from_pure_noise and not skipped
    for step, (timestep, at) in enumerate(zip(progress(timesteps.to(noise.device)), timesteps.tolist(), strict=True)):
        noisy = scheduler.scale_model_input(latents, at)
        model_output = denoise(noisy, timestep)
        if first:
            alpha_bar = noise.new_full((len(noise),), scheduler.alphas_cumprod[at].item())
            clean = to_clean(model_output, noise, alpha_bar, kind)
            clean = clean if edit is None else edit.keep(clean)
            latents = add_noise(clean, noise, alpha_bar)
            model_output = target(clean, noise, alpha_bar, kind)
            first = False
        elif edit is not None:
            model_output = edit.imposed(model_output, noisy, _alpha_bar(scheduler, skipped + step, noise), kind)
        latents = scheduler.step(model_output, at, latents, return_dict=False, **draws)[0]
    return latents if edit is None else edit.keep(latents)  # some samplers leave noise behind


def _alpha_bar(scheduler: Any, step: int, like: Tensor) -> Tensor:
    """(B,) ᾱ as the scheduler itself counts it at a step. Those with a list of σ/α do so between the timesteps, too."""
    if getattr(scheduler, "sigmas", None) is not None:
        return like.new_full((len(like),), 1 / (1 + float(scheduler.sigmas[step]) ** 2))
    return like.new_full((len(like),), scheduler.alphas_cumprod[int(scheduler.timesteps[step])].item())


def _begun(scheduler: Any, step: int, edit: Edit, noise: Tensor) -> Tensor:
    """The latents at which the scheduler goes on at a step: those of `edit`, with noise, in the scheduler's own scale."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(step)
    alpha_bar = _alpha_bar(scheduler, step, noise)
    started = edit.started(noise, alpha_bar)
    keeps_variance = float(scheduler.init_noise_sigma) == 1  # others have x_0 + σ/α · ε
    return started if keeps_variance else started / alpha_bar.sqrt().reshape(-1, *[1] * (noise.ndim - 1))


def again(scheduler: Any) -> Any:
    """A new scheduler with the same settings: they keep state while they sample."""
    if scheduler is None:
        raise ConfigError(
            "sampling.sampler=published follows the scheduler that came with denoiser.weights, and there is none: give the folder "
            "of a whole pipeline, or another sampler."
        )
    return type(scheduler).from_config(scheduler.config)


class CosineODE(EDMDPMSolverMultistepScheduler):
    """DPM-Solver++ (2M) without new noise, for a network that was trained on α = cos(tπ/2)."""

    def precondition_noise(self, sigma: Any) -> Tensor:
        """σ/α → t, as CosineDPMSolverMultistepScheduler has it."""
        return torch.as_tensor(sigma).atan() / math.pi * 2


def cosine_scheduler(sampler: str, config: CosineConfig, published: Any = None) -> Any:
    """A scheduler in σ/α, which takes v; ConfigError where a package is missing."""
    if sampler == "published":
        return again(published)
    sigmas = {"sigma_min": config.sigma_min, "sigma_max": config.sigma_max, "sigma_schedule": "exponential"}
    if sampler == "dpm":
        return CosineODE(**sigmas, sigma_data=1.0, prediction_type="v_prediction", num_train_timesteps=config.num_train_timesteps)
    if importlib.util.find_spec("torchsde") is None:
        raise ConfigError("sampling.sampler=dpm_sde needs the package torchsde: run `pip install torchsde`, or give dpm.")
    from diffusers import CosineDPMSolverMultistepScheduler

    return CosineDPMSolverMultistepScheduler(**sigmas, num_train_timesteps=config.num_train_timesteps)


def flow_times(num_steps: int, shift: float, logsnr: list[float] | None = None) -> Tensor:
    """(num_steps + 1,) times of a flow from 1 to 0: evenly spread, or even in log-SNR from the noise on; shifted after."""
    times = torch.linspace(1, 0, num_steps + 1)
    if logsnr is not None:
        low, high = logsnr
        times = torch.sigmoid(times * (high - low) - high)
        times[0], times[-1] = 1, 0
    return shifted(times, shift)


def sample_flow(
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    num_steps: int,
    shift: float,
    progress: Callable = iter,
    logsnr: list[float] | None = None,
    generators: list[torch.Generator] | None = None,
    edit: Edit | None = None,
) -> Tensor:
    """From `noise` at time 1 down to 0 along a rectified flow, by Euler steps; with `generators`, one a sample, by ping-pong.

    A ping-pong step goes all the way to x_0 and back to the next time with new noise, for networks that are distilled for it.
    """
    whole, skipped = schedule(num_steps, edit)
    times = flow_times(whole, shift, logsnr)[skipped:].to(noise.device)
    latents = noise if edit is None or not skipped else between(edit.latents.to(noise).expand_as(noise), noise, times[:1])
    for i in progress(range(num_steps)):
        velocity = denoise(latents, times[i])
        if edit is not None and edit.knows:
            velocity = (latents - edit.keep(latents - times[i] * velocity)) / times[i]
        if generators is None:
            latents = latents + (times[i + 1] - times[i]) * velocity
        else:
            clean = latents - times[i] * velocity
            fresh = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators]).to(clean)
            latents = (1 - times[i + 1]) * clean + times[i + 1] * fresh
    return latents if edit is None else edit.keep(latents)
