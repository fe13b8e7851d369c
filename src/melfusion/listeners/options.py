"""Options of the networks that score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass
class JudgeConfig:
    """The classifier that says what is heard in a clip."""

    weights: str | None = None
    kind: str = "conv"  # conv | recurrent | pitch; weights bring their own
    width: int = 64
    embedding: int = 128
    attributes: dict[str, list[str]] = field(default_factory=dict)  # label → its classes

    TINY: ClassVar[dict[str, Any]] = {"weights": None, "width": 16, "embedding": 12}


@dataclass
class TowersConfig:
    """The contrastive models of picture and caption, sound and caption."""

    weights: str | None = None  # null: random init; they bring the text encoder they were trained with
    width: int = 24  # channels, a multiple of 8
    embedding: int = 64  # D

    TINY: ClassVar[dict[str, Any]] = {"weights": None, "width": 8, "embedding": 8}
