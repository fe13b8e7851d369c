"""MelCodec: a VAE over log-mels with a vocoder behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from melfusion.media.mel import LogMel
from melfusion.media.options import AudioConfig
from melfusion.models.codec import MusicCodec
from melfusion.models.frozen import digest
from melfusion.models.music_vae import MusicVAE
from melfusion.models.vocoder import Vocoder

CPU_AT_ONCE = 8  # clips: spectrograms of more do not stay in the caches, and are above what memory.keep_freed_memory keeps


class MelCodec(MusicCodec):
    """waveform → log_mel → latents → log_mel with its texture → waveform, by a MusicVAE and a Vocoder.

    Args:
        log_mel: waveform → log_mel, of the same `audio`.
        audio: its rate and hop give the rate of the latents.
    """

    def __init__(self, music_vae: MusicVAE, vocoder: Vocoder, log_mel: LogMel, audio: AudioConfig):
        super().__init__()
        self.music_vae, self.vocoder, self.front_end = music_vae, vocoder, log_mel
        self.sample_rate_hz, self.bins = audio.sample_rate_hz, audio.n_mels
        self.frames_per_s = audio.sample_rate_hz / (audio.hop_length_samples * music_vae.downsampling)

    def latent_shape(self, duration_s: float, multiple: int = 1) -> tuple[int, int, int]:
        frames = max(multiple, round(duration_s * self.frames_per_s / multiple) * multiple)
        return self.music_vae.channels, frames, self.bins // self.music_vae.downsampling

    def duration_s(self, latent_shape: tuple[int, ...]) -> float:
        return latent_shape[1] / self.frames_per_s

    def log_mel(self, waveform: Tensor) -> Tensor:
        return self.front_end(waveform)

    def spectrogram(self, decoded: Tensor) -> Tensor:
        return decoded

    def encode_moments(self, waveform: Tensor) -> Tensor:
        return self.music_vae.encode_moments(self.front_end(waveform))

    def sample_latents(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.music_vae.sample_latents(moments, noise)

    def decode(self, latents: Tensor) -> Tensor:
        return self.music_vae.decode(latents)

    def vocode(self, decoded: Tensor) -> Tensor:
        at_once = CPU_AT_ONCE if decoded.device.type == "cpu" else len(decoded)
        return torch.cat([self.vocoder(part) for part in decoded.split(at_once)])

    def latent_state(self) -> dict[str, Tensor]:
        return self.music_vae.latent_state()

    def decoder_provenance(self) -> list[Any]:
        """Digest of VAE and vocoder; how often the mel is corrected; the steps of the texture, where there is one."""
        state = {f"music_vae.{n}": t for n, t in self.music_vae.state_dict().items()}
        state |= {f"vocoder.{n}": t for n, t in self.vocoder.state_dict().items()} | self.vocoder.settings()
        texture = [self.music_vae.texture_steps] if self.music_vae.texture else []
        return [digest(state), self.vocoder.corrections, *texture]
