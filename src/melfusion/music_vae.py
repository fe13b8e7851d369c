"""MusicVAE: log_mel (B, 1, T, F) ⇄ latents (B, C, T/r, F/r) with unit variance per channel; trains itself."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torchmetrics import MeanMetric

from melfusion.audio import LOG_FLOOR
from melfusion.batch import MusicBatch
from melfusion.optim import TrainedModule


class MusicVAE(TrainedModule):
    """diffusers' AutoencoderKL over log-mels.

    Args:
        autoencoder: the network. Where it has p² input channels it sees patches: p×p bins side by side as channels.
        log_mel: waveform → log_mel, used by training only.
        mel_mean, mel_std: the network sees (log_mel - mel_mean) / mel_std.
        optim, max_steps: OptimConfig and the length of the schedule, needed by training only.

    Latents are (z - latent_mean) / latent_std per channel; both are measured on the train split and stored.
    """

    def __init__(self, autoencoder: AutoencoderKL, log_mel: nn.Module | None = None, mel_mean: float = 0.0,
                 mel_std: float = 1.0, kl_weight: float = 1e-4, optim: Any = None, max_steps: int | None = None):  # fmt: skip
        super().__init__()
        self.autoencoder, self.log_mel = autoencoder, log_mel
        self.kl_weight, self.optim, self.max_steps = kl_weight, optim, max_steps
        self.patch_size = math.isqrt(autoencoder.config.in_channels)
        channels = autoencoder.config.latent_channels
        scale = autoencoder.config.scaling_factor
        self.register_buffer("mel_mean", torch.tensor(float(mel_mean)))
        self.register_buffer("mel_std", torch.tensor(float(mel_std)))
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.full((channels,), 1.0 / scale))
        self.val_loss, self.val_l1 = MeanMetric(), MeanMetric()

    @property
    def downsampling(self) -> int:
        return self.patch_size * 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    def posterior(self, log_mel: Tensor) -> DiagonalGaussianDistribution:
        """log_mel in units of mel_std → q(z | log_mel)."""
        return self.autoencoder.encode(F.pixel_unshuffle(log_mel, self.patch_size)).latent_dist

    def reconstruct(self, z: Tensor) -> Tensor:
        """z as the network has it → log_mel in units of mel_std."""
        return F.pixel_shuffle(self.autoencoder.decode(z).sample, self.patch_size)

    def encode_moments(self, log_mel: Tensor) -> Tensor:
        """log_mel → (B, 2C, T/r, F/r): mean and log-variance before normalisation (what precompute stores)."""
        return self.posterior((log_mel - self.mel_mean) / self.mel_std).parameters

    def sample_latents(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Moments → normalised latents; `noise` (B, C, T/r, F/r) draws from the posterior, None takes its mean."""
        mean, log_variance = moments.chunk(2, dim=1)
        z = mean if noise is None else mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise
        return (z - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def encode(self, log_mel: Tensor, noise: Tensor | None = None) -> Tensor:
        """log_mel → normalised latents."""
        return self.sample_latents(self.encode_moments(log_mel), noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents → log_mel, never below the front end's floor."""
        z = latents * self.latent_std[:, None, None] + self.latent_mean[:, None, None]
        mel = self.reconstruct(z) * self.mel_std + self.mel_mean
        return mel.clamp(min=torch.tensor(LOG_FLOOR).log().item())

    def losses(self, batch: MusicBatch) -> tuple[Tensor, Tensor, Tensor]:
        """(reconstruction L1 in units of mel_std, KL per latent element in nats, log_mel L1 in nats) of a batch."""
        wanted = (self.log_mel(batch.waveform) - self.mel_mean) / self.mel_std
        posterior = self.posterior(wanted)
        z = posterior.mean + posterior.std * batch.draws["vae_noise"]
        l1 = (self.reconstruct(z) - wanted).abs().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return l1, kl, l1.detach() * self.mel_std

    def training_step(self, batch: MusicBatch, batch_idx: int) -> Tensor:
        l1, kl, nats = self.losses(batch)
        loss = l1 + self.kl_weight * kl
        self.log_loss(loss, len(batch))
        self.log_dict({"train/kl": kl, "train/log_mel_l1": nats}, batch_size=len(batch))
        return loss

    def validation_step(self, batch: MusicBatch, batch_idx: int) -> None:
        l1, kl, nats = self.losses(batch)
        self.val_loss.update(l1 + self.kl_weight * kl, len(batch))
        self.val_l1.update(nats, len(batch))
        self.log_dict({"val/loss": self.val_loss, "val/log_mel_l1": self.val_l1}, prog_bar=True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.autoencoder.parameters())}]

    @torch.no_grad()
    def measure_latents(self, batches: Any) -> None:
        """Set latent_mean and latent_std (C,) from batches with waveforms, in float64."""
        total = squares = count = 0.0
        for batch in batches:
            moments = self.encode_moments(self.log_mel(batch.waveform.to(self.device)))
            mean, log_variance = moments.double().chunk(2, dim=1)
            total = total + mean.sum((0, 2, 3))
            squares = squares + (mean.square() + log_variance.clamp(-30, 20).exp()).sum((0, 2, 3))
            count += mean.numel() / mean.shape[1]
        self.latent_mean.copy_(total / count)
        self.latent_std.copy_((squares / count - (total / count).square()).sqrt())
