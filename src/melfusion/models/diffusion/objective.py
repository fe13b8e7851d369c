"""Objective: at which times a denoiser trains, what it predicts there, and how music is drawn from it.

Time runs from clean latents to noise. A `denoise` callable takes noisy latents and times (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from melfusion.models.diffusion import process
from melfusion.models.diffusion.editing import Edit
from melfusion.models.diffusion.guidance import Combine, Projected, weighted
from melfusion.models.diffusion.options import CosineConfig, DiffusionConfig, FlowConfig
from melfusion.models.diffusion.samplers import cosine_scheduler, make_scheduler, sample, sample_flow
from melfusion.randomness import torch_generators

Denoise = Callable[[Tensor, Tensor], Tensor]


class Objective(nn.Module):
    """Base of all objectives.

    Args:
        num_timesteps: T, into which the time is divided where a picture is read and where losses are reported by time.
    """

    def __init__(self, num_timesteps: int):
        super().__init__()
        self.num_timesteps = num_timesteps

    def times(self, uniform: Tensor) -> Tensor:
        """(B,) numbers in [0, 1) → times to train at."""
        raise NotImplementedError

    def stratified(self, position: Tensor, count: int) -> Tensor:
        """Times of validation: item i of `count` always has its own stratum."""
        raise NotImplementedError

    def steps(self, times: Tensor) -> Tensor:
        """(B,) int64 in [0, T): the times as an image model counts them."""
        raise NotImplementedError

    def losses(self, denoise: Denoise, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """(B,) weighted losses, each sample's own."""
        raise NotImplementedError

    def guidance(self) -> Combine:
        """How the outputs under several conditions become one, for one clip's way from noise to latents."""
        return weighted

    def sample(
        self,
        denoise: Denoise,
        noise: Tensor,
        num_steps: int,
        progress: Callable = iter,
        seeds: list[int] | None = None,
        edit: Edit | None = None,
    ) -> Tensor:
        """Noise (B, C, T, F) or (B, C, T) → latents. What is drawn on the way comes from each sample's own seed.

        `edit`: what is known of the latents.
        """
        raise NotImplementedError

    def drawn(self, seeds: list[int] | None, noise: Tensor) -> list[torch.Generator]:
        """One generator a sample."""
        return torch_generators(list(range(len(noise))) if seeds is None else seeds, "sampler")


