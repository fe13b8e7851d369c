"""Samplers, DDIM inversion and guidance: pure functions of a denoise callable `(latents, timestep, …) → model_output`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from melfusion.batch import Conditioning, join
from melfusion.diffusion import add_noise, ddim_step, target, to_clean, to_epsilon
from melfusion.schema import DiffusionConfig

# First-order DPM-Solver++ is DDIM. diffusers' own DDIMScheduler steps by 1000 // n whatever the spacing, so that it starts
# at the wrong noise at 400 steps; and without λ-uniform steps the last second-order move leaves noise behind.
SAMPLERS = {
    "ddim": {"solver_order": 1, "final_sigmas_type": "sigma_min"},
    "dpm": {"solver_order": 2, "use_lu_lambdas": True},
}


def make_scheduler(sampler: str, config: DiffusionConfig) -> DPMSolverMultistepScheduler:
    """diffusers' scheduler of that name on the training schedule."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=config.num_train_timesteps, beta_start=config.beta_start, beta_end=config.beta_end,
        beta_schedule=config.beta_schedule, prediction_type=config.prediction_type, algorithm_type="dpmsolver++",
        **SAMPLERS[sampler],
    )  # fmt: skip


def sample(denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, scheduler, num_inference_steps: int,
           progress: Callable = iter, from_pure_noise: bool = False) -> Tensor:  # fmt: skip
    """Start from `noise` (B, C, T, F) and follow the scheduler; returns latents.

    from_pure_noise: the network was trained to expect it at the last timestep (`diffusion.pure_noise_share`). What it makes
        of the noise there is then put under it, as at that timestep x_0 is, before the scheduler's first move.
    """
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    latents, first = noise * scheduler.init_noise_sigma, from_pure_noise
    for timestep in progress(scheduler.timesteps):
        model_output = denoise(scheduler.scale_model_input(latents, timestep), timestep)
        if first:
            alpha_bar = scheduler.alphas_cumprod[int(timestep)].to(noise).expand(len(noise))
            clean = to_clean(model_output, noise, alpha_bar, scheduler.config.prediction_type)
            latents = add_noise(clean, noise, alpha_bar)
            model_output = target(clean, noise, alpha_bar, scheduler.config.prediction_type)
            first = False
        latents = scheduler.step(model_output, timestep, latents, return_dict=False)[0]
    return latents


def guidance_weights(s_text: float, s_image: float) -> dict[str, float]:
    """Weights of the branches of ε = ε(∅,∅) + s_T·[ε(T,∅) - ε(∅,∅)] + s_I·[ε(T,I) - ε(T,∅)].

    Branches are "null" (∅,∅), "text" (T,∅), "full" (T,I); those of weight 0 are left out, so one scale is the
    paper's two passes and scale 1 is a single conditional pass.
    """
    weights = {"null": 1 - s_text, "text": s_text - s_image, "full": s_image}
    return {branch: weight for branch, weight in weights.items() if weight != 0}


def guided(denoise: Callable[[Tensor, Tensor, Conditioning], Tensor], conditioning: Conditioning, null: Conditioning,
           s_text: float, s_image: float) -> Callable[[Tensor, Tensor], Tensor]:  # fmt: skip
    """A denoise callable under classifier-free guidance; `null` holds ∅ (or negative) text. One batch for all branches.

    Where no sample has a picture "full" is "text", and where text and ∅ text are equal "text" is "null":
    equal branches run once.
    """
    branches = {"full": conditioning, "text": conditioning.without_image(), "null": null.without_image()}
    weights = guidance_weights(s_text, s_image)
    if not conditioning.has_image.any():
        _fold(weights, "full", "text")
    if torch.equal(conditioning.text_embeds, null.text_embeds) and torch.equal(conditioning.text_mask, null.text_mask):
        _fold(weights, "text", "null")
    joint = join([branches[name] for name in weights])

    def guided_denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        n = len(weights)
        outputs = denoise(latents.repeat(n, 1, 1, 1), timestep.expand(n * len(latents)), joint).chunk(n)
        if n == 1:
            return outputs[0]
        return sum(w * o for w, o in zip(weights.values(), outputs, strict=True))

    return guided_denoise


def _fold(weights: dict[str, float], branch: str, into: str) -> None:
    if branch in weights:
        total = weights.pop(branch) + weights.get(into, 0)
        weights.pop(into, None)
        if total != 0:
            weights[into] = total


def ddim_invert(denoise: Callable[[Tensor, Tensor], Tensor], latents: Tensor, grid: Tensor, alpha_bar: Tensor,
                prediction_type: str = "epsilon") -> Tensor:  # fmt: skip
    """Deterministic DDIM run from clean latents (B, C, h, w) up the grid (G,), grid[0] = 0 being the clean latent.

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


def ddim_reverse(denoise: Callable[[Tensor, Tensor], Tensor], latents: Tensor, grid: Tensor, alpha_bar: Tensor,
                 prediction_type: str = "epsilon") -> Tensor:  # fmt: skip
    """The way back down the grid from latents at grid[-1] to the clean latents (B, C, h, w)."""
    for t, t_to in zip(grid.flip(0)[:-1].tolist(), grid.flip(0)[1:].tolist(), strict=True):
        a, a_to = alpha_bar[t].expand(len(latents)), alpha_bar[t_to].expand(len(latents))
        timesteps = torch.full((len(latents),), t, device=latents.device)
        epsilon = to_epsilon(denoise(latents, timesteps), latents, a, prediction_type)
        latents = ddim_step(latents, epsilon, a, a_to)
    return latents
