"""Options that all music backbones have. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from melfusion.models.backbones import made_for
from melfusion.models.options import Kind


@dataclass
class DenoiserConfig(Kind):
    """The music backbone; what all of them have."""

    kind: str = "unet"  # unet (Tango, the paper) | audioldm | audioldm2 | stable_audio (Open) | stable_audio_3 | ace_step
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
