"""Reads a described game: its tracks and pictures by globs, and the links between them (links.py)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from melfusion.data.games.describe import Described, matches
from melfusion.data.games.drawing import open_scene
from melfusion.data.games.licences import licence_of, read_licences
from melfusion.data.games.links import File, links
from melfusion.data.games.material import Material, Picture, Track, digest, likeness
from melfusion.data.games.scene import Skip
from melfusion.data.games.sound import named, track_facts

LEAST_TRACK_S, MOST_TRACK_S = 20.0, 1800.0  # what is shorter is a jingle or an effect; tracks are decoded whole


def read(games_dir: Path, game: Described) -> Material:
    """All of one game. A package that is not unpacked gives nothing, and is counted."""
    found = Material()
    files: dict[str, File] = {}
    for package in game.packages:
        folder = Path(games_dir) / package.name
        rules = read_licences(folder / "usr/share/doc" / package.name / "copyright")
        if not folder.is_dir():
            found.skipped[f"{game.name}: {package.name} not unpacked"] += 1
        for name, path in _walk(folder / package.data):
            file = File(f"{package.name}/{name}", name, path)
            files[file.id] = file
            try:
                if matches(name, game.tracks):
                    _add_track(found, game, file, package.licence or licence_of(package.source + name, rules))
                elif matches(name, game.pictures):
                    _add_picture(found, game, file, package.licence or licence_of(package.source + name, rules))
            except Skip as skip:
                found.skipped[f"{game.name}: {skip}"] += 1
    tracks = [files[name] for name in found.tracks]
    pictures = [files[name] for name in found.pictures]
    titles = {name: track.title for name, track in found.tracks.items()}
    for picture in pictures if game.together else ():
        if match := re.match(game.together, picture.name, re.I):
            found.ties.append((picture.id, f"{game.name} {match[1].lower()}"))
    for rule in game.pairs:
        found.links += links(rule, game.place, list(files.values()), tracks, pictures, titles)
    return found


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """(path below `root` with slashes, path) of all files, in order; links are left out, since they may lead anywhere."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(root).as_posix(), path


def _add_track(found: Material, game: Described, file: File, licence: str) -> None:
    facts = track_facts(file.path)
    if not LEAST_TRACK_S <= facts.seconds <= MOST_TRACK_S:
        raise Skip(f"track shorter than {LEAST_TRACK_S:g} s or longer than {MOST_TRACK_S:g} s")
    artist, title = named(file.path.stem)
    artist = facts.artist or artist or game.artist
    found.tracks[file.id] = Track(
        file.id, game.name, file.path, facts.seconds, facts.title or title, artist or None, licence, digest(file.path)
    )


def _add_picture(found: Material, game: Described, file: File, licence: str) -> None:
    crop = next((size for pattern, size in game.crop.items() if matches(file.name, (pattern,))), None)
    image = open_scene(file.path, crop)
    found.pictures[file.id] = Picture(file.id, game.name, licence, digest(file.path), likeness(image), file.path, crop)
