"""Waveform → log-mel: rates, hops, framing and filters."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from melfusion.media.options import AudioConfig

LOG_FLOOR = 1e-5  # AudioLDM's clamp before the logarithm


@dataclass(frozen=True)
class AudioGeometry:
    """How seconds become samples, mel frames and latents."""

    audio: AudioConfig

    @property
    def num_samples(self) -> int:
        return round(self.audio.clip_duration_s * self.audio.sample_rate_hz)

    @property
    def num_frames(self) -> int:
        return self.num_samples // self.audio.hop_length_samples

    def latent_shape(self, channels: int, downsampling: int) -> tuple[int, int, int]:
        """(C, T, F) of the music latents of one clip."""
        return channels, self.num_frames // downsampling, self.audio.n_mels // downsampling


def in_float32(like: Tensor) -> AbstractContextManager[Any]:
    """Within it autocast is off on the device of this tensor; the meta device has none."""
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def mel_matrix(audio: AudioConfig) -> np.ndarray:
    """(n_fft/2 + 1, F) filters with Slaney's scale and area normalisation, as in HiFi-GAN and AudioLDM."""
    return mel_filter_bank(
        num_frequency_bins=audio.n_fft_samples // 2 + 1,
        num_mel_filters=audio.n_mels,
        min_frequency=audio.f_min_hz,
        max_frequency=audio.f_max_hz,
        sampling_rate=audio.sample_rate_hz,
        norm="slaney",
        mel_scale="slaney",
    )


class LogMel(nn.Module):
    """waveform (B, S) → log_mel (B, 1, S // hop, F): magnitudes of a reflected waveform, ln, floor 1e-5.

    `audio.framing` says where frame t is centred: on sample (t + ½) · hop for `hifigan`, with (n_fft - hop) / 2 samples
    reflected at each end. HiFi-GAN and AudioLDM's VAE and vocoder were trained so (haoheliu/AudioLDM-training-finetuning,
    audioldm_train/utilities/data/dataset.py, `mel_spectrogram_train`). On sample t · hop for `centred`, with n_fft / 2 reflected;
    the last of the S // hop + 1 frames is left out. Tango's UNet was trained so (declare-lab/tango, tools/torch_tools.py and
    audioldm/audio/stft.py).
    """

    window: Tensor
    filters: Tensor

    def __init__(self, audio: AudioConfig):
        super().__init__()
        self.n_fft, self.hop = audio.n_fft_samples, audio.hop_length_samples
        self.reflected = reflected_samples(audio)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        filters = torch.from_numpy(mel_matrix(audio)).float()
        self.register_buffer("filters", filters, persistent=False)

    def shape(self, num_samples: int) -> tuple[int, int]:
        """(T, F) of a clip."""
        return num_samples // self.hop, self.filters.shape[1]

    def forward(self, waveform: Tensor) -> Tensor:
        with in_float32(waveform):  # logs of small magnitudes need float32
            return self._log_mel(waveform)

    def spectrum(self, waveform: Tensor) -> Tensor:
        """waveform (B, S) → complex spectrogram (B, n_fft/2 + 1, S // hop) in the mel's framing."""
        padded = nn.functional.pad(waveform.float()[:, None], self.reflected, mode="reflect")[:, 0]
        frames = torch.stft(padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
        return frames[..., : waveform.shape[-1] // self.hop]

    def mel(self, magnitude: Tensor) -> Tensor:
        """Magnitudes (B, n_fft/2 + 1, T) of a spectrogram → mel magnitudes (B, T, F), not below the floor."""
        return (magnitude.transpose(1, 2) @ self.filters).clamp(min=LOG_FLOOR)

    def _log_mel(self, waveform: Tensor) -> Tensor:
        # a CPU's caches hold the spectrogram of one clip: the same bits in half the time
        clips = waveform.split(1) if waveform.device.type == "cpu" else [waveform]
        magnitude = torch.cat([self.spectrum(clip).abs().transpose(1, 2) for clip in clips])
        return self.mel(magnitude.transpose(1, 2)).log()[:, None]


def reflected_samples(audio: AudioConfig) -> tuple[int, int]:
    """Samples that the framing reflects before and after a clip."""
    n_fft, hop = audio.n_fft_samples, audio.hop_length_samples
    before = n_fft // 2 if audio.framing == "centred" else (n_fft - hop) // 2
    return before, n_fft // 2 if audio.framing == "centred" else n_fft - hop - before
