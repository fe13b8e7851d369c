"""Options of the codecs. No heavy imports.

A new one is a dataclass and a line of CODECS here, its class in a file beside this one, and one of BUILD (assembly/codec.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from melfusion.models.backbones.unet_options import UNetConfig
from melfusion.models.options import Kind


@dataclass
class CodecConfig(Kind):
    """What turns sound into latents and back; what all kinds have."""

    kind: str = "mel"  # mel: music_vae and vocoder, which have sections of their own | oobleck | same: VAEs over waveforms

    READS_MEL: ClassVar[bool] = False  # are its latents made of the log-mel that `audio` describes?


@dataclass
class MelCodecConfig(CodecConfig):
    """A VAE over log-mels and a vocoder."""

    READS_MEL: ClassVar[bool] = True

    def misfit(self, config: Any) -> str | None:
        audio, vae_down = config.audio, config.music_vae.downsampling
        if audio.channels != 1:
            return f"audio.channels={audio.channels} needs codec.kind=oobleck or same: the codec mel has one channel."
        if audio.n_mels % vae_down:
            return f"audio.n_mels={audio.n_mels} must be a multiple of {vae_down}, since the music VAE shrinks it that much."
        samples = round(audio.clip_duration_s * audio.sample_rate_hz)
        frame = audio.hop_length_samples * vae_down * config.denoiser.frames_multiple
        if samples % frame == 0:
            return None
        return (
            f"audio.clip_duration_s={audio.clip_duration_s} is {samples / audio.hop_length_samples:g} mel frames, which VAE and "
            f"denoiser cannot halve evenly: choose a multiple of {frame / audio.sample_rate_hz:g} s."
        )


@dataclass
class WaveCodecConfig(CodecConfig):
    """A VAE over waveforms; what these share. All other fields are sizes of a random twin, under diffusers' own names.

    A twin has the rate and the channels of `audio`; weights must have them.
    """

    weights: str | None = None  # hub:ID@REVISION | a folder, of the VAE or of its pipeline; null: random init
    chunk_s: float = 30.0  # longer clips are encoded and decoded in overlapping pieces of this length, s; memory follows it
    peak: str = "divide"  # of a clip that is made: divide (where it is above 1) | -1dBFS (whatever it is) | clamp (to ±1) | none

    TINY: ClassVar[dict[str, Any]] = {"weights": None}

    def sizes(self) -> dict[str, Any]:
        """Arguments of the network's class, without rate and channels."""
        shared = {f.name for f in dataclasses.fields(WaveCodecConfig)}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in shared}

    def misfit(self, config: Any) -> str | None:
        if config.audio.channels not in (1, 2):
            return f"audio.channels={config.audio.channels} must be 1 or 2."
        if self.chunk_s <= 0:
            return f"codec.chunk_s={self.chunk_s} must be greater than 0."
        if isinstance(config.denoiser, UNetConfig):
            return (
                f"codec.kind={self.kind} makes latents of time alone, which denoiser.kind={config.denoiser.kind} cannot read: "
                "give denoiser.kind=stable_audio, stable_audio_3 or ace_step, or codec.kind=mel."
            )
        return None


@dataclass
class OobleckConfig(WaveCodecConfig):
    """The VAE of Stable Audio Open (64 channels at 44.1 kHz) and of ACE-Step (64 at 48 kHz)."""

    encoder_hidden_size: int = 128  # channels before the first level, and twice those of the latents
    downsampling_ratios: list[int] = field(default_factory=lambda: [2, 4, 4, 8, 8])  # per level; their product is the hop
    channel_multiples: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])  # of the channels, per level
    decoder_channels: int = 128  # channels after the last level
    decoder_input_channels: int = 64  # channels of the latents

    TINY: ClassVar[dict[str, Any]] = WaveCodecConfig.TINY | {
        "encoder_hidden_size": 32,
        "downsampling_ratios": [2, 4, 8],
        "channel_multiples": [1, 1, 1],
        "decoder_channels": 4,
        "decoder_input_channels": 16,
    }

    def misfit(self, config: Any) -> str | None:
        if len(self.downsampling_ratios) != len(self.channel_multiples):
            return (
                f"codec.downsampling_ratios has {len(self.downsampling_ratios)} levels and codec.channel_multiples "
                f"{len(self.channel_multiples)}: give one number per level."
            )
        if self.encoder_hidden_size != 2 * self.decoder_input_channels:
            return (
                f"codec.encoder_hidden_size={self.encoder_hidden_size} must be twice codec.decoder_input_channels="
                f"{self.decoder_input_channels}, since the encoder gives mean and spread of each channel."
            )
        return super().misfit(config)


@dataclass
class SameConfig(WaveCodecConfig):
    """The VAE of Stable Audio 3 (256 channels at 44.1 kHz)."""

    patch_size: int = 256  # samples that become channels before the first level
    encoder_channels: int = 128  # base of the widths
    encoder_c_mults: list[int] = field(default_factory=lambda: [6])  # width over the base, per level
    encoder_strides: list[int] = field(default_factory=lambda: [16])  # per level; times patch_size they are the hop
    encoder_transformer_depths: list[int] = field(default_factory=lambda: [6])  # layers per level
    latent_dim: int = 256  # channels of the latents
    use_differential_attention: bool = True  # differences of two attentions
    dim_heads: int = 64  # width of a head
    ff_mult: int = 3  # width of the feed-forward layers over that of the level
    sliding_window: int = 1  # latent frames that a layer sees to each side
    encoder_sinusoidal_blocks: list[int] = field(default_factory=lambda: [0])  # last layers with sine gates, per level
    decoder_sinusoidal_blocks: list[int] = field(default_factory=lambda: [0])  # the same in the decoder
    peak: str = "clamp"  # as Stable Audio 3's own pipeline

    TINY: ClassVar[dict[str, Any]] = WaveCodecConfig.TINY | {
        "patch_size": 16,
        "encoder_channels": 8,
        "encoder_c_mults": [2],
        "encoder_strides": [4],
        "encoder_transformer_depths": [2],
        "latent_dim": 16,
        "dim_heads": 8,
    }


CODECS: dict[str, type[CodecConfig]] = {"mel": MelCodecConfig, "oobleck": OobleckConfig, "same": SameConfig}
