"""`melfusion bench`: the sections one after the other, a line for each figure, and one JSON file."""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import melfusion
from melfusion.bench.comparing import Slower, read, worse
from melfusion.bench.machine import machine_name
from melfusion.bench.sections import KEYED, SECTIONS
from melfusion.bench.setting import refuse
from melfusion.bench.timing import Figure, figure
from melfusion.files import write_json


def bench(
    size: str = "tiny", only: Sequence[str] = (), out: str = "", compare: str = "", keys: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure, print and write; returns what the JSON file holds.

    Args:
        only: names of sections; none: all.
        out: the JSON file; its folder is there.
        compare: a JSON file of before; "" compares with none.
        keys: of the configuration, laid over ours.
    Raises Slower where a figure is worse than in `compare`, once all is written; ConfigError where size and machine do not fit.
    """
    refuse(size)
    tree: dict[str, Any] = {
        "size": size,
        "device": machine_name(),
        "torch": torch.__version__,
        "melfusion": melfusion.__version__,
        "threads": torch.get_num_threads(),
        "seed": 0,
        "keys": list(keys),
        "sections": {},
        "seconds": {},
    }
    before = read(Path(compare), tree) if compare else None
    print(f"bench, size {size}, on {tree['device']}, torch {tree['torch']}", flush=True)
    with tempfile.TemporaryDirectory(prefix="melfusion-bench-") as folder:
        for name in only or SECTIONS:
            started = time.perf_counter()
            figures = measured(name, size, Path(folder), keys)
            tree["sections"][name] = {label: as_dict(value) for label, value in figures.items()}
            tree["seconds"][name] = round(time.perf_counter() - started, 1)
            print("\n".join(lines(name, figures)), flush=True)
    if out:
        write_json(Path(out), tree)
    if before is not None and (found := worse(before, tree)):
        raise Slower(f"Worse than in {compare} beyond the noise of both: {'; '.join(found)}.")
    return tree


def measured(name: str, size: str, folder: Path, keys: Sequence[str]) -> dict[str, Figure]:
    """The figures of one section."""
    measure = importlib.import_module(SECTIONS[name]).measure
    found = measure(size, folder, keys) if name in KEYED else measure(size, folder)
    return {label: figure(label, value) for label, value in found.items()}


def as_dict(value: Figure) -> dict[str, Any]:
    """A figure with its raw values, for the JSON file."""
    return dataclasses.asdict(value) | {"median": value.median, "quartiles": list(value.quartiles)}


def lines(section: str, figures: dict[str, Figure]) -> list[str]:
    """The rows of the table that a section adds."""
    width = max(map(len, figures), default=0)
    return [f"{section:<10}  {label:<{width}}  {value.words()}" for label, value in figures.items()]
