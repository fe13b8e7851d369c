"""Precompute: what it costs to read a clip, compute what is stored of it, and pack that, on one core or one GPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from melfusion.bench.setting import READINGS, built, ours
from melfusion.bench.timing import Figure, timed
from melfusion.data.shards import Sample
from melfusion.training.stored_samples import computed_samples

BATCH = 8  # clips at once


def measure(size: str, folder: Path, keys: Sequence[str] = ()) -> dict[str, Figure | float]:
    """Milliseconds per clip of each batch, for both readings of the picture."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a core at a time: several of them share the clips
    try:
        return {f"a clip, {way}": of_reading(size, folder, keys, READINGS[way]) for way in READINGS}
    finally:
        torch.set_num_threads(threads)


def of_reading(size: str, folder: Path, keys: Sequence[str], reading: str) -> Figure:
    """Milliseconds per clip, a value for each batch of the corpus; the first batch warms up."""
    config = ours(size, folder, [*keys, f"image.reading={reading}", f"data.precompute.batch_size={BATCH}"])
    samples = computed_samples(config, built(config).eval(), "bench")
    each: list[float] = []
    while True:
        clips: list[Sample] = []
        seconds = timed(partial(clips.extend, itertools.islice(samples, BATCH)))
        if not clips:
            return Figure("ms", each[1:], setting={"reading": reading, "batch": BATCH, "threads": 1})
        each.append(1000 * seconds / len(clips))
