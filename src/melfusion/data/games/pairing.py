"""From the material of all games to pairs: tracks and pictures get a split first, and are paired only inside it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from melfusion.data.games.material import Link, Material, Picture, Track
from melfusion.data.shards import SPLITS
from melfusion.data.splits import components, split_components

LARGE_THEME = 8  # tracks; themes that hang together with so many are divided over the splits


@dataclass(frozen=True)
class Pair:
    """A picture shown with a track; `title`, `theme` and `place` are the link's, empty where nothing closer is known."""

    track: Track
    picture: Picture
    pairing: str
    split: str
    held_out: bool
    component: str
    title: str = ""
    theme: str = ""
    place: str = ""


def pair(material: Material, held_out: frozenset[str] = frozenset()) -> list[Pair]:
    """All pairs, by track: those of its links, else with the game's pictures in its split that belong to no track, else with all.

    held_out: games that lie wholly in the split `test`. Of every other game, 80/10/10 % of the seconds of its components with
    tracks are train, val and test, and so many of its pictures without a track. A link of a divided theme holds only inside a
    split. A track that finds no picture in its split moves to one that has pictures; without any it is left out, and counted in
    `material.skipped`.
    """
    firm, names = _components(material)
    pairs: list[Pair] = []
    for game in dict.fromkeys(track.game for track in material.tracks.values()):
        tracks = [t for t in material.tracks.values() if t.game == game]
        pictures = [p for p in material.pictures.values() if p.game == game]
        out = game in held_out
        splits = dict.fromkeys(names.values(), "test") if out else _splits(tracks, pictures, names, {k.track for k in firm})
        linked: dict[str, list[Link]] = {}
        for link in material.links:
            if splits.get(names[link.track]) == splits.get(names[link.picture]):
                linked.setdefault(link.track, []).append(link)
        pools = _pools(pictures, names, splits, {link.picture for links in linked.values() for link in links})
        for track in tracks:
            facts = (splits[names[track.id]], out, names[track.id])
            pairs += [
                Pair(track, material.pictures[k.picture], k.pairing, *facts, k.title, k.theme, k.place)
                for k in linked.get(track.id, ())
            ]
            if track.id not in linked:
                pairs += [Pair(track, picture, "game", *facts) for picture in _shuffled(track, pools[facts[0]])]
                if not pools[facts[0]]:
                    material.skipped[f"{game}: track without a picture"] += 1
    return pairs


def _components(material: Material) -> tuple[list[Link], dict[str, str]]:
    """The links that are never divided, and track or picture → its component's name.

    Those of a level are firm, and those of themes that hang together with few tracks. More of them are divided like a game.
    """
    theme = [k for k in material.links if k.pairing != "level"]
    groups = components([(k.track, k.picture) for k in theme])
    played: dict[str, set[str]] = {}
    for group, link in zip(groups, theme, strict=True):
        played.setdefault(group, set()).add(link.track)
    firm = [k for k in material.links if k.pairing == "level"]
    firm += [k for k, group in zip(theme, groups, strict=True) if len(played[group]) < LARGE_THEME]
    alone = [(t, f"alone {t}") for t in material.tracks] + [(f"alone {p}", p) for p in material.pictures]
    ties = [(f"tie {part}", item) if item in material.pictures else (item, part) for item, part in material.ties]
    pairs = [(link.track, link.picture) for link in firm] + ties + alone
    return firm, {item: name for pair, name in zip(pairs, components(pairs), strict=True) for item in pair}


def _splits(tracks: Sequence[Track], pictures: Sequence[Picture], names: dict[str, str], linked: set[str]) -> dict[str, str]:
    """Component → split, of one game. What holds a track is divided by seconds; what holds pictures alone, by their number."""
    played = {names[track.id] for track in tracks}
    loose = [picture for picture in pictures if names[picture.id] not in played]
    splits = _divide([(names[p.id], 1.0) for p in loose])
    splits |= _divide([(names[track.id], track.seconds) for track in tracks])
    there = {splits[names[picture.id]] for picture in pictures}
    for track in tracks:
        if track.id not in linked and splits[names[track.id]] not in there:
            splits[names[track.id]] = next((split for split in SPLITS if split in there), "train")
    return splits


def _divide(parts: Sequence[tuple[str, float]]) -> dict[str, str]:
    """(component, weight), … → split of each component."""
    chosen = split_components([(name, name) for name, _ in parts], weights=[weight for _, weight in parts])
    return {name: split for (name, _), split in zip(parts, chosen, strict=True)}


def _pools(
    pictures: Sequence[Picture], names: dict[str, str], splits: dict[str, str], linked: set[str]
) -> dict[str, list[Picture]]:
    """Split → the pictures that a track without links is shown with."""
    pools = {}
    for split in SPLITS:
        there = [picture for picture in pictures if splits[names[picture.id]] == split]
        pools[split] = [picture for picture in there if picture.id not in linked] or there
    return pools


def _shuffled(track: Track, pictures: Sequence[Picture]) -> list[Picture]:
    """In an order of the track's own, so that short tracks do not all show the same pictures."""
    return sorted(pictures, key=lambda picture: hashlib.sha256(f"{track.id} {picture.id}".encode()).digest())


def count(pairs: Sequence[Pair]) -> Counter[str]:
    """How many tracks each pairing has."""
    return Counter({p.track.id: p.pairing for p in pairs}.values())
