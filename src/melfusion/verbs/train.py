"""`melfusion train`: train, then evaluate."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from melfusion.assembly.run import run_directory
from melfusion.assembly.schema import Config
from melfusion.errors import DamagedFile
from melfusion.evaluation.scores import evaluate_run
from melfusion.evaluation.tables import learned, picture_gain, table
from melfusion.files import read_json
from melfusion.training.run import train

log = logging.getLogger(__name__)


def run(config: Config) -> None:
    """Train, evaluate, and say what came of it."""
    report(config, train(config, evaluate_run))


def report(config: Config, results: dict[str, Any]) -> None:
    """What was learned, where the time went, where the sounds are, what to try next."""
    run, seconds = run_directory(config), results.get("seconds", {})
    total = sum(seconds.values())
    print(f"\n{run.path}: " + ", ".join(f"{k} {v:.4g}" for k, v in results.items() if isinstance(v, float | int)))
    print("time: " + ", ".join(f"{stage} {s:.0f} s ({s / max(total, 1e-9):.0%})" for stage, s in seconds.items()))
    if results.get("replaced"):
        print(f"replaced samples: {results['replaced']}")
    if words := scored(run.path / "scores.json"):
        print(f"\n{words}\nSounds: {run.samples / 'test'}, and beside their references {run.samples}")
    if config.task == "melfusion":
        if not config.evaluation.items and (worth := picture_gain(results)):
            print(worth)
        print(f"""Next:
  make generate CKPT={run.path} IMAGE=data/examples/sea-night-clear.png PROMPT="a tune in A minor"
  make tensorboard
  make train ARGS="name=mix synapse.kind=kv_mix\"""")
    else:
        print("Look: `make tensorboard` shows the curves.")


def scored(file: Path) -> str:
    """A run's scores in words; empty where there are none, or none that can be read."""
    if not file.exists():
        return ""
    try:
        scores = read_json(file, f"it is passed over; `melfusion evaluate ckpt={file.parent}` scores again")
        return f"{table(scores)}\n\n{learned(scores)}"
    except (DamagedFile, KeyError, TypeError, AttributeError) as error:
        log.warning("%s", error if isinstance(error, DamagedFile) else f"{file} holds no scores: it is passed over.")
        return ""
