"""The corpus of all games: reading the chosen ones, and the samples that their pairs give."""

from __future__ import annotations

import functools
import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from melfusion.data.games import described
from melfusion.data.games.catalogue import DESCRIBED
from melfusion.data.games.clips import clips_of, flac, key
from melfusion.data.games.licences import allowed
from melfusion.data.games.material import Link, Material, Picture, Track, digest, in_words, likeness, merge
from melfusion.data.games.packages import ELSEWHERE, Archives
from melfusion.data.games.pairing import Pair, pair
from melfusion.data.games.sound import named, track_facts
from melfusion.data.games.tuples import GAMES, GameTuple, read_games
from melfusion.data.shards import Sample
from melfusion.errors import DataError

logger = logging.getLogger(__name__)

SMALL = {game.name.replace(" ", "").lower(): package for package, game in GAMES.items()}  # the games that readers draw

MAX_CLIPS = 400  # of a track: 20 minutes of 3-s clips


def chosen(games: str) -> list[str]:
    """'all', 'small', or names with commas between them → the games' names; DataError names those that there are."""
    known = [*SMALL, *DESCRIBED]
    names = {"all": known, "small": list(SMALL)}.get(games) or games.split(",")
    if unknown := [name for name in names if name not in known]:
        raise DataError(f"games={games}: there is no game {unknown[0]!r}; known are all, small, {', '.join(known)}.")
    return names


def packages_of(games: list[str]) -> dict[str, Archives | None]:
    """The packages of the chosen games, and the archives in them, as packages.download takes them."""
    found: dict[str, Archives | None] = {SMALL[name]: None for name in games if name in SMALL}
    for game in (DESCRIBED[name] for name in games if name in DESCRIBED):
        found |= {p.name: Archives(p.data, p.archives, game.wants) if p.archives else None for p in game.packages}
    return found


def read(games_dir: Path, games: list[str], licence: str = "any") -> Material:
    """The material of the chosen games; held-out ones come last, so that what they share with others is not kept for tests."""
    order = sorted(games, key=lambda name: name in DESCRIBED and DESCRIBED[name].held_out)
    whole = merge(drawn(games_dir, SMALL[name]) if name in SMALL else described.read(games_dir, DESCRIBED[name]) for name in order)
    for track in [t for t in whole.tracks.values() if not allowed(t.licence, licence)]:
        whole.skipped[f"{whole.tracks.pop(track.id).game}: track of another licence"] += 1
    for picture in [p for p in whole.pictures.values() if not allowed(p.licence, licence)]:
        whole.skipped[f"{whole.pictures.pop(picture.id).game}: picture of another licence"] += 1
    whole.links = [link for link in whole.links if link.track in whole.tracks and link.picture in whole.pictures]
    return whole


def drawn(games_dir: Path, package: str) -> Material:
    """The material of a game whose level files are read and drawn: every link is one of the level."""
    tuples, skipped = read_games(games_dir, [package])
    found = Material(skipped=Counter(skipped))
    for item in tuples:
        if item.track_s < described.LEAST_TRACK_S:
            found.skipped[f"{item.game}: track shorter than {described.LEAST_TRACK_S:g} s"] += 1
            continue
        picture = f"{package}/{item.image_id}"
        licences = item.license.removeprefix("music ").split(", ", 1)
        art = item.license.partition("picture ")[2] or licences[0]
        found.tracks.setdefault(item.track_id, _track(item, licences[0]))
        found.pictures.setdefault(picture, Picture(picture, item.game, art, item.image_id, likeness(item.image), drawn=item.image))
        found.links.append(Link(item.track_id, picture, "level", item.title, item.theme, item.place))
        found.ties += [(picture, part) for part in item.parts]
    return found


def _track(item: GameTuple, licence: str) -> Track:
    title = track_facts(item.track).title or named(item.track.stem)[1]
    return Track(item.track_id, item.game, item.track, item.track_s, title, item.artist, licence, digest(item.track))


def pairs(games_dir: Path, games: list[str], licence: str = "any") -> tuple[list[Pair], Material]:
    """All pairs of the chosen games, and what they were made of. DataError where no game is there."""
    material = read(games_dir, games, licence)
    held_out = frozenset(game.name for game in DESCRIBED.values() if game.held_out)
    found = pair(material, held_out)
    if not found:
        raise DataError(f"{games_dir} holds none of the games {', '.join(games)}: run `make data-games`, or {ELSEWHERE}.")
    return found, material


def caption(one: Pair, tempo_bpm: int | None) -> str:
    """'Game music for TITLE, a THEME PLACE in GAME, by ARTIST, N BPM.'; without a level: 'Game music TITLE, for a THEME PLACE …'.

    The title is the level's, or else the track's. What is unknown or said twice is left out.
    """
    level = one.pairing == "level"
    title = one.title if level else one.track.title
    kind = one.place if one.theme.casefold() == title.casefold() else f"{one.theme} {one.place}".strip()
    where = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} in {one.track.game}" if kind else one.track.game
    text = f"Game music for {title}, {where}" if level else f"Game music {title}, for {where}"
    return text + (f", by {one.track.artist}" if one.track.artist else "") + (f", {tempo_bpm} BPM." if tempo_bpm else ".")


def samples(found: Iterable[Pair], clip_duration_s: float, sample_rate_hz: int, counts: Counter[str]) -> Iterator[Sample]:
    """Non-overlapping clips of every track, each with one picture: audible clip j goes to picture j mod their number."""
    groups: dict[str, list[Pair]] = {}
    for one in found:
        groups.setdefault(one.track.id, []).append(one)
    for group in groups.values():
        clips = clips_of(group[0].track.path, clip_duration_s, sample_rate_hz, MAX_CLIPS, counts)
        for number, clip in enumerate(clips):
            one = group[number % len(group)]
            labels = {"tempo_bpm": clip.tempo_bpm, "start_s": clip.start_s, "component": one.component, "pairing": one.pairing}
            yield _sample(one, flac(clip.audio, sample_rate_hz), labels)
    logger.warning("games: left out: %s", in_words(counts))


def _sample(one: Pair, audio: bytes, labels: dict) -> Sample:
    track, picture = one.track, one.picture
    same = track.licence == picture.licence
    about = {"game": track.game, "track": track.id, "artist": track.artist, "image_id": picture.id, "held_out": one.held_out}
    meta = {
        "caption": caption(one, labels["tempo_bpm"]),
        "title": one.title or track.title,
        "source": f"games: Debian package {track.id.split('/')[0]}",
        "license": track.licence if same else f"music {track.licence}, picture {picture.licence}",
        "split": one.split,
        "labels": labels | about | {"theme": one.theme},
    }
    return Sample(key(track.game, track.path, track.id, labels["start_s"]), audio, "flac", _jpeg(picture), "jpg", meta)


@functools.lru_cache(maxsize=1024)
def _jpeg(picture: Picture) -> bytes:
    """The whole picture, its short side 256 px at most."""
    data = io.BytesIO()
    picture.open().save(data, "JPEG", quality=92)
    return data.getvalue()
