"""The key of a clip: a spectrogram in semitones, and a network whose output shifts when the clip is transposed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melfusion.errors import ConfigError
from melfusion.media.options import AudioConfig

LOWEST, OCTAVES = 36, 5  # MIDI C2 to B6

N_FFT, HOP = 4096, 1024  # samples: at 16 kHz a bin is 3.9 Hz, a semitone at C2


class Semitones(nn.Module):
    """waveform (B, S) → (B, 1, T, 60): natural log of magnitude in each semitone from C2 to B6, every 1,024 samples."""

    filters: Tensor
    window: Tensor

    def __init__(self, audio: AudioConfig):
        super().__init__()
        frequency = torch.fft.rfftfreq(N_FFT, 1 / audio.sample_rate_hz)
        midi = 69 + 12 * torch.log2(frequency.clamp(min=1.0) / 440)
        distance = midi[:, None] - torch.arange(LOWEST, LOWEST + 12 * OCTAVES)
        self.register_buffer("filters", torch.exp(-0.5 * (distance / 0.35) ** 2), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def shape(self, num_samples: int) -> tuple[int, int]:
        """(T, bins) of a clip of `num_samples`."""
        return num_samples // HOP + 1, 12 * OCTAVES

    def forward(self, waveform: Tensor) -> Tensor:
        spectrum = torch.stft(waveform.float(), N_FFT, HOP, window=self.window, pad_mode="constant", return_complex=True)
        return (spectrum.abs().transpose(1, 2) @ self.filters).clamp(min=1e-4).log()[:, None]


class PitchNetwork(nn.Module):
    """Semitones (B, 1, T, 60) → embedding (B, 24), two numbers for each pitch class, such as its major and its minor key.

    Convolutions along pitch, a sum over octaves, then a circular convolution over the twelve pitch classes. A clip that is a
    semitone higher gives the same numbers one class further (except at the edges of octaves), so training on one key helps
    for all keys.
    """

    def __init__(self, bins: int, width: int = 32, embedding: int = 24):
        super().__init__()
        if embedding % 12:
            raise ConfigError(f"judge.embedding={embedding} must be a multiple of 12 for judge.kind=pitch.")
        self.first = nn.Conv2d(1, width, (3, 5), padding=(1, 2))
        self.second = nn.Conv2d(width, width, (3, 5), padding=(1, 2))
        self.fold = nn.Parameter(0.1 * torch.randn(bins // 12, width, width))
        self.classes = nn.Conv1d(3 * width, 2 * width, 12)
        self.out = nn.Conv1d(2 * width, embedding // 12, 1)

    def forward(self, semitones: Tensor) -> Tensor:
        h = F.gelu(self.first((semitones - semitones.mean((2, 3), keepdim=True)) / 3))
        h = h + F.gelu(self.second(h))
        h = F.gelu(torch.einsum("bctop,ocd->bdtp", h.unflatten(3, (-1, 12)), self.fold))
        pooled = torch.cat(
            [h.mean(2), h.amax(2), h[:, :, : max(1, h.shape[2] // 8)].mean(2)], 1
        )  # the last: a piece begins on its tonic
        return self.out(F.gelu(self.classes(torch.cat([pooled, pooled[..., :-1]], 2)))).flatten(1)
