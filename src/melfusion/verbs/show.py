"""What a sound file or a film says of itself: how it was made, and the command that makes it again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melfusion.errors import ConfigError
from melfusion.verbs.options import named, option
from melfusion.verbs.table import module_of


@dataclass
class Options:
    file: str | None = option(None, "a sound file or film that melfusion has written", words=1, variable="FILE", required=True)
    json: bool = option(False, "print all that the file holds, as JSON")


MORE = None
SECTIONS = ()
EXAMPLES = ("melfusion show cat.wav", "melfusion show cat.mp3 json=true")


def run(options: Options, more: list[str]) -> None:
    """Print it."""
    from melfusion.assembly.provenance import read
    from melfusion.files import as_json

    file = str(options.file)
    record = read(file)
    if record is None:
        raise ConfigError(
            f"{file} says nothing of how it was made: another program has written it, or it was made with metadata=false."
        )
    print(as_json(record).rstrip() if options.json else "\n".join(words(file, record)))


def words(file: str, record: dict[str, Any]) -> list[str]:
    """The record in plain words, what stands against making it again, and the command."""
    settings, image, model = (record.get(name) or {} for name in ("settings", "image", "model"))
    lines = [
        f"{file} was made by melfusion {record.get('melfusion')}",
        f"prompt    {record.get('prompt') or 'none'}",
        f"picture   {in_words(image) if image else 'none'}",
        f"seed      {record.get('seed')}",
        f"model     {model.get('ckpt') or 'the shipped one'} (weights {short(model.get('digest'))})",
        *(f"{name}     {in_words(one)}" for name, one in (record.get("files") or {}).items()),
        *(f"setting   {name} = {value}" for name, value in settings.items()),
    ]
    if batch := record.get("batch"):
        lines.append(f"batch     row {batch[0]} of {batch[1]} clips that were made at once")
    return [*lines, "", *(f"But: {one}" for one in warnings(record)), f"Again: {command(record, Path(file).suffix)}"]


def in_words(one: dict[str, Any]) -> str:
    """A file in words."""
    return f"{one.get('path') or 'no file, but pixels or samples in memory'} (SHA-256 {short(one.get('sha256'))})"


def short(digest: Any) -> str:
    """The first digits of a hash."""
    return f"{str(digest)[:12]}…" if digest else "unknown"


def warnings(record: dict[str, Any]) -> list[str]:
    """Why the command would make something else here; empty where nothing is known against it."""
    from melfusion import __version__
    from melfusion.assembly.provenance import SHIPPED, fingerprint

    found, model = [], record.get("model") or {}
    for name, one in ({"image": record.get("image")} | (record.get("files") or {})).items():
        if one and not one.get("path"):
            found.append(f"{name} was no file, so the command cannot name it.")
        elif one and fingerprint(Path(one["path"])) != one.get("sha256"):
            found.append(f"{one['path']} {'is another file now' if Path(one['path']).is_file() else 'is not here'}.")
    here = Path(model["ckpt"]) if model.get("ckpt") else SHIPPED
    if model.get("file") is None:
        found.append("the model was built in memory, so the command cannot name it.")
    elif fingerprint(here) != model["file"]:
        found.append(f"{here} {'is another model now' if here.exists() else 'is not here'}.")
    if model.get("overrides"):
        found.append(f"the model was loaded with {model['overrides']}: call melfusion.load(…, overrides=…) in Python.")
    if unknown := sorted(set(record.get("settings") or {}) - known(record)):
        found.append(f"this version's command line does not take {', '.join(unknown)}.")
    if record.get("melfusion") != __version__:
        found.append(f"this is melfusion {__version__}, which may compute something else.")
    return found


def verb_of(record: dict[str, Any]) -> str:
    """The verb that makes it."""
    return "film" if record.get("verb") == "film" else "generate"


def known(record: dict[str, Any]) -> set[str]:
    """The options of that verb here."""
    return set(named(module_of(verb_of(record)).Options))


def command(record: dict[str, Any], end: str) -> str:
    """`melfusion generate …`, quoted for a shell, with the options that this version takes."""
    image, model = record.get("image") or {}, record.get("model") or {}
    files = {name: one.get("path") for name, one in (record.get("files") or {}).items()}
    given = {"ckpt": model.get("ckpt"), "prompt": record.get("prompt") or None, "image": image.get("path"), **files}
    given |= {"seed": record.get("seed"), **(record.get("settings") or {})}
    if batch := record.get("batch"):
        given["batch"] = "/".join(map(str, batch))
    takes = known(record)
    items = [f"{name}={text(value)}" for name, value in given.items() if value is not None and name in takes]
    return shlex.join(["melfusion", verb_of(record), *items, f"out=again{end}"])


def text(value: Any) -> str:
    """A value as an option has it."""
    if isinstance(value, list):
        return "-".join(map(text, value))  # a span of time
    return str(value).lower() if isinstance(value, bool) else str(value)
