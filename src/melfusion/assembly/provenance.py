"""What a clip says of itself: all that made it, as a sound file carries it. It imports no torch.

The record of a clip, plain values:

    melfusion   the version of this code
    verb        that made it, where it was not `generate`
    prompt, seed
    image       {"path", "sha256"} of the picture's file; path null: it was no file, and the hash is of its pixels
    settings    what else the call gave or the model's own sampling gives, by the names of the options of `generate`
    files       the same as `image` of each option that names a file, and of the pictures of a story's scenes
    model       {"ckpt", "file", "digest", "overrides"}: the path (null: the shipped model), a hash of what lies there, a hash of
                the weights that generate, and what was laid over the configuration
    batch       [row, clips, pictures]: which row of how many clips at once; the last bits depend on it
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from melfusion import __version__
from melfusion.assembly.story import read_story
from melfusion.files import sha256_of
from melfusion.media import tagged
from melfusion.media.pictures import OpenedPicture

KEY = "melfusion"  # the one key of the JSON object in a comment

SHIPPED = Path(__file__).parents[1] / "weights" / "melfusion"

ALONE = ([0, 1, 0], [0, 1, 1])  # the batches that every call of one clip makes


@dataclass(frozen=True)
class ModelOrigin:
    """Where a model was read: a checkpoint file or an exported folder (None: the shipped one), and what was laid over it."""

    path: str | None = None
    file: str | None = None  # a hash of what lies there; None: the model was built in memory
    overrides: list[str] = field(default_factory=list)

    @staticmethod
    def of(path: Path, shipped: bool, overrides: list[str] | None) -> ModelOrigin:
        """`path`: as `stored_in` (assembly/load.py) gives it."""
        return ModelOrigin(None if shipped else str(path), fingerprint(path), list(overrides or []))


def fingerprint(path: Path) -> str | None:
    """A hash of a checkpoint, an exported folder, a picture; None where nothing lies there.

    A checkpoint is a zip archive of many gigabytes, which holds a checksum of each of its tensors: the hash is of these.
    """
    if path.is_dir():
        inner = [path / "model.safetensors", path / "system.json"]
        return hash_of([fingerprint(file) for file in inner])
    if not path.is_file():
        return None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            held = [[one.filename.partition("/")[2], one.file_size, one.CRC] for one in archive.infolist()]
        return hash_of(held)
    return sha256_of(path)


def hash_of(tree: Any) -> str:
    """The SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(tree, default=str).encode()).hexdigest()


def of_file(value: Any) -> dict[str, Any] | None:
    """The record of a picture or sound that was given as a file or as an array; None for None."""
    if value is None:
        return None
    value = value.path if isinstance(value, OpenedPicture) else value
    if isinstance(value, str | Path):
        return {"path": str(value), "sha256": fingerprint(Path(value))}
    data = value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()
    return {"path": None, "sha256": hashlib.sha256(data).hexdigest()}


def comment_of(record: dict[str, Any]) -> str:
    """A record as the text of a comment: ASCII, since not every format keeps other characters."""
    return json.dumps({KEY: record}, separators=(",", ":"))


def read(path: str | Path) -> dict[str, Any] | None:
    """The record of a sound file, None where it carries none; errors as `tagged.comment` raises them."""
    try:
        found = json.loads(tagged.comment(path) or "null")
    except (ValueError, RecursionError):  # the comment of another program
        return None
    record = found.get(KEY) if isinstance(found, dict) else None
    return record if isinstance(record, dict) else None


FILES = ("audio", "story", "timbre")  # options that name files


def records(
    prompts: list[str], image: Any, seeds: list[int], settings: dict[str, Any], pictures: int, model: dict[str, Any]
) -> list[dict[str, Any]]:
    """The record of each clip of one batch.

    Args:
        image: what all clips were shown, or a list with one for each.
        settings: name → value of what else the call gave; None counts as not given.
        pictures: how many the model was shown at once.
    """
    shown = [of_file(one) for one in image] if isinstance(image, list) else [of_file(image)] * len(prompts)
    given = {name: _plain(value) for name, value in sorted(settings.items()) if name not in FILES and value is not None}
    files = {name: of_file(value) for name, value in settings.items() if name in FILES and value is not None}
    if settings.get("story") is not None:
        scenes = enumerate(read_story(settings["story"]).scenes, 1)
        files |= {f"scene {i}": of_file(scene.image) for i, scene in scenes if scene.image is not None}
    made = []
    for row, (prompt, seed, picture) in enumerate(zip(prompts, seeds, shown, strict=True)):
        batch = [row, len(prompts), pictures]
        record = {KEY: __version__, "prompt": prompt, "seed": seed, "image": picture, "settings": given, "model": model}
        made.append(record | ({"files": files} if files else {}) | ({} if batch in ALONE else {"batch": batch}))
    return made


def _plain(value: Any) -> Any:
    """As JSON has it: tuples are lists, paths are text."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool) else str(value)
