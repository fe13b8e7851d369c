"""Trainings are done once: a run that depends on the same as an earlier one takes over its checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from melfusion.assembly import system as build
from melfusion.assembly.run import counts, run_directory
from melfusion.assembly.schema import Config, to_dict
from melfusion.config.check import flatten
from melfusion.data.shards import ShardSet
from melfusion.data.sources import ensure_corpus
from melfusion.errors import DamagedFile
from melfusion.evaluation.clips import identity
from melfusion.files import read_json, whole_path, write_json, write_whole

CODE_VERSION = 1  # raise when the same configuration comes to train something else

PLACES = ("data.path", "data.precompute.path", "data.precompute.batch_size")  # not what is there

BY_CONTENT = (".weights", "_weights")  # keys of files: what they hold is in the digest of the untrained system


def digest(facts: dict[str, Any]) -> str:
    """Sixteen hex digits of a plain tree."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def begun_from(config: Config) -> dict[str, Any]:
    """All that a training depends on but the machine: its configuration, its data, and every weight before the first step."""
    ensure_corpus(config)
    counted = {
        key: value
        for key, value in flatten(to_dict(config)).items()
        if counts(key, config.task) and key not in PLACES and not key.endswith(BY_CONTENT)
    }
    return {
        "code_version": CODE_VERSION,
        "configuration": counted,
        "steps": config.trainer.max_steps,
        "data": ShardSet(config.data.path, config.data).digest(),
        "untrained": identity(build.system(config)),
    }


def take_over(config: Config, note: Path) -> None:
    """Give the run of a configuration the checkpoints of the finished one that `note` names. Files are linked, not copied."""
    run = run_directory(config)
    if run.checkpoints.exists() or not note.is_file():
        return
    try:
        there = Path(read_json(note, "it is written again")["run"])
    except (DamagedFile, KeyError, TypeError):
        return
    if not (there / "checkpoints").is_dir() or not (there / "results.json").is_file():
        return
    run.prepare()
    with whole_path(run.checkpoints) as part:
        shutil.copytree(there / "checkpoints", part, copy_function=_link)
        write_whole(run.results_file, (there / "results.json").read_bytes())
    print(f"{run.path} is the training of {there}", flush=True)


def remember(config: Config, note: Path) -> None:
    """Note that the finished run of a configuration can be taken over."""
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, {"run": str(run_directory(config).path)})


def _link(source: str, target: str) -> None:
    """A second name of a file, or a copy where the disk knows no such thing. Checkpoints are replaced whole, never changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
