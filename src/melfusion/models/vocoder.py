"""Vocoder: log_mel (B, 1, T, F) → waveform (B, S). HiFi-GAN or Vocos with weights, Griffin-Lim without."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from melfusion.batch import MusicBatch, present
from melfusion.media.mel import LogMel, in_float32
from melfusion.models.trained import TrainedModule
from melfusion.models.vocos import inverse_stft


@torch.no_grad()
def corrected(waveform: Tensor, log_mel: Tensor, front_end: LogMel) -> Tensor:
    """The waveform (B, S) with its spectrogram scaled by the wanted mel over its own: each bin by the mean of its bands' ratios.

    Magnitudes alone change, at most tenfold; the phases stay the vocoder's.
    """
    with in_float32(waveform):
        spectrum = front_end.spectrum(waveform)
        parts = torch.view_as_real(spectrum)  # four times as fast as complex arithmetic, and this is where vocoding takes its time
        magnitude = torch.addcmul(parts[..., 0].square(), parts[..., 1], parts[..., 1]).sqrt_()
        ratio = (log_mel[:, 0].exp() / front_end.mel(magnitude)).clamp(0.1, 10)
        weight = front_end.filters.sum(1, keepdim=True)  # of the bands at each bin; none at 0 Hz, where nothing is scaled
        gain = nn.functional.linear(ratio, front_end.filters / weight.clamp(min=1e-6), (weight[:, 0] <= 1e-6).float())
        parts *= gain.transpose(1, 2)[..., None]
        return inverse_stft(spectrum, front_end.hop, front_end.window, front_end.reflected[0])


def levelled(waveform: Tensor) -> Tensor:
    """(B, S) → the same, where a peak is above 1 scaled down to it."""
    return waveform / waveform.abs().amax(dim=-1, keepdim=True).clamp(min=1.0)


STFT_SIZES = (512, 1024, 2048)

TRAINED_SIZES = (*STFT_SIZES, 4096)  # samples; at 16 kHz the last resolves a semitone down to 70 Hz


def spectral_distance(waveform: Tensor, wanted: Tensor, sizes: tuple[int, ...] = STFT_SIZES) -> Tensor:
    """(B,) mean over the resolutions of log-magnitude L1 (nats) plus spectral convergence (Yamamoto et al. 2020, eq. 4-5)."""
    total = waveform.new_zeros(len(waveform))
    for size in sizes:
        window = torch.hann_window(size, device=waveform.device)
        x, y = (torch.stft(w, size, size // 4, window=window, return_complex=True).abs() for w in (waveform, wanted))
        difference = (y - x).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1).clamp(min=1e-5)
        logs = ((x + 1e-4).log() - (y + 1e-4).log()).abs().mean((1, 2))
        total = total + logs + difference
    return total / len(sizes)


class Vocoder(TrainedModule):
    """log_mel → waveform in [-1, 1] by Vocos, HiFi-GAN or Griffin-Lim; a network with parameters trains here.

    Args:
        log_mel: waveform → log_mel.  corrections: how often the waveform is corrected towards the mel that was asked for.
        segment_frames, optim, max_steps: needed by training only.
    """

    def __init__(
        self,
        network: nn.Module,
        log_mel: LogMel,
        segment_frames: int = 64,
        optim: Any = None,
        max_steps: int | None = None,
        corrections: int = 0,
    ):
        super().__init__()
        self.corrections = corrections
        self.network, self.log_mel, self.segment_frames = network, log_mel, segment_frames
        self.optim, self.max_steps = optim, max_steps
        self.val_loss, self.val_l1 = MeanMetric(), MeanMetric()

    def forward(self, log_mel: Tensor) -> Tensor:
        return levelled(self.render(log_mel))

    def render(self, log_mel: Tensor) -> Tensor:
        """The waveform (B, S) at the level of the log_mel, whatever its peak."""
        waveform = self.network(log_mel).float()
        for _ in range(self.corrections):
            waveform = corrected(waveform, log_mel.float(), self.log_mel)
        return waveform

    @property
    def reach(self) -> int | None:
        """Mel frames to each side that a sample depends on; None: the whole clip."""
        seen = getattr(self.network, "reach", None)
        return None if seen is None else seen + self.corrections * 2 * math.ceil(self.log_mel.n_fft / self.log_mel.hop)

    def settings(self) -> dict[str, Tensor]:
        """What the sound of a network without weights depends on, by name."""
        return getattr(self.network, "settings", {})

    def losses(self, waveform: Tensor, log_mel: Tensor, sizes: tuple[int, ...] = STFT_SIZES) -> tuple[Tensor, Tensor]:
        """Of the waveform (B, S) and its own log_mel: (spectral distance, log_mel L1 in nats), each (B,)."""
        made = self.network(log_mel)
        l1 = (self.log_mel(made) - log_mel).abs().mean((1, 2, 3))
        return spectral_distance(made, waveform, sizes), l1

    def training_step(self, batch: MusicBatch, batch_idx: int) -> Tensor:
        waveform = present(batch.waveform)
        log_mel = self.log_mel(waveform)
        frames, hop = min(self.segment_frames, log_mel.shape[2]), self.network.hop
        starts = (batch.draws["timestep"].double() * (log_mel.shape[2] - frames + 1)).long().tolist()
        mels = torch.stack([m[:, s : s + frames] for m, s in zip(log_mel, starts, strict=True)])
        waves = torch.stack([w[s * hop : (s + frames) * hop] for w, s in zip(waveform, starts, strict=True)])
        sizes = tuple(size for size in TRAINED_SIZES if size < 2 * waves.shape[1])  # half a window is mirrored at each end
        distance, l1 = (t.mean() for t in self.losses(waves, mels, sizes))
        self.log_loss(distance + l1, len(batch))
        self.log("train/log_mel_l1", l1, batch_size=len(batch))
        return distance + l1

    def validation_step(self, batch: MusicBatch, batch_idx: int) -> None:
        waveform = present(batch.waveform)
        distance, l1 = self.losses(waveform, self.log_mel(waveform))
        self.val_loss.update(distance)
        self.val_l1.update(l1)
        self.log_dict({"val/loss": self.val_loss, "val/log_mel_l1": self.val_l1}, prog_bar=True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.network.parameters())}]
