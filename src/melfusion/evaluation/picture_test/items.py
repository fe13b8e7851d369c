"""What a system is asked: items, the pictures that they show under each condition, and calls under names that tell nothing."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from melfusion.files import write_whole

ROWS = {
    "right": "the right picture",
    "again": "the same call again",
    "other": "another picture",
    "as bright": "another picture, as bright",
    "none": "no picture",
    "lower half": "the upper half hidden",
    "upper half": "the lower half hidden",
    "contradicted": "the right picture, and words that name another place and weather",
}

TOLERANCE = 2.0  # of 255, in mean luminance, for a picture that is as bright

FEWEST = 10  # items, or pieces of music, that a verdict needs

GREY = (128, 128, 128)  # over a half that is hidden


@dataclass(frozen=True)
class Candidate:
    """A picture that may be shown. `labels`: what it shows, or where it is from; `brightness`: mean luminance, 0 to 255."""

    labels: dict[str, str]
    brightness: float
    draw: Callable[[], Image.Image]


@dataclass
class Item:
    """A prompt with its seed, and the picture of each row. `labels`: what the right picture shows and the prompt says.

    `said`: what the contradicting prompt names.  `shows`: labels of the pictures that are not the right one, by row.
    `differing`: the labels in which the picture that is as bright is another.
    `track`: the file of the item's own music, where it is real; `group`: what items of one piece of music share.
    """

    key: str
    prompt: str
    contradicting: str
    seed: int
    labels: dict[str, str]
    said: dict[str, str]
    pictures: dict[str, str] = field(default_factory=dict)
    shows: dict[str, dict[str, str]] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)
    track: str = ""
    group: str = ""


@dataclass(frozen=True)
class Call:
    """One sound that is asked for: its file's stem, its item's number and its row; the picture's file name, "" for none."""

    name: str
    item: int
    row: str
    picture: str
    prompt: str
    seed: int


def brightness(picture: Image.Image) -> float:
    """Mean luminance, 0 to 255."""
    return float(np.asarray(picture.convert("L"), dtype=np.float64).mean())


def differing(a: Candidate, b: Candidate) -> list[str]:
    """The labels in which two pictures differ."""
    return [name for name, value in a.labels.items() if b.labels.get(name) != value]


def another(candidates: Sequence[Candidate], i: int, n: int, rng: np.random.Generator) -> int:
    """The number of another of the first `n` pictures: a random one of those that differ in the most labels."""
    counts = {j: len(differing(candidates[i], candidates[j])) for j in range(n) if j != i}
    return int(rng.choice([j for j, count in counts.items() if count == max(counts.values())]))


def as_bright(candidates: Sequence[Candidate], i: int) -> int | None:
    """The number of the picture of the same brightness that differs in the most labels, of several the nearest; None for none."""
    own = candidates[i]
    found = [
        (-len(differing(own, other)), abs(other.brightness - own.brightness), j)
        for j, other in enumerate(candidates)
        if j != i and abs(other.brightness - own.brightness) <= TOLERANCE and differing(own, other)
    ]
    return min(found)[2] if found else None


def show(items: list[Item], candidates: Sequence[Candidate], folder: Path, rng: np.random.Generator) -> None:
    """Give each item the pictures of its rows, written into `folder`. Candidate i is the right picture of item i."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, item in enumerate(items):
        picture = candidates[i].draw()
        right, unlike, bright = save(picture, folder), another(candidates, i, len(items), rng), as_bright(candidates, i)
        item.shows = {"other": candidates[unlike].labels}
        item.pictures = {
            "right": right,
            "again": right,
            "contradicted": right,
            "none": "",
            "other": save(candidates[unlike].draw(), folder),
            "lower half": save(hidden(picture, upper=True), folder),
            "upper half": save(hidden(picture, upper=False), folder),
        }
        if bright is not None:
            item.pictures["as bright"] = save(candidates[bright].draw(), folder)
            item.shows["as bright"] = candidates[bright].labels
            item.differing = differing(candidates[i], candidates[bright])


def hidden(picture: Image.Image, upper: bool) -> Image.Image:
    """The picture with its upper or its lower half in grey."""
    shown, half = picture.copy(), picture.height // 2
    shown.paste(GREY, (0, 0, picture.width, half) if upper else (0, half, picture.width, picture.height))
    return shown


def save(picture: Image.Image, folder: Path) -> str:
    """Write it as PNG under a name made of its bytes, which tells nothing of what it shows; returns the name."""
    data = io.BytesIO()
    picture.save(data, "png", compress_level=1)  # as the corpus does
    name = f"{hashlib.sha256(data.getvalue()).hexdigest()[:16]}.png"
    if not (folder / name).is_file():
        write_whole(folder / name, data.getvalue())
    return name


def calls_of(items: list[Item], rng: np.random.Generator) -> list[Call]:
    """All calls in random order: so a repetition and another picture stand in like places of whatever batches a system makes."""
    asked = [(i, row) for i, item in enumerate(items) for row in ROWS if row in item.pictures]
    found = []
    for number, at in enumerate(rng.permutation(len(asked))):
        i, row = asked[at]
        item = items[i]
        prompt = item.contradicting if row == "contradicted" else item.prompt
        found.append(Call(f"{number:05d}", i, row, item.pictures[row], prompt, item.seed))
    return found


def to_tree(items: list[Item], calls: list[Call]) -> dict[str, Any]:
    """For JSON."""
    return {"items": [asdict(item) for item in items], "calls": [asdict(call) for call in calls]}


def from_tree(tree: dict[str, Any]) -> tuple[list[Item], list[Call]]:
    """What `to_tree` wrote."""
    return [Item(**item) for item in tree["items"]], [Call(**call) for call in tree["calls"]]
