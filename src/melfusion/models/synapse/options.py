"""Options of the synapse: what all kinds share, and what each kind has of its own. No heavy imports.

A new kind is a dataclass and a line of OPTIONS here, and its class in SYNAPSES (kinds.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from melfusion.models.options import Kind


@dataclass
class SynapseConfig(Kind):
    kind: str = "none"  # a key of OPTIONS
    # []: decoder of a UNet, all of a transformer | decoder | encoder | both | first | second | all | globs over layer names
    layers: list[str] = field(default_factory=list)
    match: str = "pool"  # how N image tokens become M: pool (raster order) | pool_2d

    def own(self) -> dict[str, Any]:
        """What the synapse's class takes beside the layers."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in ("kind", "layers")}


@dataclass
class AlphaConfig(SynapseConfig):
    """Kinds with a learned α."""

    alpha_share: str = "block"  # all | block | layer | head
    alpha_init: float = 0.5  # α before training


@dataclass
class KVMixConfig(AlphaConfig):
    """kv_mix is the paper's (eq. 5-6); kv_mix_proj learns a width match. Both mix the picture to the length of the text."""

    kind: str = "kv_mix"  # a key of OPTIONS
    match_scale: bool = False  # bring image K and V to the RMS of the music's


@dataclass
class TokensConfig(SynapseConfig):
    """Kinds that keep image tokens of their own."""

    image_tokens: int = 64  # M

    TINY: ClassVar[dict[str, Any]] = {"image_tokens": 8}


@dataclass
class DecoupledConfig(AlphaConfig):
    """An attention of the picture's own behind a gate."""

    image_tokens: int = 64  # M

    TINY: ClassVar[dict[str, Any]] = {"image_tokens": 8}


OPTIONS: dict[str, type[SynapseConfig]] = {
    "none": SynapseConfig,
    "kv_mix": KVMixConfig,
    "kv_mix_proj": KVMixConfig,
    "concat": TokensConfig,
    "decoupled": DecoupledConfig,
    "context_mix": AlphaConfig,
    "controlnet": TokensConfig,
    "language_of_audio": TokensConfig,
}


def synapse_config(kind: str = "kv_mix", **own: Any) -> SynapseConfig:
    """The options of a kind with their defaults, and `own` over them."""
    return OPTIONS[kind](kind=kind, **own)
