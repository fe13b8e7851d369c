"""Oobleck, the convolutional VAE of Stable Audio Open (Evans et al. 2024, arXiv 2407.14358) and of ACE-Step."""

from __future__ import annotations

import torch
from diffusers import AutoencoderOobleck
from torch import Tensor

from melfusion.media.mel import LogMel, in_float32
from melfusion.models.codecs.chunks import convolutions, reach
from melfusion.models.codecs.wave import WaveCodec


class Oobleck(WaveCodec):
    """Latents are mean + standard deviation · noise, as in both pipelines, which scale them no further.

    Long clips go by the library's own tiling. Its tiles begin on whole latent frames here and overlap by what the network sees:
    with the library's own sizes they are out of step with the frames, and the latents are others than those of the whole.
    """

    network: AutoencoderOobleck

    def __init__(self, network: AutoencoderOobleck, log_mel: LogMel, chunk_s: float, peak: str = "divide"):
        super().__init__(network, log_mel, chunk_s, peak)
        self.hop, self.latent_channels = network.hop_length, network.config.decoder_input_channels
        self.encoder_reach = reach(convolutions(network.encoder), (0, 0), self.hop)
        self.decoder_reach = reach(convolutions(network.decoder), (0, self.hop - 1), 1)
        network.enable_tiling()
        network.tile_sample_min_length = self.window(self.encoder_reach) * self.hop
        network.tile_sample_overlap = self.encoder_reach * self.hop
        network.tile_latent_min_length = self.window(self.decoder_reach)
        network.tile_latent_overlap = self.decoder_reach

    def encode_moments(self, waveform: Tensor) -> Tensor:
        with in_float32(waveform):
            posterior = self.network.encode(self.whole_frames(waveform)).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], 1)

    def sample_latents(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        mean, log_variance = moments.chunk(2, 1)
        return mean if noise is None else mean + (0.5 * log_variance).exp() * noise

    def decode(self, latents: Tensor) -> Tensor:
        with in_float32(latents):
            return self.as_clip(self.network.decode(latents.to(self.network.dtype)).sample)

    def latent_state(self) -> dict[str, Tensor]:
        return self.state_of("encoder")
