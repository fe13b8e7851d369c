"""MusicCodec: waveform ⇄ latents."""

from __future__ import annotations

from typing import Any

import lightning
from torch import Tensor


class MusicCodec(lightning.LightningModule):
    """Base of all codecs; frozen in the system. waveform → moments → latents → decoded → waveform.

    B batch, S samples of audio, C channels, T frames, F bins of the latents; latents of a codec over waveforms have no F. A
    waveform is (B, S), and (B, 2, S) where `channels` is 2. "Decoded" is what the decoder makes: a log_mel (B, 1, T, F) that a
    vocoder turns into sound, or the waveform itself.
    """

    sample_rate_hz: int
    channels: int = 1  # of the waveform

    def latent_shape(self, duration_s: float, multiple: int = 1) -> tuple[int, ...]:
        """(C, T, F) that holds a clip of this duration, with T a multiple of `multiple`."""
        raise NotImplementedError

    def duration_s(self, latent_shape: tuple[int, ...]) -> float:
        """Seconds of a clip whose latents have this shape."""
        raise NotImplementedError

    def encode_moments(self, waveform: Tensor) -> Tensor:
        """waveform (B, S) → (B, 2C, T, F): mean and log-variance of the posterior, which precompute stores.

        A codec without a posterior gives what `sample_latents` takes instead.
        """
        raise NotImplementedError

    def sample_latents(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Moments → latents (B, C, T, F) of unit variance or near it; `noise` draws from the posterior, None takes its mean."""
        raise NotImplementedError

    def encode(self, waveform: Tensor, noise: Tensor | None = None) -> Tensor:
        """waveform (B, S) → latents."""
        return self.sample_latents(self.encode_moments(waveform), noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents → decoded."""
        raise NotImplementedError

    def cut(self, decoded: Tensor, duration_s: float) -> Tensor:
        """Decoded → the same without what the frames of the latents hold beyond the seconds that were asked for."""
        return decoded

    def vocode(self, decoded: Tensor, keep_level: bool = False) -> Tensor:
        """Decoded → waveform (B, S), with its peak as the model's own pipeline has it.

        keep_level: of a sound that is edited: the level stays that of the latents, but for a peak above 1, which is scaled down.
        """
        return decoded

    def log_mel(self, waveform: Tensor) -> Tensor:
        """waveform (B, S) → log_mel (B, 1, T, F), for spectrograms of real clips."""
        raise NotImplementedError

    def spectrogram(self, decoded: Tensor) -> Tensor:
        """Decoded → log_mel (B, 1, T, F), for spectrograms of generated clips."""
        return self.log_mel(decoded)

    def latent_state(self) -> dict[str, Tensor]:
        """All tensors that latents depend on, by name. Another decoder may follow them without a new training."""
        return self.state_dict()

    def decoder_provenance(self) -> list[Any]:
        """Plain values that a decoded waveform depends on beside its latents; the first is a digest of the weights."""
        raise NotImplementedError
