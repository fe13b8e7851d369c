"""Could a model learn from this data set what a picture says of its music? Asked without a training of ours.

Ridge regression from ImageNet features of a track's pictures to summary features of its sound, always on tracks that it was not
fitted on. The right track is ranked among those of other games, and among the others of its own game. The null permutes the
music within each game.
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
from melfusion.metrics.ridge import Folds, apart, permuted, ranks, standardised, whitened

FOLDS = 10


@dataclass(frozen=True)
class Question:
    """Which tracks are learned from, and which are ranked: two masks over all tracks."""

    trained: np.ndarray
    ranked: np.ndarray


def answer(tracks: Tracks, permutations: int, seed: int = 0, question: Question | None = None) -> dict[str, Any]:
    """Mean rank of the right track, between games and within its own, each beside its null."""
    everything = np.ones(len(tracks), bool)
    asked = question or Question(everything, everything)
    pictures, sounds = standardised(tracks.pictures), whitened(tracks.sounds)
    folds = Folds.of(pictures, fold_of(tracks.components, seed), asked.trained)
    games, components = np.asarray(tracks.games), np.asarray(tracks.components)
    other = games[:, None] != games[None] if len(set(tracks.games)) > 1 else components[:, None] != components[None]
    same = (games[:, None] == games[None]) & ~np.eye(len(tracks), dtype=bool)
    found, generator = {}, np.random.default_rng(seed)
    null: dict[str, list[float]] = {"between": [], "within": []}
    ways = {"between": other, "within": same}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a game of one track has no mean within it
        distances = apart(folds.predict(sounds), sounds)
        real = {way: ranks(distances, who)[asked.ranked] for way, who in ways.items()}
        for _ in range(permutations):
            moved = sounds[permuted(tracks.games, generator)]
            distances = apart(folds.predict(moved), moved)
            for way, who in ways.items():
                null[way].append(float(np.nanmean(ranks(distances, who)[asked.ranked])))
        for way, values in real.items():
            found[way] = told(values, games[asked.ranked], np.asarray(null[way]))
    return found | {"tracks": int(asked.ranked.sum()), "trained": int(asked.trained.sum())}


def told(values: np.ndarray, games: np.ndarray, null: np.ndarray) -> dict[str, Any]:
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


def probe(config: Config, splits: Sequence[str], clips: int, permutations: int, parts: int = 4) -> dict[str, Any]:
    """The whole answer: all tracks, each pairing strength, and fewer tracks to learn from, each time half as many."""
    tracks = read_tracks(config, splits, clips)
    everything = np.ones(len(tracks), bool)
    pairings = [name for name in (*STRENGTHS, "") if name in tracks.pairings]
    found: dict[str, Any] = {"all": answer(tracks, permutations, config.seed), "pairing": {}, "learned_from": {}}
    for name in pairings if len(pairings) > 1 else []:
        ranked = np.asarray([pairing == name for pairing in tracks.pairings])
        found["pairing"][name] = answer(tracks, permutations, config.seed, Question(everything, ranked))
    order = np.random.default_rng(config.seed).permutation(len(tracks))
    for halvings in range(1, parts):
        trained = np.zeros(len(tracks), bool)
        trained[order[: len(tracks) >> halvings]] = True
        found["learned_from"][str(int(trained.sum()))] = answer(tracks, permutations, config.seed, Question(trained, everything))
    about = {"data": str(config.data.path), "splits": list(splits), "clips": clips, "permutations": permutations}
    counts = {"tracks": len(tracks), "games": len(set(tracks.games)), "pairings": dict(Counter(tracks.pairings))}
    return found | {"about": about | counts | {"seed": config.seed, "sample_rate_hz": config.audio.sample_rate_hz}}


def table(found: dict[str, Any]) -> str:
    """The answer as a table of Markdown."""
    lines = [
        "| tracks ranked | learned from | among other games | chance, permuted | p | within its game | chance, permuted | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = {"all": found["all"]} | {f"paired by {name or '?'}": one for name, one in found["pairing"].items()}
    for name, one in [*rows.items(), *(("all", one) for one in found["learned_from"].values())]:
        cells = [cell for way in ("between", "within") for cell in _cells(one[way])]
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
