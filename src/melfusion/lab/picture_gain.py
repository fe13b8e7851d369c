"""What the right picture is worth to a trained model on real tuples, by three measures, each paired by clip.

Means are of tracks, and of games: clips of one track resemble each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from melfusion.assembly.parts import noise_shapes
from melfusion.assembly.schema import Config
from melfusion.data.datamodule import MusicDataModule
from melfusion.errors import DataError
from melfusion.evaluation.conditions import others
from melfusion.evaluation.sets import metas_of
from melfusion.files import write_json, write_whole
from melfusion.lab.picture_clips import Measures, clip_measures
from melfusion.lab.picture_loss import TIMES, losses
from melfusion.metrics.intervals import mean_interval
from melfusion.models.system import MeLFusion
from melfusion.training.precompute import ensure_precomputed

Labels = Sequence[dict[str, Any]]

MEASURES = {  # name → its heading, and what a gain is multiplied with
    "loss": ("loss, × 1000", 1000.0),
    "distance": ("KAD to its game", 1.0),
    "nearness": ("likeness to its game", -1.0),  # a part of KAD
    "retrieval": ("rank of its picture, × 100", -100.0),  # higher ranks and likenesses are better, a smaller loss and distance are
}


def picture_gain(
    config: Config,
    system: MeLFusion,
    split: str,
    n: int,
    clips: int,
    folder: Path,
    words: bool = True,
    measures: Measures | None = None,
) -> dict[str, Any]:
    """What another picture costs, over tracks and over games; of games held out apart.

    Args:
        n: clips for the loss.  clips: generated of each track for the other two measures; 0 leaves these out.
        words: False: all have the empty caption.
        measures: of the clips; None makes them of the data set, which takes minutes.
    """
    found, labels = picture_losses(config, system, split, n, words)
    rows = compared("loss", found, labels)
    about = {"split": split, "n": len(labels), "clips": clips, "seed": config.seed, "times": TIMES, "words": words}
    about["loss"] = float(found["right"].mean())
    if clips:
        there, of = folder / ("clips" if words else "clips-without-words"), measures or Measures.of(config, split)
        measured, labels = clip_measures(config, system, split, clips, there, words, of)
        for measure, values in measured.items():
            rows |= compared(measure, values, labels)
            about[measure] = {name: means_of(one, np.ones(len(one), bool), labels) for name, one in values.items()}
    return {"rows": rows, "about": about}


def picture_losses(config: Config, system: MeLFusion, split: str, n: int, words: bool) -> tuple[dict[str, np.ndarray], Labels]:
    """Name of the picture → (N,) losses, and the labels of the clips."""
    data = dataclasses.replace(config.data, crop="start")
    provenance = None
    if config.data.precompute.enabled:
        folder, provenance = ensure_precomputed(config, system)
        data = dataclasses.replace(data, path=str(folder))
    module = MusicDataModule(data, config.audio, config.seed, noise_shapes=noise_shapes(config, system), provenance=provenance)
    dataset = module.dataset(split).spread(n)
    labels = [meta["labels"] for meta in metas_of(dataset)]
    if len({str(one.get("game")) for one in labels}) < 2:
        raise DataError(f"{config.data.path}: the clips for {split} are of one game, so no other game's picture can be shown.")
    return losses(system, dataset, others(labels, config.seed), config.evaluation.batch_size, words), labels


def compared(measure: str, values: dict[str, np.ndarray], labels: Labels) -> dict[str, Any]:
    """Row → what its picture costs by this measure: its value minus that with the right picture, or the other way round."""
    sign, right = np.sign(MEASURES[measure][1]), values["right"]
    held = np.asarray([bool(one.get("held_out")) for one in labels])
    groups = {"all": np.ones(len(labels), bool)} | ({"games learned from": ~held, "held-out games": held} if held.any() else {})
    return {
        f"{measure}: {name} picture" + (f", {group}" if len(groups) > 1 else ""): means_of(sign * (one - right), keep, labels)
        for name, one in values.items()
        if name not in ("right", "real")
        for group, keep in groups.items()
        if keep.any()
    }


def means_of(values: np.ndarray, keep: np.ndarray, labels: Labels) -> dict[str, Any]:
    """Mean and half width over tracks and over games, each of which counts once."""
    keep = keep & ~np.isnan(values)
    found: dict[str, Any] = {"clips": int(keep.sum())}
    for name in ("track", "game"):
        of = np.asarray([str(one.get(name)) for one in labels])[keep]
        means = [float(values[keep][of == one].mean()) for one in np.unique(of)]
        if means:
            mean, half = mean_interval(means)
            found[f"{name}s"] = {"n": len(means), "mean": mean, "interval": half}
    return found


def table(found: dict[str, Any]) -> str:
    """What other pictures cost as a table of Markdown."""
    lines = ["| what another picture costs | clips | over tracks | over games |", "|---|---|---|---|"]
    for name, row in found["rows"].items():
        measure, _, shown = name.partition(": ")
        heading, factor = MEASURES[measure]
        cells = [cell(row[key], abs(factor)) for key in ("tracks", "games") if key in row]
        lines.append(f"| {heading}: {shown} | {row['clips']} | {' | '.join(cells) or '- | -'} |")
    return "\n".join(lines)


def cell(one: dict[str, Any], factor: float = 1.0) -> str:
    """mean ± half width (number)"""
    return f"{factor * one['mean']:.2f} ± {factor * one['interval']:.2f} ({one['n']})"


def write(found: dict[str, Any], folder: Path) -> None:
    """picture_gain.json and picture_gain.md, or the same without words."""
    name = "picture_gain" if found["about"]["words"] else "picture_gain_without_words"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", found)
    write_whole(folder / f"{name}.md", f"{table(found)}\n")