class Diffusion(Objective):
    """Discrete diffusion that predicts ε (MeLFusion eq. 7) or v.

    Args:
        sampler: key of SAMPLERS.
        published: the scheduler that came with the weights, for the sampler of that name.
    """

    alpha_bar: Tensor

    def __init__(self, config: DiffusionConfig, sampler: str, published: Any = None):
        super().__init__(config.num_train_timesteps)
        self.config, self.sampler, self.published = config, sampler, published
        self.register_buffer("alpha_bar", process.alphas_cumprod(config), persistent=False)

    def times(self, uniform: Tensor) -> Tensor:
        return process.timesteps_from_uniform(uniform, self.num_timesteps, self.config.pure_noise_share)

    def stratified(self, position: Tensor, count: int) -> Tensor:
        return process.stratified_timesteps(position, count, self.num_timesteps)

    def steps(self, times: Tensor) -> Tensor:
        return times

    def losses(self, denoise: Denoise, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        c, alpha_bar = self.config, self.alpha_bar[times]
        if c.pure_noise_share:
            last = process.expand(times == self.num_timesteps - 1, latents)
            noise = torch.where(last, process.noise_hiding(latents, noise, alpha_bar), noise)
        output = denoise(process.add_noise(latents, noise, alpha_bar), times)
        wanted = process.target(latents, noise, alpha_bar, c.prediction_type)
        kind = "v_prediction" if c.loss_space == "v" else c.prediction_type  # of the error that min-SNR weighs
        weights = process.min_snr_weight(alpha_bar, c.min_snr_gamma, kind)
        weights = weights * process.loss_space_weight(alpha_bar, c.loss_space, c.prediction_type)
        return process.sample_losses(output, wanted) * weights

    def sample(
        self,
        denoise: Denoise,
        noise: Tensor,
        num_steps: int,
        progress: Callable = iter,
        seeds: list[int] | None = None,
        edit: Edit | None = None,
    ) -> Tensor:
        scheduler = make_scheduler(self.sampler, self.config, self.published)
        pure = bool(self.config.pure_noise_share)
        return sample(denoise, noise, scheduler, num_steps, progress, pure, self.drawn(seeds, noise), edit)


class Cosine(Objective):
    """x_t = cos(tπ/2) x_0 + sin(tπ/2) ε for t in (0, 1]; the network predicts v (Salimans & Ho 2022, arXiv 2202.00512, app. D).

    Stable Audio Open's objective (Evans et al. 2024, arXiv 2407.14358). Sampling is in σ/α = tan(tπ/2).
    """

    def __init__(self, config: CosineConfig, sampler: str, published: Any = None):
        super().__init__(config.num_train_timesteps)
        self.scheduler = partial(cosine_scheduler, sampler, config, published)
        with torch.device("cpu"):  # whatever the system is built on
            self.scheduler()  # what is missing is said now

    def times(self, uniform: Tensor) -> Tensor:
        return 1 - uniform  # in (0, 1]

    def stratified(self, position: Tensor, count: int) -> Tensor:
        return (process.stratified_timesteps(position, count, self.num_timesteps) + 0.5) / self.num_timesteps

    def steps(self, times: Tensor) -> Tensor:
        return (times * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)

    def losses(self, denoise: Denoise, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        alpha_bar = (times * math.pi / 2).cos().square()
        output = denoise(process.add_noise(latents, noise, alpha_bar), times)
        return process.sample_losses(output, process.target(latents, noise, alpha_bar, "v_prediction"))

    def sample(
        self,
        denoise: Denoise,
        noise: Tensor,
        num_steps: int,
        progress: Callable = iter,
        seeds: list[int] | None = None,
        edit: Edit | None = None,
    ) -> Tensor:
        return sample(denoise, noise, self.scheduler(), num_steps, progress, generators=self.drawn(seeds, noise), edit=edit)


class RectifiedFlow(Objective):
    """x_t = (1 - t) x_0 + t ε; the network predicts the velocity ε - x_0 (Liu et al. 2023, arXiv 2209.03003).

    The time is shifted, s t / (1 + (s - 1) t), in training and in sampling alike: a larger s spends more of both near the noise
    (Esser et al. 2024, arXiv 2403.03206, eq. 23).
    """

    def __init__(self, config: FlowConfig, sampler: str, published: Any = None):
        super().__init__(config.num_train_timesteps)
        self.shift, self.logsnr, self.sampler, self.guided_by = config.shift, config.logsnr, sampler, config.guidance

    def guidance(self) -> Combine:
        return Projected() if self.guided_by == "apg" else weighted

    def times(self, uniform: Tensor) -> Tensor:
        return process.shifted(1 - uniform, self.shift)  # in (0, 1]

    def stratified(self, position: Tensor, count: int) -> Tensor:
        strata = process.stratified_timesteps(position, count, self.num_timesteps)
        return process.shifted((strata + 0.5) / self.num_timesteps, self.shift)

    def steps(self, times: Tensor) -> Tensor:
        return (times * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)

    def losses(self, denoise: Denoise, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        output = denoise(process.between(latents, noise, times), times)
        return process.sample_losses(output, noise - latents)

    def sample(
        self,
        denoise: Denoise,
        noise: Tensor,
        num_steps: int,
        progress: Callable = iter,
        seeds: list[int] | None = None,
        edit: Edit | None = None,
    ) -> Tensor:
        generators = self.drawn(seeds, noise) if self.sampler == "ping_pong" else None
        return sample_flow(denoise, noise, num_steps, self.shift, progress, self.logsnr, generators, edit)


OBJECTIVES: dict[str, Callable[[Any, str, Any], Objective]] = {"diffusion": Diffusion, "flow": RectifiedFlow, "cosine": Cosine}
