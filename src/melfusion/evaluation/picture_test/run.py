"""The test from end to end: ask, make what is missing, listen, judge, report."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from melfusion.assembly.schema import Config
from melfusion.errors import ConfigError
from melfusion.evaluation.picture_test.items import Call, Item, calls_of, from_tree, to_tree
from melfusion.evaluation.picture_test.making import make, reasons, request_of
from melfusion.evaluation.picture_test.measuring import measured
from melfusion.evaluation.picture_test.report import write
from melfusion.evaluation.picture_test.scenes import scene_items
from melfusion.evaluation.picture_test.systems import System, manifest_of
from melfusion.evaluation.picture_test.tuples import tuple_items
from melfusion.evaluation.picture_test.verdict import judged
from melfusion.evaluation.scoring import Listeners
from melfusion.files import as_json, read_json, write_json, write_whole
from melfusion.media.sound import stated_level

ITEMS, MANIFEST, MADE_BY = "items.json", "manifest.jsonl", "made_by.json"

VERSION = 1  # of what is asked


@dataclass(frozen=True)
class Asked:
    """What decides all that is asked. `data`: path of a data set of real tuples, "" for scenes; `split`: of such a set."""

    seed: int
    n: int
    data: str = ""
    split: str = "test"
    version: int = VERSION


@dataclass
class Test:
    """Items and calls, and the folder of their pictures."""

    __test__ = False  # pytest collects classes of this name

    asked: Asked
    items: list[Item]
    calls: list[Call]
    folder: Path


def prepare(asked: Asked, config: Config, folder: Path) -> Test:
    """Draw the items, or read those that the folder holds; ConfigError where these are others. Its manifest is written, too."""
    if (folder / ITEMS).is_file():
        tree = read_json(folder / ITEMS, f"remove {folder}")
        if tree["asked"] != asdict(asked):
            differing = ", ".join(f"{k}={v}" for k, v in tree["asked"].items() if v != getattr(asked, k, None))
            raise ConfigError(f"{folder} holds a picture test of {differing}: give the same, or another out=….")
        return Test(asked, *from_tree(tree), folder)
    pictures = folder / "pictures"
    if asked.data:
        items = tuple_items(config, asked.split, asked.seed, asked.n, folder)
    else:
        items = scene_items(asked.seed, asked.n, pictures)
    calls = calls_of(items, np.random.default_rng([asked.seed, 3]))
    requests = [request_of(call, folder, folder / "sounds") for call in calls]
    write_whole(folder / MANIFEST, manifest_of(requests, folder))
    write_json(folder / ITEMS, {"asked": asdict(asked), **to_tree(items, calls)})
    return Test(asked, items, calls, folder)


def claim(folder: Path, made_by: dict[str, Any]) -> None:
    """Write down who makes the sounds of a folder; ConfigError where it holds those of another."""
    file = folder / MADE_BY
    if file.is_file() and file.read_text() != as_json(made_by):
        raise ConfigError(f"{folder} holds the sounds of another system: give another out=…, or remove that folder.")
    write_json(file, made_by)


def check_manifest(test: Test, sounds: Path) -> None:
    """ConfigError where a manifest beside the sounds of a stranger is not that of this test."""
    theirs = sounds / MANIFEST
    if theirs.is_file() and theirs.read_bytes() != (test.folder / MANIFEST).read_bytes():
        raise ConfigError(f"{theirs} is not the manifest of {test.folder}: give the seed= and n= that it was written with.")


def picture_test(
    name: str, test: Test, listeners: Listeners, system: System | None = None, sounds: Path | None = None
) -> dict[str, Any]:
    """Put a system, or a folder of sounds that were made earlier, to the test, and write the reports; returns the results."""
    started, failed, folder = time.perf_counter(), {}, test.folder
    if system is not None:
        failed = make(system, test.calls, folder, listeners.audio)
    made = time.perf_counter()
    found = measured(listeners, test.items, test.calls, sounds or folder / "sounds", folder)
    failed = found.unusable | failed
    rows = {call.name: call.row for call in test.calls}
    about = {
        "system": name,
        **asdict(test.asked),
        "items": len(test.items),
        "calls": len(test.calls),
        "failed": len(failed),
        "reasons": reasons(failed),
        "failed_by_row": reasons({call: rows[call] for call in failed}),
        "networks": listeners.digests(),
        "sample_rate_hz": listeners.audio.sample_rate_hz,
        "seconds_of_a_sound": listeners.audio.clip_duration_s,
        **stated_level(listeners.audio),
        "seconds_making": round(made - started, 1),
        "seconds_listening": round(time.perf_counter() - made, 1),
    }
    results = {"about": about, **judged(found, test.items)}
    write(results, test.items, test.calls, sounds or folder / "sounds", folder, listeners.audio)
    return results
