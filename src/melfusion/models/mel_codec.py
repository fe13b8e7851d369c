"""MelCodec: a VAE over log-mels with a vocoder behind it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from melfusion.media.mel import LogMel
from melfusion.media.options import AudioConfig
from melfusion.models.codec import MusicCodec
from melfusion.models.codecs import kl
from melfusion.models.codecs.chunks import faded, windowed
from melfusion.models.frozen import digest
from melfusion.models.music_vae import MusicVAE
from melfusion.models.vocoder import Vocoder, levelled

CHUNK_S = 30.0  # longer clips are encoded, decoded and vocoded in windows of this length; memory follows it

OVERLAP_S = 2.0  # of windows of a vocoder that sees a whole clip

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
        return self.music_vae.encode_moments(self.front_end(waveform), self.window)

    def sample_latents(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.music_vae.sample_latents(moments, noise)

    def decode(self, latents: Tensor) -> Tensor:
        return self.music_vae.decode(latents, self.window)

    def cut(self, decoded: Tensor, duration_s: float) -> Tensor:
        """As many frames of the log-mel as hold the seconds; the waveform is cut to the sample when it is made."""
        return decoded[:, :, : math.ceil(round(duration_s * self.sample_rate_hz) / self.hop)]

    def vocode(self, decoded: Tensor, keep_level: bool = False) -> Tensor:
        at_once = CPU_AT_ONCE if decoded.device.type == "cpu" else len(decoded)
        return torch.cat([self.vocoded(part) for part in decoded.split(at_once)])

    def vocoded(self, log_mel: Tensor) -> Tensor:
        """A few clips, each with its peak at most 1."""
        window, reach = self.window * self.music_vae.downsampling, self.vocoder.reach
        if log_mel.shape[2] <= window:
            return self.vocoder(log_mel)
        rows, frame = log_mel.transpose(2, 3), (1, self.hop)  # (B, 1, F, T): time is the last axis before and after

        def run(part: Tensor) -> Tensor:
            return self.vocoder.render(part.transpose(2, 3))[:, None, None]

        if reach is None:
            waveform = faded(run, rows, window, round(OVERLAP_S * self.sample_rate_hz / self.hop), frame)
        else:
            waveform = windowed(run, rows, max(window, 4 * reach), reach, frame)
        return levelled(waveform[:, 0, 0])

    @property
    def window(self) -> int:
        """Latent frames of a window."""
        shortest = 4 * kl.reach(self.music_vae.autoencoder)
        return max(shortest, round(max(CHUNK_S, self.clip_duration_s) * self.frames_per_s))

    def latent_state(self) -> dict[str, Tensor]:
        return self.music_vae.latent_state()

    def decoder_provenance(self) -> list[Any]:
        """Digest of VAE and vocoder; how often the mel is corrected; the steps of the texture, where there is one."""
        state = {f"music_vae.{n}": t for n, t in self.music_vae.state_dict().items()}
        state |= {f"vocoder.{n}": t for n, t in self.vocoder.state_dict().items()} | self.vocoder.settings()
        texture = [self.music_vae.texture_steps] if self.music_vae.texture else []
        return [digest(state), self.vocoder.corrections, *texture]
