"""Which games there are, and the ⟨picture, track⟩ pairings found in their packages, each with its facts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from melfusion.data.games import flare, hedgewars, supertux, tuxracer
from melfusion.data.games.licences import licence_of, read_licences
from melfusion.data.games.scene import Found, GameScene, Skip, attempt
from melfusion.data.games.sound import track_facts

MAX_TRACK_S = 900.0  # tracks are decoded whole


@dataclass(frozen=True)
class GameTuple:
    """One pairing of a picture [256x192 RGB] with a track; `image_id` is a hash of the picture's pixels."""

    game: str
    title: str
    track: Path
    image: Image.Image
    image_id: str
    artist: str | None
    license: str
    theme: str
    place: str  # what such a place is in this game: "level", "area" …
    track_id: str  # package and path in it, the same on every machine
    track_s: float
    parts: tuple[str, ...] = ()  # art that other pictures show too; such tuples stay in one split


@dataclass(frozen=True)
class Game:
    """One Debian package; `source` is how its copyright file calls the `data` folder below usr/share/games."""

    name: str
    place: str
    data: str
    source: str
    read: Callable[[Path], Found]


GAMES = {
    "hedgewars-data": Game("Hedgewars", "battlefield", "hedgewars/Data", "share/hedgewars/Data", hedgewars.read),
    "supertux-data": Game("SuperTux", "level", "supertux2", "data", supertux.read),
    "flare-game": Game("Flare", "area", "flare/mods", "mods", flare.read),
    "extremetuxracer-data": Game("Extreme Tux Racer", "downhill race", "etr", "data", tuxracer.read),
}


def read_games(games_dir: Path, packages: Iterable[str] = tuple(GAMES)) -> tuple[list[GameTuple], dict[str, int]]:
    """All tuples below `games_dir` (one folder per package), each (track, picture) once; counts of what was skipped."""
    tuples: dict[tuple[Path, str], GameTuple] = {}
    skipped: Counter[str] = Counter()
    for package in packages:
        game = GAMES[package]
        data = (Path(games_dir) / package / "usr/share/games" / game.data).resolve()
        licences = read_licences(Path(games_dir) / package / "usr/share/doc" / package / "copyright")
        for found in attempt([data], game.read) if data.is_dir() else ["not unpacked"]:
            try:
                if isinstance(found, str):
                    raise Skip(found)
                item = _tuple(found, package, data, licences)
                if tuples.setdefault((item.track, item.image_id), item) is not item:
                    raise Skip("pair already seen")
            except Skip as skip:
                skipped[f"{game.name}: {skip}"] += 1
    return list(tuples.values()), dict(skipped)


def _tuple(scene: GameScene, package: str, data: Path, licences: list[tuple[str, str]]) -> GameTuple:
    game, track = GAMES[package], scene.track.relative_to(data).as_posix()
    facts = track_facts(scene.track)
    if facts.seconds > MAX_TRACK_S:
        raise Skip("track longer than 15 minutes")
    music = licence_of(f"{game.source}/{track}", licences)
    picture = licence_of(f"{game.source}/{scene.art.relative_to(data).as_posix()}", licences)
    level = f", level {scene.own_license}" if scene.own_license else ""
    return GameTuple(
        game=game.name,
        title=scene.title,
        track=scene.track,
        image=scene.image,
        image_id=hashlib.sha256(scene.image.tobytes()).hexdigest()[:16],
        artist=scene.artist or facts.artist,
        license=music if music == picture and not level else f"music {music}, picture {picture}{level}",
        theme=scene.theme,
        place=game.place,
        track_id=f"{package}/{track}",
        track_s=facts.seconds,
        parts=tuple(f"{package}/{part}" for part in scene.parts),
    )
