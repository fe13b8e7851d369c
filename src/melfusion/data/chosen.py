"""Which samples of a training split are trained on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import Any

from melfusion.data.dataset import MusicDataset
from melfusion.data.options import DataConfig
from melfusion.errors import DataError


def trained_on(dataset: MusicDataset, data: DataConfig, duration_s: float) -> MusicDataset:
    """What data.leave_out and data.hours leave of a split, for clips of so many seconds.

    Raises DataError where that is nothing, or where a label is named that no sample has.
    """
    if data.leave_out:
        dataset = dataset.pick(_kept(dataset, data))
    return dataset if data.hours is None else dataset.pick(_first_tracks(dataset, 3600 * data.hours / duration_s))


def left_out(labels: dict[str, Any], patterns: list[dict[str, str]]) -> bool:
    """Do the labels have all values of any of the patterns (data.leave_out)?"""
    return any(all(name in labels and str(labels[name]) == str(value) for name, value in pattern.items()) for pattern in patterns)


def _labels(dataset: MusicDataset) -> list[dict[str, Any]]:
    return [dataset.reader.meta(entry).get("labels") or {} for entry in dataset.entries]


def _kept(dataset: MusicDataset, data: DataConfig) -> list[int]:
    labels = _labels(dataset)
    if unknown := set().union(*data.leave_out) - set().union(*labels):
        raise DataError(f"data.leave_out names the label {min(unknown)!r}, which no sample of {data.path} has.")
    kept = [place for place, label in enumerate(labels) if not left_out(label, data.leave_out)]
    if not kept:
        raise DataError(f"data.leave_out leaves no sample of {data.path} to train on: name fewer labels.")
    return kept


def _first_tracks(dataset: MusicDataset, clips: float) -> list[int]:
    """The places of whole tracks, in an order given by their names' hashes, until there are so many clips.

    So what a smaller number takes is a part of what a larger one takes.
    """
    tracks: dict[str, list[int]] = defaultdict(list)
    for place, (entry, label) in enumerate(zip(dataset.entries, _labels(dataset), strict=True)):
        tracks[str(label.get("track") or entry.key)].append(place)
    kept: list[int] = []
    for name in sorted(tracks, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(kept) < clips:
            kept += tracks[name]
    return sorted(kept)
