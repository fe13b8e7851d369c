"""Scene: the factors of one drawn and rendered pair."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scene:
    """The factors of one pair; `seed` and `index` name its random streams."""

    index: int
    seed: int
    place: str
    time: str
    weather: str
    tonic: str
    mode: str
