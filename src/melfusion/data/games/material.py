"""What a game gives to the corpus: tracks, pictures and the links between them; and what is the same file twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from melfusion.data.games.drawing import open_scene
from melfusion.files import sha256_of

NEAR = 6  # bits of 64 in which the hashes of two versions of one picture differ at most; unrelated pictures differ in about 32


@dataclass(frozen=True)
class Track:
    """A piece of music; `id` is its package and path in it, the same on every machine."""

    id: str
    game: str
    path: Path
    seconds: float
    title: str
    artist: str | None
    licence: str
    digest: str


@dataclass(frozen=True)
class Picture:
    """A scene: a file, or one that a reader drew."""

    id: str
    game: str
    licence: str
    digest: str
    likeness: int
    path: Path | None = None
    crop: tuple[int, int] | None = None
    drawn: Image.Image | None = field(default=None, compare=False)  # which has no hash

    def open(self) -> Image.Image:
        """RGB, short side 256 px at most."""
        if self.drawn is not None:
            return self.drawn
        assert self.path is not None
        return open_scene(self.path, self.crop)


T = TypeVar("T", Track, Picture)


@dataclass(frozen=True)
class Link:
    """This picture belongs to this track; `place` says what such a place is in this game."""

    track: str
    picture: str
    pairing: str
    title: str
    theme: str
    place: str


@dataclass
class Material:
    """Of one game or of several. `ties` are (name, name of a piece of art): what shares a name stays in one split."""

    tracks: dict[str, Track] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    ties: list[tuple[str, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def likeness(image: Image.Image) -> int:
    """64 bits that say where the picture gets brighter from left to right (dHash); two versions of one picture agree in most.

    Source: N. Krawetz, "Kind of Like That", hackerfactor.com, 2013.
    """
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS), np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def near(pictures: Sequence[Picture]) -> list[tuple[int, int]]:
    """Numbers (i, j), i < j, of all pictures that look the same; hashes of nearly plain pictures say nothing."""
    hashes = np.array([picture.likeness for picture in pictures], np.uint64)
    plain = np.abs(np.bitwise_count(hashes).astype(int) - 32) > 24
    pairs = []
    for i in np.flatnonzero(~plain).tolist():
        close = (np.bitwise_count(hashes[i + 1 :] ^ hashes[i]) <= NEAR) & ~plain[i + 1 :]
        pairs += [(i, i + 1 + int(j)) for j in np.flatnonzero(close)]
    return pairs


def digest(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256."""
    return sha256_of(path)[:16]


def merge(games: Iterable[Material]) -> Material:
    """All games as one. Of files that are there twice the first stays; what a later game shares with an earlier one is left out.

    Pictures of one game that look the same are tied, so that they stay in one split; of two games, the later one's is left out.
    """
    whole = Material()
    tracks: dict[str, Track] = {}
    pictures: dict[str, Picture] = {}
    for game in games:
        names = _add(game.tracks, tracks, whole.tracks, whole.skipped, "track")
        names |= _add(game.pictures, pictures, whole.pictures, whole.skipped, "picture")
        whole.links += [replace(k, track=names.get(k.track, ""), picture=names.get(k.picture, "")) for k in game.links]
        whole.ties += [(names.get(item, item), part) for item, part in game.ties]
        whole.skipped.update(game.skipped)
    listed = list(whole.pictures.values())
    for i, j in near(listed):
        if listed[i].game == listed[j].game:
            whole.ties += [(name.id, f"looks like {listed[i].id}") for name in (listed[i], listed[j])]
        elif whole.pictures.pop(listed[j].id, None):
            whole.skipped[f"{listed[j].game}: picture of another game"] += 1
    known = [k for k in whole.links if k.track in whole.tracks and k.picture in whole.pictures]
    whole.links = list({(k.track, k.picture): k for k in reversed(known)}.values())[::-1]  # of equal ones the first
    return whole


def in_words(skipped: Counter[str]) -> str:
    """What was left out over all games, by reason, the most frequent first; keys read "game: reason", or "reason"."""
    counts: Counter[str] = Counter()
    for reason, number in skipped.items():
        counts[reason.rpartition(": ")[2]] += number
    return "; ".join(f"{reason}: {number}" for reason, number in counts.most_common())


def _add(items: Mapping[str, T], firsts: dict[str, T], kept: dict[str, T], skipped: Counter[str], kind: str) -> dict[str, str]:
    """Put what is new into `kept`; name → name of what stays in its place, for all that stays."""
    names = {}
    for item in items.values():
        first = firsts.setdefault(item.digest, item)
        if first is item:
            kept[item.id] = item
        else:
            skipped[f"{item.game}: {kind} {'that is there twice' if first.game == item.game else 'of another game'}"] += 1
        if first.game == item.game:
            names[item.id] = first.id
    return names
