"""Options of the objectives: what the denoiser learns to predict, and at which times. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from melfusion.models.options import Kind


@dataclass
class ObjectiveConfig(Kind):
    """What the denoiser learns to predict; what all objectives share."""

    kind: str = "diffusion"  # diffusion (the paper) | cosine (Stable Audio Open) | flow: a rectified flow
    num_train_timesteps: int = 1000  # timesteps of the noise schedule; of a flow: into which the time is divided
    text_drop_prob: float = 0.1  # text alone
    image_drop_prob: float = 0.1  # picture alone
    both_drop_prob: float = 0.1  # text and picture together

    SAMPLERS: ClassVar[tuple[str, ...]] = ()

    def misfit(self, config: Any) -> str | None:
        if (sampler := config.sampling.sampler) in self.SAMPLERS:
            return None
        return f"sampling.sampler={sampler} does not draw from diffusion.kind={self.kind}: give {' or '.join(self.SAMPLERS)}."


@dataclass
class DiffusionConfig(ObjectiveConfig):
    """Discrete diffusion."""

    beta_start: float = 0.00085  # β of the first timestep
    beta_end: float = 0.012  # β of the last timestep
    beta_schedule: str = "scaled_linear"  # between them; scaled_linear: √β grows linearly
    prediction_type: str = "epsilon"  # epsilon (eq. 7) | v_prediction
    loss_space: str = "output"  # output: the error of what is predicted (eq. 7) | v: the same error as one of v
    min_snr_gamma: float | None = None  # 5 in the release; null: no weighting
    pure_noise_share: float = 0.0  # of samples seen as pure noise at the last timestep, as in sampling; with loss_space v

    SAMPLERS: ClassVar[tuple[str, ...]] = ("ddim", "dpm", "published")
    TINY: ClassVar[dict[str, Any]] = {"loss_space": "output", "pure_noise_share": 0.0}

    def misfit(self, config: Any) -> str | None:
        if not 0 <= self.pure_noise_share < 1:
            return f"diffusion.pure_noise_share={self.pure_noise_share} must be at least 0 and less than 1."
        return super().misfit(config)


@dataclass
class FlowConfig(ObjectiveConfig):
    """A rectified flow."""

    shift: float = 1.0  # of its times towards the noise, in training and sampling; 1: none
    logsnr: list[float] | None = None  # sampling times evenly spread in log-SNR between these; null: in time
    guidance: str = "cfg"  # cfg: classifier-free | apg: projected, with momentum (ACE-Step's)

    SAMPLERS: ClassVar[tuple[str, ...]] = ("euler", "ping_pong")

    def misfit(self, config: Any) -> str | None:
        if not self.shift > 0:
            return f"diffusion.shift={self.shift} must be greater than 0."
        if self.logsnr is not None and (len(self.logsnr) != 2 or not self.logsnr[0] < self.logsnr[1]):
            return f"diffusion.logsnr={self.logsnr} must be two numbers, the smaller one first, or null."
        return super().misfit(config)


@dataclass
class CosineConfig(ObjectiveConfig):
    """Diffusion in continuous time with α = cos(tπ/2) and σ = sin(tπ/2); v is predicted."""

    sigma_min: float = 0.3  # σ/α where sampling ends, before its last step to 0
    sigma_max: float = 500.0  # σ/α where sampling starts

    SAMPLERS: ClassVar[tuple[str, ...]] = ("dpm_sde", "dpm", "published")

    def misfit(self, config: Any) -> str | None:
        if not 0 < self.sigma_min < self.sigma_max:
            return f"diffusion.sigma_min={self.sigma_min} must be greater than 0 and less than sigma_max={self.sigma_max}."
        return super().misfit(config)


OBJECTIVES: dict[str, type[ObjectiveConfig]] = {"diffusion": DiffusionConfig, "flow": FlowConfig, "cosine": CosineConfig}
