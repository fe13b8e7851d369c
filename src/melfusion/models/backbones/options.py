"""Options of the music backbones. No heavy imports.

A new one is a dataclass and a line of DENOISERS here, its class in a file beside this one, and one of BUILD (assembly/denoiser.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from melfusion.models.backbones import made_for
from melfusion.models.backbones.base_options import DenoiserConfig
from melfusion.models.backbones.unet_options import AudioLDM2Config, AudioLDMConfig, UNetConfig


@dataclass
class TransformerConfig(DenoiserConfig):
    """What the diffusion transformers share. All fields of its kinds are sizes of a random twin, under diffusers' own names."""

    def sizes(self) -> dict[str, Any]:
        """Arguments of the network's class."""
        shared = {f.name for f in dataclasses.fields(TransformerConfig)}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in shared}

    def misfit(self, config: Any) -> str | None:
        if self.trainable != "decoder":
            return super().misfit(config)
        return "denoiser.trainable=decoder: a transformer has no decoder; give all, cross_attn or synapse."


@dataclass
class StableAudioConfig(TransformerConfig):
    """Stable Audio Open."""

    sample_size: int = 1024  # latent frames that it was trained on
    in_channels: int = 64  # channels of the latents
    out_channels: int = 64  # the same
    num_layers: int = 24  # blocks
    attention_head_dim: int = 64  # width of a head
    num_attention_heads: int = 24  # heads of queries
    num_key_value_attention_heads: int = 12  # heads of keys and values
    cross_attention_dim: int = 768  # width of the text inside
    cross_attention_input_dim: int = 768  # width of the text
    global_states_input_dim: int = 1536  # width of what tells the seconds
    time_proj_dim: int = 256  # of the time's features

    OWN: ClassVar[dict[str, Any]] = {
        "diffusion.kind": "cosine",
        "conditioner.kind": "stable_audio",
        "codec.peak": "none",
        "sampling.sampler": "dpm_sde",
        "sampling.num_inference_steps": 100,
        "sampling.guidance_scale": 7.0,
    }
    TINY: ClassVar[dict[str, Any]] = DenoiserConfig.TINY | {
        "sample_size": 16,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "num_key_value_attention_heads": 2,
        "cross_attention_dim": 16,
        "cross_attention_input_dim": 16,
        "global_states_input_dim": 32,
        "time_proj_dim": 8,
    }


@dataclass
class StableAudio3Config(TransformerConfig):
    """Stable Audio 3."""

    io_channels: int = 256  # channels of the latents
    patch_size: int = 1  # latent frames in a token
    embed_dim: int = 1536  # width
    depth: int = 24  # blocks
    num_heads: int = 24  # heads
    cond_token_dim: int = 768  # width of the text
    global_cond_dim: int = 768  # width of what tells the seconds
    local_add_cond_dim: int = 257  # channels of what is to be kept in repainting
    timestep_features_dim: int = 256  # of the time's features
    ff_mult: float = 4.0  # width of the feed-forward layers over embed_dim
    num_memory_tokens: int = 64  # learned tokens before the latents
    use_differential_attention: bool = True  # differences of two attentions

    OWN: ClassVar[dict[str, Any]] = {  # of the distilled weights
        "diffusion.kind": "flow",
        "diffusion.shift": 1.0,
        "diffusion.logsnr": [-6.2, 2.0],
        "conditioner.kind": "stable_audio_3",
        "codec.peak": "clamp",
        "sampling.sampler": "ping_pong",
        "sampling.num_inference_steps": 8,
        "sampling.guidance_scale": 1.0,
    }
    TINY: ClassVar[dict[str, Any]] = DenoiserConfig.TINY | {
        "io_channels": 16,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "cond_token_dim": 16,
        "global_cond_dim": 16,
        "local_add_cond_dim": 17,
        "timestep_features_dim": 8,
        "num_memory_tokens": 4,
    }

    def made_for(self, network: dict[str, Any], scheduler: dict[str, Any]) -> made_for.MadeFor:
        return made_for.stable_audio_3(self.OWN, network, scheduler)


@dataclass
class AceStepConfig(TransformerConfig):
    """ACE-Step 1.5; the defaults are those of its 2 B model."""

    hidden_size: int = 2048  # width
    intermediate_size: int = 6144  # width of the feed-forward layers
    num_hidden_layers: int = 24  # blocks
    num_attention_heads: int = 16  # heads of queries
    num_key_value_heads: int = 8  # heads of keys and values
    head_dim: int = 128  # width of a head
    in_channels: int = 192  # of the latents, of what stood there before, and of the mask
    audio_acoustic_hidden_dim: int = 64  # channels of the latents
    patch_size: int = 2  # latent frames in a token
    sliding_window: int = 128  # tokens that every other block sees to each side
    encoder_hidden_size: int | None = None  # width of the text; null: hidden_size

    OWN: ClassVar[dict[str, Any]] = {
        "diffusion.kind": "flow",
        "diffusion.shift": 3.0,
        "diffusion.guidance": "apg",
        "conditioner.kind": "ace_step",
        "codec.peak": "-1dBFS",
        "sampling.sampler": "euler",
        "sampling.num_inference_steps": 8,
        "sampling.guidance_scale": 7.0,
    }
    TINY: ClassVar[dict[str, Any]] = DenoiserConfig.TINY | {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "in_channels": 48,
        "audio_acoustic_hidden_dim": 16,
        "sliding_window": 4,
        "encoder_hidden_size": None,
    }

    def made_for(self, network: dict[str, Any], scheduler: dict[str, Any]) -> made_for.MadeFor:
        return made_for.ace_step(self.OWN, network, scheduler)


DENOISERS: dict[str, type[DenoiserConfig]] = {
    "unet": UNetConfig,
    "audioldm": AudioLDMConfig,
    "audioldm2": AudioLDM2Config,
    "stable_audio": StableAudioConfig,
    "stable_audio_3": StableAudio3Config,
    "ace_step": AceStepConfig,
}
