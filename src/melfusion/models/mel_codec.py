"""MelCodec: a VAE over log-mels with a vocoder behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from melfusion.media.fading import crossfade, linear
from melfusion.media.mel import LogMel
from melfusion.media.options import AudioConfig
from melfusion.models.codec import MusicCodec
from melfusion.models.codecs.chunks import faded
from melfusion.models.frozen import digest
from melfusion.models.music_vae import MusicVAE
from melfusion.models.vocoder import Vocoder, levelled

CHUNK_S, OVERLAP_S = 30.0, 2.0  # longer clips are encoded, decoded and vocoded in pieces that overlap; memory follows their length

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
        self.hop, self.clip_duration_s = audio.hop_length_samples, audio.clip_duration_s
        self.frames_per_s = audio.sample_rate_hz / (audio.hop_length_samples * music_vae.downsampling)

    def latent_shape(self, duration_s: float, multiple: int = 1) -> tuple[int, int, int]:
        frame = self.hop * self.music_vae.downsampling  # samples
        frames = max(1, math.ceil(round(duration_s * self.sample_rate_hz) / frame))
        return self.music_vae.channels, math.ceil(frames / multiple) * multiple, self.bins // self.music_vae.downsampling

    def duration_s(self, latent_shape: tuple[int, ...]) -> float:
        return latent_shape[1] / self.frames_per_s

    def log_mel(self, waveform: Tensor) -> Tensor:
        return self.front_end(waveform)

    def spectrogram(self, decoded: Tensor) -> Tensor:
        return decoded

    def encode_moments(self, waveform: Tensor) -> Tensor:
        return self.piecewise(self.music_vae.encode_moments, self.front_end(waveform), (self.music_vae.downsampling, 1), 2)

    def sample_latents(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.music_vae.sample_latents(moments, noise)

    def decode(self, latents: Tensor) -> Tensor:
        return self.piecewise(self.music_vae.decode, latents, (1, self.music_vae.downsampling), 2)

    def cut(self, decoded: Tensor, duration_s: float) -> Tensor:
        """As many frames of the log-mel as hold the seconds; the waveform is cut to the sample when it is made."""
        return decoded[:, :, : math.ceil(round(duration_s * self.sample_rate_hz) / self.hop)]

    def vocode(self, decoded: Tensor, keep_level: bool = False) -> Tensor:
        at_once = CPU_AT_ONCE if decoded.device.type == "cpu" else len(decoded)
        return torch.cat([self.vocoded(part) for part in decoded.split(at_once)])

    def vocoded(self, log_mel: Tensor) -> Tensor:
        """A few clips, each with its peak at most 1."""
        down = self.music_vae.downsampling
        if log_mel.shape[2] <= self.window * down:
            return self.vocoder(log_mel)
        rows = log_mel.transpose(2, 3)  # (B, 1, F, T), so that time is the last axis before and after

        def run(part: Tensor) -> Tensor:
            return self.vocoder.render(part.transpose(2, 3))[:, None, None]

        waveform = self.piecewise(run, rows, (down, down * self.hop), 3, crossfade)
        return levelled(waveform[:, 0, 0])

    @property
    def window(self) -> int:
        """Latent frames of a piece."""
        return round(max(CHUNK_S, self.clip_duration_s) * self.frames_per_s)

    def piecewise(
        self, run: Callable[[Tensor], Tensor], x: Tensor, frame: tuple[int, int], axis: int, fade: Any = linear
    ) -> Tensor:
        """`run(x)`, in pieces where x is long. `frame`: places of a latent frame in x and in the result, along `axis`."""
        return faded(run, x, self.window, max(1, round(OVERLAP_S * self.frames_per_s)), frame, axis, fade)

    def latent_state(self) -> dict[str, Tensor]:
        return self.music_vae.latent_state()

    def decoder_provenance(self) -> list[Any]:
        """Digest of VAE and vocoder; how often the mel is corrected; the steps of the texture, where there is one."""
        state = {f"music_vae.{n}": t for n, t in self.music_vae.state_dict().items()}
        state |= {f"vocoder.{n}": t for n, t in self.vocoder.state_dict().items()} | self.vocoder.settings()
        texture = [self.music_vae.texture_steps] if self.music_vae.texture else []
        return [digest(state), self.vocoder.corrections, *texture]
