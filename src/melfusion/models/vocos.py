"""Vocos: ConvNeXt blocks and one inverse STFT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from melfusion.media.mel import in_float32, reflected_samples
from melfusion.media.options import AudioConfig


class Vocos(nn.Module):
    """ConvNeXt blocks at the mel's rate and one inverse STFT (Siuzdak 2023): nothing is computed at the audio's rate.

    Its spectrogram has the mel's framing, so a frame of the mel and of the spectrogram are the same samples.
    """

    window: Tensor

    def __init__(self, audio: AudioConfig, width: int = 192, blocks: int = 6):
        super().__init__()
        self.n_fft, self.hop = audio.n_fft_samples, audio.hop_length_samples
        self.enter = nn.Conv1d(audio.n_mels, width, 7, padding=3)
        self.blocks = nn.ModuleList(ConvNeXt(width, 1 / blocks) for _ in range(blocks))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.head = nn.Linear(width, 2 * (self.n_fft // 2 + 1))
        self.reflected = reflected_samples(audio)[0]
        self.reach = 3 * (1 + blocks) + -(-self.n_fft // self.hop)  # mel frames to each side that a sample depends on
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    def spectrum(self, log_mel: Tensor) -> Tensor:
        """log_mel (B, 1, T, F) → complex spectrogram (B, n_fft/2 + 1, T)."""
        h = self.norms[0](self.enter((log_mel[:, 0].transpose(1, 2) + 5) / 3).transpose(1, 2))
        for block in self.blocks:
            h = block(h)
        log_magnitude, phase = self.head(self.norms[1](h)).transpose(1, 2).float().chunk(2, dim=1)
        return torch.polar(log_magnitude.clamp(max=7).exp(), phase)

    def forward(self, log_mel: Tensor) -> Tensor:
        with in_float32(log_mel):
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
    """(B, n_fft/2 + 1, T) → (B, T·hop): overlap-add in the framing of media.mel.LogMel, which reflects so many samples before."""
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
