"""A list of what is to be made: JSON lines or CSV → items. It imports no torch."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from melfusion.errors import ConfigError
from melfusion.files import one_name
from melfusion.media.options import SOUND_FORMATS

LARGEST = 2**63  # number, as seeds have it

MOST_BYTES = 256 << 20  # of a list

OWN = ("prompt", "image", "seed", "n", "duration_s", "out", "labels")  # fields beside how the model samples and what it takes

TEXTS = ("prompt", "image", "out", "negative_prompt", "audio", "story", "repaint", "timbre")

PATHS = ("image", "audio", "story", "timbre")  # relative to the list

FLOATS = ("duration_s", "guidance_scale", "image_guidance_scale", "window_s", "overlap_s", "extend_s", "strength")

NUMBERS = dict.fromkeys(("seed", "n", "num_inference_steps"), int) | dict.fromkeys(FLOATS, float)

TRUTHS = {"true": True, "false": False}


@dataclass
class ListItem:
    """One row of a list.

    Attributes:
        number: from 0.  error: why it cannot be made.
    """

    number: int
    fields: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def read_items(path: str | Path) -> list[ListItem]:
    """Every row that is not empty. A row that cannot be read has an error; ConfigError where the whole list cannot be read."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"list={path}: there is no such file; check the path.")
    if file.stat().st_size > MOST_BYTES:
        raise ConfigError(f"list={path} has more than {MOST_BYTES >> 20} MiB: divide it into several lists.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"list={path} is no text in UTF-8: give JSON lines or CSV.") from None
    if file.suffix.lower() == ".csv":
        rows = [{k: v for k, v in row.items() if k and v not in (None, "")} for row in csv.DictReader(text.splitlines())]
        items = [ListItem(i, row) for i, row in enumerate(rows)]
    else:
        items = [_of_line(i, line) for i, line in enumerate(line for line in text.splitlines() if line.strip())]
    if not items:
        raise ConfigError(f'list={path} holds no item: write one JSON object a line, such as {{"prompt": "a calm tune"}}.')
    return items


def _of_line(number: int, line: str) -> ListItem:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return ListItem(number, error="this line is no JSON")
    return ListItem(number, found) if isinstance(found, dict) else ListItem(number, error="this line is no JSON object")


def checked(item: ListItem, folder: Path, known: tuple[str, ...]) -> dict[str, Any]:
    """The fields of an item as the pipeline takes them. Paths are relative to `folder`. ConfigError says what is wrong."""
    if item.error:
        raise ConfigError(item.error)
    fields = {name: value for name, value in item.fields.items() if value is not None}
    if unknown := [name for name in fields if name not in (*OWN, *known)]:
        raise ConfigError(f"there is no field {unknown[0]!r}; known are {', '.join((*OWN, *known))}")
    for name, kind in NUMBERS.items():
        if name in fields:
            fields[name] = _number(name, kind, fields[name])
    if (keep := str(fields.get("keep_key", True)).lower()) not in TRUTHS:
        raise ConfigError(f"keep_key={fields['keep_key']!r} is neither true nor false")
    fields |= {"keep_key": TRUTHS[keep]} if "keep_key" in fields else {}
    for name in TEXTS:
        if not isinstance(fields.get(name, ""), str):
            raise ConfigError(f"{name}={fields[name]!r} is no text")
    if not isinstance(fields.get("labels", {}), dict):
        raise ConfigError("labels is no object of attribute and class")
    fields |= {name: str(folder / fields[name]) for name in PATHS if name in fields}
    if "out" in fields and Path(one_name("out", fields["out"])).suffix.lower()[1:] not in SOUND_FORMATS:
        raise ConfigError(f"out={fields['out']} must end in one of {', '.join(f'.{end}' for end in SOUND_FORMATS)}")
    return fields


def _number(name: str, kind: type, value: Any) -> Any:
    try:
        number = kind(value) if isinstance(value, str) or not isinstance(value, bool) else None
    except (TypeError, ValueError, OverflowError):
        number = None
    least = {"n": 1, "num_inference_steps": 1, "duration_s": 0.1, "seed": 0}.get(name, float("-inf"))
    if number is None or number != number or not least <= number < LARGEST or (kind is int and number != float(value)):
        raise ConfigError(f"{name}={value!r} is no {'whole ' if kind is int else ''}number that is allowed")
    return number
