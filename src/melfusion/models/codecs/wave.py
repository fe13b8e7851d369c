"""WaveCodec: a VAE over waveforms of one or two channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from melfusion.media.mel import LogMel
from melfusion.media.sound import mono
from melfusion.models.codec import MusicCodec
from melfusion.models.frozen import digest


def peak_of(waveform: Tensor) -> Tensor:
    """(B, …, S) → (B, …, 1), the peak of each clip over all its channels."""
    return waveform.abs().amax(dim=tuple(range(1, waveform.ndim)), keepdim=True)


PEAKS: dict[str, Callable[[Tensor], Tensor]] = {  # what is done to the peak of a clip, as the published pipelines do it
    "divide": lambda waveform: waveform / peak_of(waveform).clamp(min=1.0),
    "-1dBFS": lambda waveform: waveform * (10 ** (-1 / 20) / peak_of(waveform).clamp(min=1e-6)),  # ACE-Step
    "clamp": lambda waveform: waveform.clamp(-1.0, 1.0),  # Stable Audio 3
    "none": lambda waveform: waveform,  # Stable Audio Open
}


class WaveCodec(MusicCodec):
    """Waveform (B, S) or (B, 2, S) ⇄ latents (B, C, T), a frame every `hop` samples, as the VAE's own pipelines scale them.

    A subclass calls the network, in windows where a clip is long, and knows how far it sees. It does so in float32, as its weights
    are: under bfloat16 autocast latents and sound had errors of .02 to .09 of their RMS.

    Args:
        network: diffusers' autoencoder.  log_mel: for figures alone.
        chunk_s: longer clips go through the network in windows of this length, but of at least four times what it sees.
        peak: key of PEAKS.
    """

    hop: int
    latent_channels: int
    encoder_reach: int  # latent frames to each side that a frame of the latents depends on
    decoder_reach: int  # the same of a frame of the waveform

    def __init__(self, network: Any, log_mel: LogMel, chunk_s: float, peak: str = "divide"):
        super().__init__()
        self.network, self.front_end, self.chunk_s, self.peak = network, log_mel, chunk_s, peak
        self.sample_rate_hz: int = network.config.sampling_rate
        self.channels: int = network.config.audio_channels

    def whole_frames(self, waveform: Tensor) -> Tensor:
        """waveform (B, S) or (B, 2, S) → (B, channels, T · hop), with silence at its end."""
        samples = (waveform if waveform.ndim == 3 else waveform[:, None]).to(self.network.dtype)
        return F.pad(samples, (0, -samples.shape[-1] % self.hop))

    def as_clip(self, decoded: Tensor) -> Tensor:
        """(B, channels, S) → (B, S) of one channel, (B, 2, S) of two; `cut` gives it the length that was asked for."""
        return decoded if self.channels > 1 else decoded[:, 0]

    def window(self, frames: int) -> int:
        """Latent frames of a window for a network that sees `frames` to each side."""
        return max(math.ceil(self.chunk_s * self.sample_rate_hz / self.hop), 4 * frames)

    def latent_shape(self, duration_s: float, multiple: int = 1) -> tuple[int, int]:
        """(C, T): as many frames as hold the clip, and up to `multiple` - 1 more."""
        frames = max(1, math.ceil(round(duration_s * self.sample_rate_hz) / self.hop))
        return self.latent_channels, math.ceil(frames / multiple) * multiple

    def duration_s(self, latent_shape: tuple[int, ...]) -> float:
        return latent_shape[1] * self.hop / self.sample_rate_hz

    def cut(self, decoded: Tensor, duration_s: float) -> Tensor:
        return decoded[..., : round(duration_s * self.sample_rate_hz)]

    def vocode(self, decoded: Tensor, keep_level: bool = False) -> Tensor:
        """The waveform itself, its peak as `peak` says, a fact of each model's own pipeline; with `none` it may be above 1."""
        return PEAKS["divide" if keep_level else self.peak](decoded)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Of the mean of the channels."""
        return self.front_end(mono(waveform))

    def state_of(self, *parts: str) -> dict[str, Tensor]:
        """All tensors of these parts of the network, by name."""
        modules: dict[str, nn.Module] = {part: self.network.get_submodule(part) for part in parts}
        return {f"{part}.{name}": tensor for part, module in modules.items() for name, tensor in module.state_dict().items()}

    def decoder_provenance(self) -> list[Any]:
        """Digest of the network; the length of a window, on which the last bits depend; the rule for peaks, where it is another."""
        return [digest(self.network), self.chunk_s, *([] if self.peak == "divide" else [self.peak])]
