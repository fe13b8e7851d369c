"""Diffusion mathematics as pure functions. ᾱ is the cumulative product of 1-β; SNR = ᾱ / (1-ᾱ).

DDPM: Ho et al. 2020 (arXiv 2006.11239); DDIM: Song et al. 2021 (2010.02502); v: Salimans & Ho 2022 (2202.00512);
min-SNR: Hang et al. 2023 (2303.09556); pure noise at the end: Lin et al. 2024 (2305.08891); MeLFusion: Chowdhury et al.
2024 (2406.04673).
"""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from melfusion.models.diffusion.options import DiffusionConfig


def alphas_cumprod(config: DiffusionConfig) -> Tensor:
    """(num_train_timesteps,) ᾱ_t."""
    return DDPMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
    ).alphas_cumprod


def expand(values: Tensor, like: Tensor) -> Tensor:
    """(B,) → (B, 1, …) with as many axes as `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _expand(values: Tensor, like: Tensor) -> Tensor:
    return expand(values.to(like.dtype), like)


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε (DDPM eq. 4); alpha_bar (B,)."""
    return _expand(alpha_bar.sqrt(), latents) * latents + _expand((1 - alpha_bar).sqrt(), latents) * noise


def target(latents: Tensor, noise: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """What the network predicts: ε (MeLFusion eq. 7), or v = √ᾱ ε - √(1-ᾱ) x_0 (Salimans & Ho, app. D)."""
    if prediction_type == "epsilon":
        return noise
    return _expand(alpha_bar.sqrt(), latents) * noise - _expand((1 - alpha_bar).sqrt(), latents) * latents


def to_epsilon(model_output: Tensor, noisy: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """Network output → ε; for v: ε = √ᾱ v + √(1-ᾱ) x_t."""
    if prediction_type == "epsilon":
        return model_output
    return _expand(alpha_bar.sqrt(), noisy) * model_output + _expand((1 - alpha_bar).sqrt(), noisy) * noisy


def to_clean(model_output: Tensor, noisy: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """Network output → x_0 (DDPM eq. 4, solved for it)."""
    epsilon = to_epsilon(model_output, noisy, alpha_bar, prediction_type)
    return (noisy - _expand((1 - alpha_bar).sqrt(), noisy) * epsilon) / _expand(alpha_bar.sqrt(), noisy)


def from_clean(clean: Tensor, noisy: Tensor, alpha_bar: Tensor, prediction_type: str) -> Tensor:
    """x_0 → the network output that stands for it at x_t: the inverse of `to_clean`."""
    epsilon = (noisy - _expand(alpha_bar.sqrt(), noisy) * clean) / _expand((1 - alpha_bar).sqrt(), noisy)
    return target(clean, epsilon, alpha_bar, prediction_type)


def min_snr_weight(alpha_bar: Tensor, gamma: float | None, prediction_type: str) -> Tensor:
    """(B,) loss weights: min(SNR, γ)/SNR for ε and min(SNR, γ)/(SNR+1) for v (Hang et al., §3.4); ones without γ."""
    if gamma is None:
        return torch.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=gamma) / (snr if prediction_type == "epsilon" else snr + 1)


def loss_space_weight(alpha_bar: Tensor, loss_space: str, prediction_type: str) -> Tensor:
    """(B,) weights that turn the output's squared error into that of v (Salimans & Ho 2022, §4: Δv = -Δε / √ᾱ).

    At high noise x hardly depends on the clip, and there its global form is decided, with what the picture says. The error of
    ε gives that little weight. "output" changes no weight.
    """
    if loss_space == "v" and prediction_type == "epsilon":
        return 1 / alpha_bar
    return torch.ones_like(alpha_bar)


def sample_losses(model_output: Tensor, wanted: Tensor) -> Tensor:
    """(B,) mean squared error of each sample on its own: opposite errors of two samples never cancel."""
    return (model_output.float() - wanted.float()).square().flatten(1).mean(1)


def timesteps_from_uniform(uniform: Tensor, num_train_timesteps: int, last_share: float = 0.0) -> Tensor:
    """(B,) numbers in [0, 1) → int64 timesteps; `last_share` of them are the last, the others spread evenly."""
    return (uniform / (1 - last_share) * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)


def noise_hiding(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """The ε' with which x_0 is noised to `noise` itself, so that nothing of it is left: √ᾱ x_0 + √(1-ᾱ) ε' = noise.

    Sampling starts from pure noise. The last x_t of training still shows how loud x_0 is in each band. A network that learned
    to read it there takes pure noise for an average clip (Lin et al., §3.1).
    """
    return (noise - _expand(alpha_bar.sqrt(), latents) * latents) / _expand((1 - alpha_bar).sqrt(), latents)


def shifted(time: Tensor, shift: float) -> Tensor:
    """Times of a flow in [0, 1], moved towards the noise (Esser et al. 2024, eq. 23)."""
    return shift * time / (1 + (shift - 1) * time)


def between(latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t ε of a rectified flow; time (B,)."""
    time = _expand(time, latents)
    return (1 - time) * latents + time * noise


def stratified_timesteps(position: Tensor, num_items: int, num_train_timesteps: int) -> Tensor:
    """Validation: item i of n always gets the middle of its own stratum of [0, T), spread by a fixed stride."""
    stride = next(s for s in range(num_items // 2 + 1, 2 * num_items + 2) if _coprime(s, num_items))
    return (((position * stride) % num_items + 0.5) / num_items * num_train_timesteps).long()


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


def ddim_step(noisy: Tensor, epsilon: Tensor, alpha_bar: Tensor, alpha_bar_to: Tensor) -> Tensor:
    """Deterministic DDIM move from ᾱ to ᾱ_to, in either direction (Song et al. eq. 12 with σ = 0 and its reverse)."""
    return add_noise(to_clean(epsilon, noisy, alpha_bar, "epsilon"), epsilon, alpha_bar_to)


def drop_masks(uniform: Tensor, text: float, image: float, both: float) -> tuple[Tensor, Tensor]:
    """One uniform number per sample → (keep_text, keep_image) (B,) bool, covering every branch that guidance uses."""
    drop_both = uniform < both
    drop_text = drop_both | ((uniform >= both) & (uniform < both + text))
    drop_image = drop_both | ((uniform >= both + text) & (uniform < both + text + image))
    return ~drop_text, ~drop_image
