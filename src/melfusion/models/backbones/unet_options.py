"""Options of the UNets. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from melfusion.models.backbones import made_for
from melfusion.models.backbones.base_options import DenoiserConfig
from melfusion.models.options import levels_misfit


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
class AudioLDMConfig(UNetConfig):
    """AudioLDM: the text is one vector, which goes to all ResNet blocks with the time; each layer attends to the sound, twice."""

    block_out_channels: list[int] = field(default_factory=lambda: [128, 256, 384, 640])  # channels per level, top first
    attention_head_dim: list[int] = field(default_factory=lambda: [4, 8, 12, 20])  # heads per level; one number: of all
    attention_blocks: list[bool] = field(default_factory=lambda: [False, True, True, True])  # per level, top first

    AUTO: ClassVar[str] = "synapse"
    OWN: ClassVar[dict[str, Any]] = {
        "diffusion.kind": "diffusion",
        "diffusion.beta_start": 0.0015,
        "diffusion.beta_end": 0.0195,
        "conditioner.kind": "audioldm",
        "sampling.sampler": "published",
        "sampling.num_inference_steps": 200,
        "sampling.guidance_scale": 2.5,
    }

    def made_for(self, network: dict[str, Any], scheduler: dict[str, Any]) -> made_for.MadeFor:
        """The authors' file has no scheduler, and is sampled by DDIM (haoheliu/AudioLDM, audioldm/latent_diffusion/ddim.py)."""
        return (self.OWN if scheduler else self.OWN | {"sampling.sampler": "ddim"}), {}

    REFUSED: ClassVar[dict[str, str]] = dict.fromkeys(
        ("kv_mix", "kv_mix_proj", "context_mix"), "mixes the picture with the words that a layer attends to"
    ) | {"controlnet": "gives the words to its copy of the encoder"}

    def misfit(self, config: Any) -> str | None:
        if does := self.REFUSED.get(kind := config.synapse.kind):
            return f"synapse.kind={kind} {does}, and the layers of AudioLDM attend to none: use concat or decoupled."
        return super().misfit(config)


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
