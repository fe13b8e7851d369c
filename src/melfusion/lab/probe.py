"""Could a model learn from this data set what a picture says of its music? Asked without a training of ours.

Ridge regression from ImageNet features of a track's pictures to summary features of its sound, always on tracks that it was not
fitted on. The right track is ranked among those of other games, and among the others of its own game, beside a null of moved music.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from melfusion.assembly.schema import Config
from melfusion.files import write_json, write_whole
from melfusion.lab.track_features import STRENGTHS, Tracks, read_tracks
from melfusion.metrics.ridge import Folds, directions, exchanged, permuted, ranks, whitened

FOLDS = 10


@dataclass(frozen=True)
class Question:
    """Which tracks are learned from, and which are ranked: two masks over all tracks."""

    trained: np.ndarray
    ranked: np.ndarray


def answer(tracks: Tracks, permutations: int, seed: int = 0, question: Question | None = None) -> dict[str, Any]:
    """Mean rank of the right track beside its null, in three ways.

    between: among tracks of other games; what identifies a game helps, and the null keeps that. unseen: the same for games of
    which no track was learned from. within: among the others of its game, by deviations from the game's mean alone.
    """
    everything = np.ones(len(tracks), bool)
    asked = question or Question(everything, everything)
    pictures, sounds = directions(tracks.pictures), whitened(tracks.sounds)
    games, components = np.asarray(tracks.games), np.asarray(tracks.components)
    several = len(set(tracks.games)) > 1
    other = games[:, None] != games[None] if several else components[:, None] != components[None]
    same = (games[:, None] == games[None]) & ~np.eye(len(tracks), dtype=bool)
    folds = fold_of(tracks.components, seed)
    ways = {
        "between": (folds, None, other, permuted),
        "unseen": (fold_of(tracks.games, seed), None, other, exchanged),
        "within": (folds, tracks.games, same, permuted),
    }
    if not several:
        del ways["unseen"]
    found = {}
    for way, (fold, groups, who, moves) in ways.items():
        ridge, generator = Folds.of(pictures, fold, asked.trained, groups), np.random.default_rng(seed)

        def ranked(y: np.ndarray, ridge: Folds = ridge, who: np.ndarray = who) -> np.ndarray:
            return ranks(ridge.predict(y), y, who)[asked.ranked]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # where every game has one track, none has a rank within it
            moved = [sounds[moves(tracks.games, generator)] for _ in range(permutations)]
            null = np.asarray([np.nanmean(ranked(y)) for y in moved])
        found[way] = summary(ranked(sounds), games[asked.ranked], null)
    return found | {"tracks": int(asked.ranked.sum()), "trained": int(asked.trained.sum())}


def summary(values: np.ndarray, games: np.ndarray, null: np.ndarray) -> dict[str, Any]:
    """Mean rank, its half widths over tracks and games; of the null mean, deviation, and the share that reaches that rank."""
    values, games = values[~np.isnan(values)], games[~np.isnan(values)]
    if len(values) < 2:
        return {"n": len(values)}
    by_game = np.asarray([values[games == game].mean() for game in np.unique(games)])
    over_games = 1.96 * by_game.std(ddof=1) / np.sqrt(len(by_game)) if len(by_game) > 1 else float("inf")
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "over_tracks": float(1.96 * values.std(ddof=1) / np.sqrt(len(values))),
        "games": len(by_game),
        "mean_of_games": float(by_game.mean()),
        "over_games": float(over_games),
        "null": float(null.mean()),
        "null_deviation": float(null.std()),
        "p": float((1 + (null >= values.mean()).sum()) / (1 + len(null))),
    }


def fold_of(components: Sequence[str], seed: int) -> list[int]:
    """The fold of each track; whole components, so that no picture or track of one fold is in another."""
    sizes = Counter(components)
    order = sorted(sizes, key=lambda name: (-sizes[name], name))
    generator, load, place = np.random.default_rng(seed), [0] * FOLDS, {}
    for name in order:  # the largest first, each to the emptiest fold
        place[name] = min(range(FOLDS), key=lambda fold: (load[fold], generator.random()))
        load[place[name]] += sizes[name]
    return [place[name] for name in components]


def probe(
    config: Config, splits: Sequence[str], held_out: Sequence[str], clips: int, permutations: int, halvings: int = 3
) -> dict[str, Any]:
    """The whole answer: all tracks, each pairing strength, fewer tracks to learn from, and splits that are only ranked."""
    tracks = read_tracks(config, [*splits, *held_out], clips)
    learned, held = (np.asarray([split in some for split in tracks.splits]) for some in (splits, held_out))
    found: dict[str, Any] = {"all": {}, "pairing": {}, "learned_from": {}, "held_out": {}}

    def ask(trained: np.ndarray, ranked: np.ndarray) -> dict[str, Any]:
        return answer(tracks, permutations, config.seed, Question(trained, ranked))

    found["all"] = ask(learned, learned)
    pairings = [name for name in (*STRENGTHS, "") if name in tracks.pairings]
    for name in pairings if len(pairings) > 1 else []:
        found["pairing"][name] = ask(learned, learned & np.asarray([pairing == name for pairing in tracks.pairings]))
    order = np.random.default_rng(config.seed).permutation(np.flatnonzero(learned))
    for halving in range(1, halvings + 1):
        some = np.isin(np.arange(len(tracks)), order[: len(order) >> halving])
        found["learned_from"][str(int(some.sum()))] = ask(some, learned)
    if held.any():
        found["held_out"] = ask(learned, held)
    about = {"data": str(config.data.path), "splits": list(splits), "held_out": list(held_out), "clips": clips}
    counts = {"tracks": len(tracks), "games": len(set(tracks.games)), "pairings": dict(Counter(tracks.pairings))}
    rate = {"sample_rate_hz": config.audio.sample_rate_hz, "permutations": permutations, "seed": config.seed}
    return found | {"about": about | counts | rate}


WAYS = {"between": "among other games", "unseen": "the same, games never seen", "within": "within its game"}


def table(found: dict[str, Any]) -> str:
    """The answer as a table of Markdown."""
    ways = [way for way in WAYS if way in found["all"]]
    lines = [
        "| tracks ranked | learned from | " + " | ".join(f"{WAYS[way]} | null | p" for way in ways) + " |",
        "|---" * (2 + 3 * len(ways)) + "|",
    ]
    rows = [("all", found["all"])]
    rows += [(f"paired by {name or '?'}", one) for name, one in found["pairing"].items()]
    rows += [("all", one) for one in found["learned_from"].values()]
    rows += [("held out", found["held_out"])] if found["held_out"] else []
    for name, one in rows:
        cells = [cell for way in ways for cell in _cells(one[way])]
        lines.append(f"| {name} ({one['tracks']}) | {one['trained']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(one: dict[str, Any]) -> list[str]:
    if "mean" not in one:
        return ["-", "-", "-"]
    return [f"{one['mean']:.3f} ± {one['over_tracks']:.3f}", f"{one['null']:.3f} ± {one['null_deviation']:.3f}", f"{one['p']:.3f}"]


def write(found: dict[str, Any], folder: Path) -> None:
    """probe.json and probe.md."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "probe.json", found)
    write_whole(folder / "probe.md", f"{table(found)}\n")
