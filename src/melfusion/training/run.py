"""A run directory is trained or resumed, with the parts that it needs; a finished one returns its results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.utilities import rank_zero_only

from melfusion.assembly.configuration import overlay
from melfusion.assembly.memory import telling_memory
from melfusion.assembly.parts import PARTS
from melfusion.assembly.run import run_directory
from melfusion.assembly.schema import Config
from melfusion.data.sources import ensure_corpus
from melfusion.errors import ConfigError, shown
from melfusion.files import locked
from melfusion.state.run_directory import RunDirectory
from melfusion.training.fit import Clock, fit_part, fit_system
from melfusion.training.precision import resolve_precision
from melfusion.training.preemption import leaving_on_signal


def stage_config(config: Config, stage: str) -> Config:
    """configs/<stage>.yaml over what the part shares with this configuration, in the run its `weights: run:NAME` names.

    The rest is left at its default, so that experiments which differ elsewhere share the part. One process trains it;
    for more, run the stage's own configuration first.
    """
    part = PARTS[stage].section
    weights = getattr(config, part).weights or ""
    if not weights.startswith("run:"):
        raise ConfigError(
            f"stages names {stage}, but {part}.weights={shown(weights)!r} is not a run: write run:NAME, or remove the stage."
        )
    shared = Config(seed=config.seed, runs_dir=config.runs_dir, audio=config.audio, data=config.data, unet=config.unet)
    for section in PARTS[stage].depends_on or ():
        setattr(shared, section, getattr(config, section))
    for name in ("accelerator", "threads", "progress_bar"):
        setattr(shared.trainer, name, getattr(config.trainer, name))
    return overlay(shared, stage, {"name": weights.removeprefix("run:"), "trainer": {"devices": "1"}})


def ensure_stages(config: Config) -> None:
    """Train the parts that are missing; a part of another configuration is refused. Of several processes one does."""
    for stage in config.stages:
        sub = stage_config(config, stage)
        run = run_directory(sub)
        run.compare()
        if run.results() is not None:  # to read needs no lock
            continue
        with locked(Path(config.runs_dir) / f".{sub.name}.lock"):
            run.compare()
            if run.results() is None:
                print(f"── {stage}: missing, so it is trained first ({sub.trainer.max_steps} steps)")
                train(sub)


Evaluate = Callable[[Config, RunDirectory, dict[str, Any]], None]


def train(config: Config, evaluate: Evaluate | None = None, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Run or resume a run directory, alone in it; returns its results. A finished run only returns them.

    Args:
        evaluate: called with the trained run and its results where evaluation.items asks for it, before the run counts as finished.
        callbacks: stand before all others of the Trainer.
    Raises Preempted where it was asked to leave; the same call then goes on.
    """
    run, clock = run_directory(config), Clock()
    hold = run.hold() if rank_zero_only.rank == 0 else contextlib.nullcontext()
    with leaving_on_signal(lambda: standing(run, clock.stage)), hold:
        return _train(config, run, clock, evaluate, callbacks)


KEPT = {
    "corpus": ", and the data set is built anew",
    "parts": ", and parts that are trained are kept",
    "precompute": ", and precomputing begins anew",
    "evaluation": ", and clips that are made are kept",
}


def standing(run: RunDirectory, stage: str) -> str:
    """Where a run is and what of it is kept, in words."""
    steps = [int(f.stem[5:]) for f in run.checkpoints.glob("step-*.ckpt") if f.stem[5:].isdecimal()]
    saved = f"step {max(steps)} of {run.max_steps} is saved" if steps else "no step is saved yet"
    return f"during {stage} of {run.path}: {saved}{KEPT.get(stage, '')}"


def _train(
    config: Config, run: RunDirectory, clock: Clock, evaluate: Evaluate | None, callbacks: Sequence[Callback]
) -> dict[str, Any]:
    run.prepare()
    if (results := run.results()) is not None:
        print(f"{run.path} is finished; another name=… or more trainer.max_steps= goes on.")
        return results
    resolve_precision(config.trainer)  # refused here, before anything is made
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    with clock("corpus"):
        ensure_corpus(config)
    if config.stages:
        with clock("parts"):
            ensure_stages(config)
    with telling_memory(config, "training"):
        if config.task == "melfusion":
            results = fit_system(config, run, clock, callbacks)
        else:
            with clock("training"):
                results = fit_part(config, run, callbacks)
    if rank_zero_only.rank == 0:
        if evaluate is not None and config.task == "melfusion" and config.evaluation.items:
            with clock("evaluation"), telling_memory(config, "evaluation"):
                evaluate(config, run, results)
        results |= {"seconds": clock.seconds}
        run.finish(results)
    return results
