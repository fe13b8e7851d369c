"""Options of the networks that score clips."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass
class JudgeConfig:
    """The classifier of clips."""

    weights: str | None = None  # shipped | run:NAME | a folder; null: random init
    kind: str = "conv"  # conv | recurrent | pitch; stored weights have their own kind
    width: int = 64  # channels of its first layer
    embedding: int = 128  # D of the embedding that distances are measured in
    attributes: dict[str, list[str]] = field(default_factory=dict)  # label → its classes

    TINY: ClassVar[dict[str, Any]] = {"weights": None, "width": 16, "embedding": 12}


@dataclass
class TowersConfig:
    """The contrastive models of picture and caption, and of clip and caption."""

    weights: str | None = None  # null: random init; stored weights name the text encoder that they were trained with
    width: int = 24  # channels, a multiple of 8
    embedding: int = 64  # D

    TINY: ClassVar[dict[str, Any]] = {"weights": None, "width": 8, "embedding": 8}
