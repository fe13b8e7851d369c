"""What the readers of all games share: the scenes they yield, reasons for a missing one, and safe reading of text.

A reader walks one game's data folder and yields, for everything in it that names a track, either a `GameScene` or a short
reason why there is none. Files are data from strangers: paths may not leave the game's folder, sizes are bounded, and a
malformed file becomes a reason, never an exception.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

MAX_TEXT_BYTES = 8 << 20

MISSING = "names a file that is not there"


class Skip(Exception):
    """Something cannot become a scene. The message is the reason, which is counted."""


@dataclass(frozen=True)
class GameScene:
    """One place in a game, its picture [256x192 RGB] and the track that plays there."""

    title: str
    theme: str  # lower-case words for the place or its mood, from the files; may be empty
    track: Path
    image: Image.Image
    art: Path  # the file whose licence is the picture's
    artist: str | None = None
    own_license: str | None = None  # as the level itself states it
    parts: tuple[str, ...] = ()  # art that other pictures may show too: such pictures belong in one split


Found = Iterator[GameScene | str]

Find = Callable[[str], Path]


def attempt(items: Iterable, build: Callable[..., Iterable[GameScene | str]]) -> Found:
    """`build(item)` for every item, with what goes wrong turned into a reason."""
    for item in items:
        try:
            yield from build(item)
        except Skip as skip:
            yield str(skip)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
            yield "malformed file"


def read_text(path: Path, most_bytes: int = MAX_TEXT_BYTES) -> str:
    """A text file's content: UTF-8, or Latin-1 where it is not."""
    if path.stat().st_size > most_bytes:
        raise Skip("text file too large")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def inside(root: Path, name: str) -> Path:
    """The file `name` (which may start with a slash or use backslashes) below `root`."""
    path = (root / re.sub(r"[\\/]+", "/", name).lstrip("/")).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise Skip(MISSING)
    return path


def settings(path: Path) -> list[tuple[str, str]]:
    """The `key = value` lines of a file, in order."""
    pairs = (line.partition("=") for line in read_text(path).splitlines() if "=" in line)
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def words(name: str) -> str:
    """'BlueRock_Forest' -> 'Blue Rock Forest'."""
    return " ".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_\-]", " ", name).split())
