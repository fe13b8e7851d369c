"""Griffin-Lim: a phase for a log-mel, without weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from melfusion.media.mel import in_float32, mel_matrix
from melfusion.media.options import AudioConfig
from melfusion.randomness import fixed_generator


class GriffinLim(nn.Module):
    """Phase by fast Griffin-Lim (Perraudin et al. 2013, momentum .99) from non-negative least-squares magnitudes."""

    filters: Tensor
    inverse: Tensor
    window: Tensor

    def __init__(self, audio: AudioConfig, iterations: int = 64, momentum: float = 0.99):
        super().__init__()
        self.n_fft, self.hop, self.iterations, self.momentum = audio.n_fft_samples, audio.hop_length_samples, iterations, momentum
        filters = mel_matrix(audio)
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        self.register_buffer("inverse", torch.from_numpy(np.linalg.pinv(filters)).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        # `istft` centres frame t on sample t · hop: what the mel's framing centres later is moved by that much
        before = 0 if audio.framing == "centred" else self.hop // 2
        self.silence = (before, self.hop - before)

    @property
    def settings(self) -> dict[str, Tensor]:
        """What its sound depends on in place of weights."""
        return {"griffin_lim": torch.tensor([self.iterations, self.momentum])}

    def magnitudes(self, mel: Tensor) -> Tensor:
        """mel (B, T, F) → magnitudes (B, n_fft/2+1, T). Each clip alone: MKL may multiply a row otherwise with others below it."""
        return torch.stack([self._magnitude(one) for one in mel]).transpose(1, 2)

    def _magnitude(self, mel: Tensor) -> Tensor:
        """mel (T, F) → magnitude (T, n_fft/2+1): multiplicative updates from the clamped pseudo-inverse."""
        guess = (mel @ self.inverse).clamp(min=1e-8)
        wanted = mel @ self.filters.T
        gram = self.filters @ self.filters.T
        for _ in range(20):
            guess = guess * wanted / (guess @ gram).clamp(min=1e-12)
        return guess

    @torch.no_grad()
    def forward(self, log_mel: Tensor) -> Tensor:
        with in_float32(log_mel):
            return self._waveform(log_mel)

    def _waveform(self, log_mel: Tensor) -> Tensor:
        mel = log_mel[:, 0].float().exp()
        frames = mel.shape[1]
        magnitude = self.magnitudes(mel)
        kwargs: dict[str, Any] = {"n_fft": self.n_fft, "hop_length": self.hop, "window": self.window}
        length = (frames - 1) * self.hop
        # every clip of every call starts from the same phases: the same mel gives the same bytes in any batch
        start = torch.rand(magnitude.shape[1:], generator=fixed_generator("phases")).to(magnitude)
        angles = (start * 2 * torch.pi).mul(1j).exp().expand_as(magnitude)
        previous = torch.zeros_like(angles)
        for _ in range(self.iterations):
            waveform = torch.istft(magnitude * angles, length=length, **kwargs)
            rebuilt = torch.stft(waveform, return_complex=True, **kwargs)
            step = rebuilt - self.momentum / (1 + self.momentum) * previous
            angles, previous = step / step.abs().clamp(min=1e-12), rebuilt
        waveform = torch.istft(magnitude * angles, length=length, **kwargs)
        return nn.functional.pad(waveform, self.silence)
