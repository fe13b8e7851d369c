"""Train a model, then evaluate it.

The run lies in runs/<name>/. The same command resumes it; a finished run prints its results.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melfusion import DEFAULT_CONFIG
from melfusion.verbs.imports import heavy_imports
from melfusion.verbs.options import configuration

if TYPE_CHECKING:
    from melfusion.assembly.schema import Config

log = logging.getLogger(__name__)


@dataclass
class Options:
    config: str = configuration(DEFAULT_CONFIG)


MORE = "It also takes every key of the configuration as key=value:"
SECTIONS = ("all",)
EXAMPLES = ("melfusion train", "melfusion train games,tiny name=first trainer.max_steps=200")


def run(options: Options, more: list[str]) -> None:
    """Train, evaluate, and print what came of it."""
    from melfusion.assembly.configuration import load_config

    config = load_config(options.config, more)

    with heavy_imports():
        from melfusion.cluster.slurm import refuse_login_node

    if options.config != DEFAULT_CONFIG:
        refuse_login_node(os.environ)

    with heavy_imports():
        from melfusion.evaluation.scores import evaluate_run
        from melfusion.training.run import train

    report(config, train(config, evaluate_run))


def report(config: Config, results: dict[str, Any]) -> None:
    """Print the results, where the time went, where the clips are, and what to try next."""
    from melfusion.assembly.parts import PARTS
    from melfusion.assembly.run import run_directory
    from melfusion.evaluation.tables import picture_gain

    run, seconds = run_directory(config), results.get("seconds", {})
    print(f"\n{run.path}: " + ", ".join(f"{k} {v:.4g}" for k, v in results.items() if isinstance(v, float | int)))
    print("time: " + time_taken(seconds, results.get("planned", {})))
    if results.get("replaced"):
        print(f"replaced samples: {results['replaced']}")
    if words := scored(run.path / "scores.json"):
        print(f"\n{words}\nClips: {run.samples / 'test'}; beside their references: {run.samples}")
    if PARTS[config.task].whole:
        if not config.evaluation.items and (worth := picture_gain(results)):
            print(worth)
        print(f"""Next:
  make generate CKPT={run.path} IMAGE=data/examples/sea-night-clear.png PROMPT="a tune in A minor"
  make tensorboard
  make train ARGS="name=tokens synapse.kind=concat trainer.max_steps=1000\"""")
    else:
        print("Next: `make tensorboard` shows the curves.")


def time_taken(seconds: dict[str, float], planned: dict[str, float]) -> str:
    """Seconds of each stage, its share of all, and what the plan said where there was one; a resumed run has none."""
    total = max(sum(seconds.values()), 1e-9)
    said = {stage: f", planned {planned[stage]:.0f} s" if stage in planned else "" for stage in seconds}
    return ", ".join(f"{stage} {s:.0f} s ({s / total:.0%}{said[stage]})" for stage, s in seconds.items())


def scored(file: Path) -> str:
    """A run's scores in words; empty where there are none, or none that can be read."""
    from melfusion.errors import DamagedFile
    from melfusion.evaluation.tables import learned, table
    from melfusion.files import read_json

    if not file.exists():
        return ""
    try:
        scores = read_json(file, f"it is passed over; `melfusion evaluate ckpt={file.parent}` scores again")
        return f"{table(scores)}\n\n{learned(scores)}"
    except (DamagedFile, KeyError, TypeError, AttributeError) as error:
        log.warning("%s", error if isinstance(error, DamagedFile) else f"{file} holds no scores: it is passed over.")
        return ""
