"""SAME, the VAE of Stable Audio 3 (arXiv 2605.17991): transformers over windows of latent frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diffusers import AutoencoderSAME
from torch import Tensor

from melfusion.media.mel import LogMel, in_float32
from melfusion.models.codecs.chunks import Sees, reach, windowed
from melfusion.models.codecs.wave import WaveCodec


def resampling(blocks: Iterable[Any], encoder: bool) -> list[Sees]:
    """Blocks of attention over segments of one frame of lower rate and `stride` of the higher one, each layer to `sliding_window`
    segments on each side."""
    kind = _downward if encoder else _upward
    return [kind(block.stride, len(block.transformers) * block.sliding_window) for block in blocks]


def _downward(stride: int, far: int) -> Sees:
    return lambda span: ((span[0] - far) * stride, (span[1] + far + 1) * stride - 1)


def _upward(stride: int, far: int) -> Sees:
    return lambda span: (span[0] // stride - far, span[1] // stride + far)


class Same(WaveCodec):
    """Latents are what the encoder gives, divided by its running deviation; there is no posterior, and no noise is drawn.

    The library has no tiling for it, and the mask of its attention grows with the square of the length.
    """

    network: AutoencoderSAME

    def __init__(self, network: AutoencoderSAME, log_mel: LogMel, chunk_s: float, peak: str = "divide"):
        super().__init__(network, log_mel, chunk_s, peak)
        self.hop, self.latent_channels = network.downsampling_ratio, network.config.latent_dim
        patches = self.hop // network.config.patch_size  # a latent frame has so many
        self.encoder_reach = reach(resampling(network.encoder.blocks, True), (0, 0), patches)
        self.decoder_reach = reach(resampling(network.decoder.blocks, False), (0, patches - 1), 1)

    def encode_moments(self, waveform: Tensor) -> Tensor:
        """waveform → latents (B, C, T)."""
        run, overlap = lambda part: self.network.encode(part).latents, self.encoder_reach
        with in_float32(waveform):
            return windowed(run, self.whole_frames(waveform), self.window(overlap), overlap, (self.hop, 1))

    def sample_latents(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        return moments

    def decode(self, latents: Tensor) -> Tensor:
        run, overlap = lambda part: self.network.decode(part).sample, self.decoder_reach
        with in_float32(latents):
            latents = latents.to(self.network.dtype)
            return self.as_clip(windowed(run, latents, self.window(overlap), overlap, (1, self.hop)))

    def latent_state(self) -> dict[str, Tensor]:
        return self.state_of("encoder", "bottleneck")
