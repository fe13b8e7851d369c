"""Vocoder: log_mel (B, 1, T, F) → waveform (B, S). HiFi-GAN or Vocos where weights are given, Griffin-Lim where none are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from melfusion.audio import LogMel, mel_matrix, reflected_samples
from melfusion.batch import MusicBatch
from melfusion.optim import TrainedModule
from melfusion.schema import AudioConfig


class GriffinLim(nn.Module):
    """Phase by fast Griffin-Lim (Perraudin et al. 2013, momentum .99) from non-negative least-squares magnitudes."""

    def __init__(self, audio: AudioConfig, iterations: int = 64, momentum: float = 0.99):
        super().__init__()
        self.n_fft, self.hop, self.iterations, self.momentum = (
            audio.n_fft_samples,
            audio.hop_length_samples,
            iterations,
            momentum,
        )
        filters = mel_matrix(audio)
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        self.register_buffer("inverse", torch.from_numpy(np.linalg.pinv(filters)).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        # `istft` centres frame t on sample t · hop: what the mel's framing centres later is moved by that much
        before = 0 if audio.framing == "centred" else self.hop // 2
        self.silence = (before, self.hop - before)

    def magnitudes(self, mel: Tensor) -> Tensor:
        """mel (B, T, F) → magnitudes (B, n_fft/2+1, T): multiplicative updates from the clamped pseudo-inverse."""
        guess = (mel @ self.inverse).clamp(min=1e-8)
        wanted = mel @ self.filters.T
        gram = self.filters @ self.filters.T
        for _ in range(20):
            guess = guess * wanted / (guess @ gram).clamp(min=1e-12)
        return guess.transpose(1, 2)

    @torch.no_grad()
    def forward(self, log_mel: Tensor) -> Tensor:
        with torch.autocast(log_mel.device.type, enabled=False):
            return self._waveform(log_mel)

    def _waveform(self, log_mel: Tensor) -> Tensor:
        mel = log_mel[:, 0].float().exp()
        frames = mel.shape[1]
        magnitude = self.magnitudes(mel)
        kwargs = {"n_fft": self.n_fft, "hop_length": self.hop, "window": self.window}
        length = (frames - 1) * self.hop
        # phases start alike for every clip of every call: the same mel gives the same bytes, whatever its batch
        start = torch.rand(magnitude.shape[1:], generator=torch.Generator().manual_seed(0)).to(magnitude)
        angles = (start * 2 * torch.pi).mul(1j).exp().expand_as(magnitude)
        previous = torch.zeros_like(angles)
        for _ in range(self.iterations):
            waveform = torch.istft(magnitude * angles, length=length, **kwargs)
            rebuilt = torch.stft(waveform, return_complex=True, **kwargs)
            step = rebuilt - self.momentum / (1 + self.momentum) * previous
            angles, previous = step / step.abs().clamp(min=1e-12), rebuilt
        waveform = torch.istft(magnitude * angles, length=length, **kwargs)
        return nn.functional.pad(waveform, self.silence)


class HifiGan(nn.Module):
    """transformers' SpeechT5HifiGan, as AudioLDM ships it."""

    def __init__(self, network: nn.Module, hop_length_samples: int):
        super().__init__()
        self.network, self.hop = network, hop_length_samples

    @torch.no_grad()
    def forward(self, log_mel: Tensor) -> Tensor:
        waveform = self.network(log_mel[:, 0])
        wanted = log_mel.shape[2] * self.hop
        return nn.functional.pad(waveform, (0, max(0, wanted - waveform.shape[-1])))[..., :wanted]


