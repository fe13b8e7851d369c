"""MusicVAE: log_mel (B, 1, T, F) ⇄ latents (B, C, T/r, F/r) with unit variance per channel; trains itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torchmetrics import MeanMetric

from melfusion.batch import MusicBatch, present
from melfusion.media.mel import LOG_FLOOR, LogMel, in_float32
from melfusion.models.codecs import kl
from melfusion.models.texture import Texture
from melfusion.models.trained import TrainedModule


class MusicVAE(TrainedModule):
    """diffusers' AutoencoderKL over log-mels.

    Args:
        autoencoder: the network. Where it has p² input channels it sees patches: p×p bins side by side as channels.
        log_mel: waveform → log_mel.
        mel_mean, mel_std: the network sees (log_mel - mel_mean) / mel_std.
        kl_weight, modulation_weight: of the two losses beside the L1.
        trainable: all, or on top of weights whose latents shall stay what they are, the decoder or the texture.
        texture: draws what the decoder leaves out, in `texture_steps` steps; None or 0 steps: nothing does.
        stats_items: training samples that latent_mean and latent_std are measured on after training.
        optim, max_steps: OptimConfig and the length of the schedule, needed by training only.

    Latents are (z - latent_mean) / latent_std per channel; both are measured on the train split and stored.
    """

    mel_mean: Tensor
    mel_std: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        log_mel: LogMel,
        mel_mean: float = 0.0,
        mel_std: float = 1.0,
        kl_weight: float = 1e-4,
        optim: Any = None,
        max_steps: int | None = None,
        modulation_weight: float = 0.0,
        trainable: str = "all",
        texture: Texture | None = None,
        texture_steps: int = 0,
        stats_items: int = 512,
    ):
        super().__init__()
        self.autoencoder, self.log_mel = autoencoder, log_mel
        self.kl_weight, self.modulation_weight, self.optim, self.max_steps = kl_weight, modulation_weight, optim, max_steps
        self.trainable, self.texture, self.texture_steps, self.stats_items = trainable, texture, texture_steps, stats_items
        still = {"decoder": (autoencoder.encoder, autoencoder.quant_conv), "texture": (autoencoder,)}
        for network in still.get(trainable, ()):
            network.requires_grad_(False)
        self.patch_size = math.isqrt(autoencoder.config.in_channels)
        self.channels = autoencoder.config.latent_channels
        scale = autoencoder.config.scaling_factor
        self.register_buffer("mel_mean", torch.tensor(float(mel_mean)))
        self.register_buffer("mel_std", torch.tensor(float(mel_std)))
        self.register_buffer("latent_mean", torch.zeros(self.channels))
        self.register_buffer("latent_std", torch.full((self.channels,), 1.0 / scale))
        self.val_loss, self.val_l1 = MeanMetric(), MeanMetric()

    @property
    def downsampling(self) -> int:
        return self.patch_size * 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    def latent_shape(self, frames: int, bins: int) -> tuple[int, int, int]:
        """(C, T/r, F/r) of a log_mel's latents."""
        return self.channels, frames // self.downsampling, bins // self.downsampling

    def posterior(self, log_mel: Tensor) -> DiagonalGaussianDistribution:
        """log_mel in units of mel_std → q(z | log_mel)."""
        return self.autoencoder.encode(F.pixel_unshuffle(log_mel, self.patch_size)).latent_dist

    def reconstruct(self, z: Tensor) -> Tensor:
        """z as the network has it → log_mel in units of mel_std."""
        return F.pixel_shuffle(self.autoencoder.decode(z).sample, self.patch_size)

    def encode_moments(self, log_mel: Tensor, window: int | None = None) -> Tensor:
        """log_mel → (B, 2C, T/r, F/r): mean and log-variance before normalisation (what precompute stores).

        window: longer clips go in windows of so many latent frames, to the same end. None: at once.
        """
        scaled = (log_mel - self.mel_mean) / self.mel_std
        if window is None or log_mel.shape[2] <= window * self.downsampling:
            return self.posterior(scaled).parameters
        return kl.encode(self.autoencoder, F.pixel_unshuffle(scaled, self.patch_size), window)

    def sample_latents(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Moments → normalised latents; `noise` (B, C, T/r, F/r) draws from the posterior, None takes its mean."""
        mean, log_variance = moments.chunk(2, dim=1)
        z = mean if noise is None else mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise
        return (z - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def encode(self, log_mel: Tensor, noise: Tensor | None = None) -> Tensor:
        """log_mel → normalised latents."""
        return self.sample_latents(self.encode_moments(log_mel), noise)

    def decode(self, latents: Tensor, window: int | None = None) -> Tensor:
        """Normalised latents → log_mel with its texture, never below the front end's floor; `window` as in `encode_moments`."""
        z = latents * self.latent_std[:, None, None] + self.latent_mean[:, None, None]
        if window is None or z.shape[2] <= window:
            made = self.reconstruct(z)
        else:
            made = F.pixel_shuffle(kl.decode(self.autoencoder, z, window), self.patch_size)
        if self.texture is not None and self.texture_steps:
            made = made + self.texture(made, latents, self.texture_steps, window)
        mel = made * self.mel_std + self.mel_mean
        return mel.clamp(min=torch.tensor(LOG_FLOOR).log().item())

    def losses(self, batch: MusicBatch) -> dict[str, Tensor]:
        """Of a batch: loss, l1 and modulation in units of mel_std, kl per latent element and log_mel_l1 in nats.

        Where the texture trains, the loss is its own, and log_mel_l1 that of the decoder before it.
        """
        wanted = (self.log_mel(batch.waveform) - self.mel_mean) / self.mel_std
        posterior = self.posterior(wanted)
        z = posterior.mean + posterior.std * batch.draws["vae_noise"]
        made = self.reconstruct(z)
        if self.trainable == "texture" and self.texture is not None:
            latents = (z - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]
            loss = self.texture.loss(wanted - made, made, latents, batch.draws["timestep"], batch.draws["noise"])
            return {"loss": loss, "log_mel_l1": (made - wanted).abs().mean() * self.mel_std}
        l1, kl = (made - wanted).abs().mean(), posterior.kl().mean() / posterior.mean[0].numel()
        modulation = modulation_distance(made, wanted) if self.modulation_weight else l1.new_zeros(())
        loss = l1 + self.kl_weight * kl + self.modulation_weight * modulation
        return {"loss": loss, "l1": l1, "kl": kl, "modulation": modulation, "log_mel_l1": l1.detach() * self.mel_std}

    def training_step(self, batch: MusicBatch, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        self.log_loss(losses["loss"], len(batch))
        hidden = ("loss", "l1", *([] if self.modulation_weight else ["modulation"]))
        self.log_dict({f"train/{name}": value for name, value in losses.items() if name not in hidden}, batch_size=len(batch))
        return losses["loss"]

    def validation_step(self, batch: MusicBatch, batch_idx: int) -> None:
        losses = self.losses(batch)
        self.val_loss.update(losses["loss"], len(batch))
        self.val_l1.update(losses["log_mel_l1"], len(batch))
        self.log_dict({"val/loss": self.val_loss, "val/log_mel_l1": self.val_l1}, prog_bar=True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def latent_state(self) -> dict[str, Tensor]:
        """All that latents depend on, by name: encoder and statistics. Any decoder and texture may follow."""
        after = ("autoencoder.decoder.", "autoencoder.post_quant", "texture.")
        return {n: t for n, t in self.state_dict().items() if not n.startswith(after)}

    def finish(self, batches: Callable[[int], Iterable[MusicBatch]]) -> None:
        """Measure the latents. A decoder or a texture alone leaves them as they were."""
        if self.trainable == "all":
            self.eval()
            self.measure_latents(batches(self.stats_items))

    @torch.no_grad()
    def measure_latents(self, batches: Iterable[MusicBatch]) -> None:
        """Set latent_mean and latent_std (C,) from batches with waveforms, in float64."""
        total = squares = torch.zeros(self.channels, dtype=torch.float64, device=self.device)
        count = 0.0
        for batch in batches:
            moments = self.encode_moments(self.log_mel(present(batch.waveform).to(self.device)))
            mean, log_variance = moments.double().chunk(2, dim=1)
            total = total + mean.sum((0, 2, 3))
            squares = squares + (mean.square() + log_variance.clamp(-30, 20).exp()).sum((0, 2, 3))
            count += mean.numel() / mean.shape[1]
        self.latent_mean.copy_(total / count)
        self.latent_std.copy_((squares / count - (total / count).square()).sqrt())


WINDOWS = (8, 16, 32, 64)  # log_mel frames


def modulation_distance(log_mel: Tensor, wanted: Tensor) -> Tensor:
    """Mean L1 between the magnitudes of short Fourier transforms along the time of each band, at several windows.

    A latent holds how fast and how deep a band is modulated, but not the phase. The L1 of the log_mel is then least for the mean,
    which has no modulation. The L1 of magnitudes is least for the right modulation, as with multi-resolution STFT losses of a
    waveform (Yamamoto et al. 2020). Both inputs are (B, 1, T, F). The transforms are scaled by 1/√window, so the result has the
    unit of the log_mel.
    """
    bands = [x.float()[:, 0].transpose(1, 2).flatten(0, 1) for x in (log_mel, wanted)]
    sizes = [size for size in WINDOWS if size <= 2 * wanted.shape[2] - 2]  # half a window is mirrored at each end
    total = wanted.new_zeros(())
    with in_float32(log_mel):
        for size in sizes:
            window = torch.hann_window(size, device=wanted.device)
            made, real = (torch.stft(x, size, size // 4, window=window, normalized=True, return_complex=True) for x in bands)
            total = total + (magnitude(made) - magnitude(real)).abs().mean()
    return total / max(1, len(sizes))


def magnitude(spectrum: Tensor) -> Tensor:
    """|spectrum|, with a finite gradient at 0."""
    return (spectrum.real.square() + spectrum.imag.square() + 1e-6).sqrt()
