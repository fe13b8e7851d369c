"""Options of the music backbones. No heavy imports.

A new one is a dataclass and a line of DENOISERS here, its class in a file beside this one, and one of BUILD (assembly/denoiser.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from melfusion.models.backbones import made_for
from melfusion.models.options import Kind, levels_misfit


@dataclass
class DenoiserConfig(Kind):
    """The music backbone; what all of them have."""

    kind: str = "unet"  # unet (Tango, AudioLDM, the paper) | audioldm2 | stable_audio (Open) | stable_audio_3 | ace_step
    weights: str | None = None  # hub:ID@REVISION | run:NAME | shipped | a folder; null: random init
    gradient_checkpointing: bool = False  # compute activations twice, for less memory
    compile: bool = False  # torch.compile the backbone
    trainable: str = "auto"  # auto | all | decoder | cross_attn (where it listens) | synapse; auto: all, but on top of weights AUTO
    lora_rank: int = 0  # of a LoRA, which then trains in place of the backbone, beside the synapse (extra `adapter`); 0: none
    lora_targets: list[str] = field(default_factory=list)  # globs over linear layers; []: the attentions that listen

    AUTO: ClassVar[str] = "synapse"
    LISTENS: ClassVar[list[str]] = ["all"]  # synapse.layers where none are named
    OWN: ClassVar[dict[str, Any]] = {}  # dotted key → what its published weights were made to be sampled with
    TINY: ClassVar[dict[str, Any]] = {"weights": None, "gradient_checkpointing": False, "compile": False}

    def made_for(self, network: dict[str, Any], scheduler: dict[str, Any]) -> made_for.MadeFor:
        """OWN of weights by the config.json of network and scheduler beside them, and what these do not say (made_for.py)."""
        return self.OWN, {}

    @property
    def frames_multiple(self) -> int:
        """The latents' frames must be a multiple of this."""
        return 1

    def misfit(self, config: Any) -> str | None:
        if self.lora_rank == 0 or self.trainable in ("auto", "synapse"):
            return None
        return (
            f"denoiser.trainable={self.trainable} does not go with denoiser.lora_rank={self.lora_rank}, which trains in place "
            "of the backbone: give auto, or lora_rank=0."
        )


@dataclass
class UNetConfig(DenoiserConfig):
    block_out_channels: list[int] = field(default_factory=lambda: [320, 640, 1280, 1280])  # channels per level, top first
    layers_per_block: int = 2  # ResNet blocks per level
    attention_head_dim: list[int] = field(default_factory=lambda: [5, 10, 20, 20])  # heads per level; one number: of all
    attention_blocks: list[bool] = field(default_factory=lambda: [True, True, True, False])  # per level, top first
    norm_num_groups: int = 32  # groups of the group norms

    AUTO: ClassVar[str] = "decoder"
    LISTENS: ClassVar[list[str]] = ["decoder"]  # as in the paper
    TINY: ClassVar[dict[str, Any]] = DenoiserConfig.TINY | {
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "attention_head_dim": [2],
        "attention_blocks": [True, True],
        "norm_num_groups": 4,
    }

    @property
    def frames_multiple(self) -> int:
        """Each level below the first halves the frames."""
        return 2 ** (len(self.block_out_channels) - 1)

    def misfit(self, config: Any) -> str | None:
        return super().misfit(config) or levels_misfit("denoiser", self.attention_blocks, self.block_out_channels)


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


@dataclass
class AudioLDM2Config(UNetConfig):
    """AudioLDM 2: each layer attends to itself, to tokens of a GPT-2, and to the text."""

    block_out_channels: list[int] = field(default_factory=lambda: [128, 256, 384, 640])  # channels per level, top first
    attention_head_dim: list[int] = field(default_factory=lambda: [4, 8, 12, 20])  # heads per level; one number: of all
    attention_blocks: list[bool] = field(default_factory=lambda: [False, True, True, True])  # per level, top first
    generated_width: int = 768  # of the GPT-2's tokens

    OWN: ClassVar[dict[str, Any]] = {
        "diffusion.kind": "diffusion",
        "diffusion.beta_start": 0.0015,
        "diffusion.beta_end": 0.0195,
        "conditioner.kind": "audioldm2",
        "sampling.sampler": "published",
        "sampling.num_inference_steps": 200,
        "sampling.guidance_scale": 3.5,
    }
    TINY: ClassVar[dict[str, Any]] = UNetConfig.TINY | {"generated_width": 8}

    def misfit(self, config: Any) -> str | None:
        if self.attention_blocks and not any(self.attention_blocks):
            return f"denoiser.attention_blocks={self.attention_blocks} leaves AudioLDM 2 no layer that reads a text: give a true."
        return super().misfit(config)


DENOISERS: dict[str, type[DenoiserConfig]] = {
    "unet": UNetConfig,
    "audioldm2": AudioLDM2Config,
    "stable_audio": StableAudioConfig,
    "stable_audio_3": StableAudio3Config,
    "ace_step": AceStepConfig,
}
