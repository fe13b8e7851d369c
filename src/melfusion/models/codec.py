"""MusicCodec: waveform ⇄ latents."""

from __future__ import annotations

from typing import Any

import lightning
from torch import Tensor


class MusicCodec(lightning.LightningModule):
    """Base of all codecs; frozen in the system. waveform → moments → latents → decoded → waveform.

    B batch, S samples of audio, C channels, T frames, F bins of the latents. "Decoded" is what the decoder makes: a log_mel
    (B, 1, T, F) that a vocoder turns into sound, or the waveform (B, S) itself.
    """

    sample_rate_hz: int

    def latent_shape(self, duration_s: float, multiple: int = 1) -> tuple[int, ...]:
        """(C, T, F) of a clip of about this duration, with T a multiple of `multiple` and at least that."""
        raise NotImplementedError

    def duration_s(self, latent_shape: tuple[int, ...]) -> float:
        """Seconds of a clip whose latents have this shape."""
        raise NotImplementedError

    def encode_moments(self, waveform: Tensor) -> Tensor:
        """waveform (B, S) → (B, 2C, T, F): mean and log-variance of the posterior, which precompute stores."""
        raise NotImplementedError

    def sample_latents(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Moments → latents (B, C, T, F) of unit variance per channel; `noise` draws from the posterior, None takes its mean."""
        raise NotImplementedError

    def encode(self, waveform: Tensor, noise: Tensor | None = None) -> Tensor:
        """waveform (B, S) → latents."""
        return self.sample_latents(self.encode_moments(waveform), noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents → decoded."""
        raise NotImplementedError

    def vocode(self, decoded: Tensor) -> Tensor:
        """Decoded → waveform (B, S) in [-1, 1]."""
        return decoded

    def log_mel(self, waveform: Tensor) -> Tensor:
        """waveform (B, S) → log_mel (B, 1, T, F), for spectrograms of real clips."""
        raise NotImplementedError

    def latent_state(self) -> dict[str, Tensor]:
        """All tensors that latents depend on, by name. Another decoder may follow them without a new training."""
        return self.state_dict()

    def decoder_provenance(self) -> list[Any]:
        """Plain values that a decoded waveform depends on beside its latents; the first is a digest of the weights."""
        raise NotImplementedError