class Vocos(nn.Module):
    """ConvNeXt blocks at the mel's rate and one inverse STFT (Siuzdak 2023): nothing is computed at the audio's rate.

    Its spectrogram has the mel's framing, so a frame of the mel and of the spectrogram are the same samples.
    """

    def __init__(self, audio: AudioConfig, width: int = 192, blocks: int = 6):
        super().__init__()
        self.n_fft, self.hop = audio.n_fft_samples, audio.hop_length_samples
        self.enter = nn.Conv1d(audio.n_mels, width, 7, padding=3)
        self.blocks = nn.ModuleList(ConvNeXt(width, 1 / blocks) for _ in range(blocks))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.head = nn.Linear(width, 2 * (self.n_fft // 2 + 1))
        self.reflected = reflected_samples(audio)[0]
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    def spectrum(self, log_mel: Tensor) -> Tensor:
        """log_mel (B, 1, T, F) → complex spectrogram (B, n_fft/2 + 1, T)."""
        h = self.norms[0](self.enter((log_mel[:, 0].transpose(1, 2) + 5) / 3).transpose(1, 2))
        for block in self.blocks:
            h = block(h)
        log_magnitude, phase = self.head(self.norms[1](h)).transpose(1, 2).float().chunk(2, dim=1)
        return torch.polar(log_magnitude.clamp(max=7).exp(), phase)

    def forward(self, log_mel: Tensor) -> Tensor:
        with torch.autocast(log_mel.device.type, enabled=False):
            return inverse_stft(self.spectrum(log_mel.float()), self.hop, self.window, self.reflected)


class ConvNeXt(nn.Module):
    """(B, T, D) → (B, T, D): depthwise convolution over 7 frames, then a pointwise network (Liu et al. 2022)."""

    def __init__(self, width: int, scale: float):
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pointwise = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, h: Tensor) -> Tensor:
        inner = self.depthwise(h.transpose(1, 2)).transpose(1, 2)
        return h + self.scale * self.pointwise(self.norm(inner))


def inverse_stft(spectrum: Tensor, hop: int, window: Tensor, reflected: int) -> Tensor:
    """(B, n_fft/2 + 1, T) → (B, T·hop): overlap-add in the framing of audio.LogMel, which reflects so many samples before."""
    n_fft, frames = len(window), spectrum.shape[2]
    pieces = torch.fft.irfft(spectrum.transpose(1, 2), n_fft) * window
    envelope = overlap_add(window.square().expand(1, frames, -1), hop)
    kept = slice(reflected, reflected + frames * hop)
    return overlap_add(pieces, hop)[:, kept] / envelope[:, kept].clamp(min=1e-8)


def overlap_add(pieces: Tensor, hop: int) -> Tensor:
    """(B, T, N), each piece `hop` samples after the one before it → their sum, (B, (T - 1)·hop + N or up to hop - 1 zeros more)."""
    batch, frames, length = pieces.shape
    starts = range(0, length, hop)
    total = pieces.new_zeros(batch, frames + len(starts) - 1, hop)
    for k, start in enumerate(starts):  # the k-th stretch of `hop` samples of all pieces at once
        stretch = pieces[:, :, start : start + hop]
        total[:, k : k + frames, : stretch.shape[2]] += stretch
    return total.flatten(1)


@torch.no_grad()
def corrected(waveform: Tensor, log_mel: Tensor, front_end: LogMel) -> Tensor:
    """The waveform (B, S) with its spectrogram scaled by wanted over heard mel: each bin by the mean of its bands' ratios.

    Magnitudes alone change, at most tenfold; the phases stay the vocoder's.
    """
    with torch.autocast(waveform.device.type, enabled=False):
        spectrum = front_end.spectrum(waveform)
        parts = torch.view_as_real(spectrum)  # four times as fast as complex arithmetic, and this is where vocoding takes its time
        magnitude = torch.addcmul(parts[..., 0].square(), parts[..., 1], parts[..., 1]).sqrt_()
        ratio = (log_mel[:, 0].exp() / front_end.mel(magnitude)).clamp(0.1, 10)
        weight = front_end.filters.sum(1, keepdim=True)  # of the bands at each bin; none at 0 Hz, where nothing is scaled
        gain = nn.functional.linear(ratio, front_end.filters / weight.clamp(min=1e-6), (weight[:, 0] <= 1e-6).float())
        parts *= gain.transpose(1, 2)[..., None]
        return inverse_stft(spectrum, front_end.hop, front_end.window, front_end.reflected[0])


STFT_SIZES = (512, 1024, 2048)
TRAINED_SIZES = (*STFT_SIZES, 4096)  # samples; at 16 kHz the last tells a semitone from the next down to 70 Hz


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
    """The seam: log_mel → waveform in [-1, 1] by one of the networks above; a network with parameters trains here.

    Args:
        log_mel: waveform → log_mel.  corrections: how often what is heard is brought nearer to the mel that was asked for.
        segment_frames, optim, max_steps: needed by training only.
    """

    def __init__(self, network: nn.Module, log_mel: nn.Module | None = None, segment_frames: int = 64, optim: Any = None,
                 max_steps: int | None = None, corrections: int = 0):  # fmt: skip
        super().__init__()
        self.corrections = corrections
        self.network, self.log_mel, self.segment_frames = network, log_mel, segment_frames
        self.optim, self.max_steps = optim, max_steps
        self.val_loss, self.val_l1 = MeanMetric(), MeanMetric()

    def forward(self, log_mel: Tensor) -> Tensor:
        waveform = self.network(log_mel).float()
        for _ in range(self.corrections):
            waveform = corrected(waveform, log_mel.float(), self.log_mel)
        return waveform / waveform.abs().amax(dim=-1, keepdim=True).clamp(min=1.0)

    def losses(self, waveform: Tensor, log_mel: Tensor, sizes: tuple[int, ...] = STFT_SIZES) -> tuple[Tensor, Tensor]:
        """Of the waveform (B, S) and its own log_mel: (spectral distance, log_mel L1 in nats), each (B,)."""
        made = self.network(log_mel)
        l1 = (self.log_mel(made) - log_mel).abs().mean((1, 2, 3))
        return spectral_distance(made, waveform, sizes), l1

    def training_step(self, batch: MusicBatch, batch_idx: int) -> Tensor:
        log_mel = self.log_mel(batch.waveform)
        frames, hop = min(self.segment_frames, log_mel.shape[2]), self.network.hop
        starts = (batch.draws["timestep"].double() * (log_mel.shape[2] - frames + 1)).long().tolist()
        mels = torch.stack([m[:, s : s + frames] for m, s in zip(log_mel, starts, strict=True)])
        waves = torch.stack([w[s * hop : (s + frames) * hop] for w, s in zip(batch.waveform, starts, strict=True)])
        sizes = tuple(size for size in TRAINED_SIZES if size < 2 * waves.shape[1])  # half a window is mirrored at each end
        distance, l1 = (t.mean() for t in self.losses(waves, mels, sizes))
        self.log_loss(distance + l1, len(batch))
        self.log("train/log_mel_l1", l1, batch_size=len(batch))
        return distance + l1

    def validation_step(self, batch: MusicBatch, batch_idx: int) -> None:
        distance, l1 = self.losses(batch.waveform, self.log_mel(batch.waveform))
        self.val_loss.update(distance)
        self.val_l1.update(l1)
        self.log_dict({"val/loss": self.val_loss, "val/log_mel_l1": self.val_l1}, prog_bar=True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.network.parameters())}]
