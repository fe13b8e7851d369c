"""Which pictures belong to which tracks: by the game's files that name both, or by a theme that their paths share."""

from __future__ import annotations

import glob
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from melfusion.data.games.describe import Script, Theme
from melfusion.data.games.material import Link
from melfusion.data.games.scene import Skip, read_text, words

MAX_SCRIPT_BYTES = 64 << 20  # compiled maps hold the words that are looked for, too

NO_TEXT = (".png", ".jpg", ".jpeg", ".tga", ".webp", ".ogg", ".wav", ".opus", ".mp3", ".flac")


@dataclass(frozen=True)
class File:
    """`name` is its path in the data folder, `id` the package and that."""

    id: str
    name: str
    path: Path


def links(
    rule: Script | Theme,
    place: str,
    files: Sequence[File],
    tracks: Sequence[File],
    pictures: Sequence[File],
    titles: dict[str, str],
) -> list[Link]:
    """What one rule says; `titles` are those of the tracks."""
    if isinstance(rule, Theme):
        return list(_by_theme(rule, place, tracks, pictures, titles))
    return [k for text in _texts(rule, files) for k in _by_script(rule, place, text, tracks, pictures)]


def _texts(rule: Script, files: Sequence[File]) -> Iterator[tuple[PurePosixPath, str]]:
    """(path, text) of each script; of a folder its own path, and the texts of the files directly in it."""
    groups: dict[str, list[File]] = {}
    for file in files:
        name = file.name.rpartition("/")[0] + "/" if rule.files.endswith("/") else file.name
        if fnmatch(name.lower(), rule.files.lower()) and not (name.endswith("/") and file.path.suffix.lower() in NO_TEXT):
            groups.setdefault(name, []).append(file)
    for name, members in groups.items():
        try:
            yield PurePosixPath(name), "\n".join(_script(file.path) for file in members)
        except (OSError, EOFError, zlib.error, Skip):
            continue  # a script that cannot be read links nothing


def _script(path: Path) -> str:
    """A text, or a compiled or compressed map, whose words can be found like a text's."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed:
        return read_text(path, MAX_SCRIPT_BYTES)
    with gzip.open(path) as file:
        return file.read(MAX_SCRIPT_BYTES).decode("latin-1")


def _by_script(
    rule: Script, place: str, script: tuple[PurePosixPath, str], tracks: Sequence[File], pictures: Sequence[File]
) -> Iterator[Link]:
    path, text = script
    fields = {"stem": path.stem, "folder": path.parent.name}
    title = re.search(rule.title, text) if rule.title else None
    titled = words(" ".join(title[1].split())) if title else words(path.stem)
    shown = [p for name in _names(rule.picture, text) for p in _named(rule.picture_name, name, fields, pictures)]
    for name in _names(rule.track, text):
        theme = words(rule.theme.format(name, **fields)).lower()
        meant = rule.tracks.get(name, name).split("|")
        for track in (track for one in meant for track in _named(rule.track_name, one, fields, tracks)):
            yield from (Link(track.id, picture.id, rule.pairing, titled, theme, place) for picture in dict.fromkeys(shown))


def _names(pattern: str, text: str) -> Iterable[str]:
    return dict.fromkeys(match[1] for match in re.finditer(pattern, text)) if pattern else [""]


def _named(template: str, name: str, fields: dict[str, str], files: Sequence[File]) -> list[File]:
    """The files whose path ends with the name, which may lack the extension."""
    name = re.sub(r"[\\/]+", "/", name).removeprefix("./").removeprefix("/")
    wanted = template.format(glob.escape(name), **{k: glob.escape(v) for k, v in fields.items()}).lower()
    paths = ((file, file.name.lower(), file.name.lower().rpartition(".")[0]) for file in files) if wanted else ()
    return [file for file, *both in paths if any(fnmatch(p, wanted) or fnmatch(p, f"*/{wanted}") for p in both)]


def _by_theme(rule: Theme, place: str, tracks: Sequence[File], pictures: Sequence[File], titles: dict[str, str]) -> Iterator[Link]:
    """A track and each picture whose path names its theme."""
    shown = [
        (picture, rule.word or match[1].lower())
        for picture in pictures
        if (match := re.fullmatch(rule.picture, picture.name, re.I))
    ]
    for track in tracks:
        if match := re.fullmatch(rule.track, track.name, re.I):
            theme = rule.word or match[1].lower()
            wanted = rule.same.get(theme, re.escape(theme))
            said = rule.words.get(theme, words(theme).lower())
            for picture in (picture for picture, word in shown if re.fullmatch(wanted, word)):
                yield Link(track.id, picture.id, rule.pairing, titles[track.id], said, place)
