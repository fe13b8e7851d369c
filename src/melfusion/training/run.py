"""`train`: start or resume the run of a configuration, and train the missing parts that it needs first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback

from melfusion.assembly.configuration import overlay
from melfusion.assembly.memory import keep_freed_memory, telling_memory
from melfusion.assembly.parts import PARTS
from melfusion.assembly.run import run_directory
from melfusion.assembly.schema import Config
from melfusion.data.sources import ensure_corpus, seconds_to_draw
from melfusion.errors import ConfigError, shown
from melfusion.files import locked
from melfusion.state.run_directory import RunDirectory
from melfusion.training.fit import StageClock, fit_part, fit_system, wants_a_plan
from melfusion.training.lightning_private import rank
from melfusion.training.precision import attention_in_float32_on_cpu, settled
from melfusion.training.preemption import leaving_on_signal


def stage_config(config: Config, stage: str) -> Config:
    """The configuration that trains a part: configs/<stage>.yaml over the keys that the part shares with this configuration.

    Its run is the one that `weights: run:NAME` of the part names. All other keys keep their defaults, so that experiments that
    differ elsewhere share the part. One process trains it; to use more, run the configuration of the stage first.
    """
    part = PARTS[stage].section
    weights = getattr(config, part).weights or ""
    if not weights.startswith("run:"):
        raise ConfigError(
            f"stages names {stage}, but {part}.weights={shown(weights)!r} is not a run: write run:NAME, or remove the stage."
        )
    shared = Config(seed=config.seed, runs_dir=config.runs_dir, audio=config.audio, data=config.data)
    for section in ("codec", "denoiser", *(PARTS[stage].depends_on or ())):  # the first two say what fits `audio`
        setattr(shared, section, getattr(config, section))
    for name in ("accelerator", "threads", "progress_bar"):
        setattr(shared.trainer, name, getattr(config.trainer, name))
    return overlay(shared, stage, {"name": weights.removeprefix("run:"), "trainer": {"devices": "1"}})


def ensure_stages(config: Config) -> None:
    """Train the parts that are missing. One of several processes does. ConfigError for a part of another configuration."""
    for stage in config.stages:
        sub = stage_config(config, stage)
        run = run_directory(sub)
        run.compare()
        if run.results() is not None:  # reading needs no lock
            continue
        with locked(Path(config.runs_dir) / f".{sub.name}.lock"):
            run.compare()
            if run.results() is None:
                print(f"── {stage}: missing, so it is trained first ({sub.trainer.max_steps} steps)")
                train(sub)


Evaluate = Callable[[Config, RunDirectory, dict[str, Any]], None]


def train(config: Config, evaluate: Evaluate | None = None, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Start or resume the run of a configuration; returns its results. A finished run only returns them.

    Args:
        evaluate: called on rank 0 with the configuration, the trained run and its results if evaluation.items is above 0, before
            the run counts as finished.
        callbacks: stand before all other callbacks of the Trainer.
    Raises Preempted when the process was asked to leave, and the same call then goes on; ConfigError when another process has the
    run, or when it is of another configuration.
    """
    config = settled(config, run_directory(config).stored())
    run, clock = run_directory(config), StageClock()
    hold = run.hold() if rank() == 0 else contextlib.nullcontext()
    with leaving_on_signal(lambda: what_is_kept(run, clock.stage)), hold:
        return _train(config, run, clock, evaluate, callbacks)


KEPT = {
    "corpus": ", and the data set is built anew",
    "parts": ", and parts that are trained are kept",
    "precompute": ", and precomputing goes on after its last whole shard",
    "evaluation": ", and clips that are made are kept",
}


def what_is_kept(run: RunDirectory, stage: str) -> str:
    """In words: the stage of a run, the newest step that is saved, and what the stage keeps."""
    steps = [int(f.stem[5:]) for f in run.checkpoints.glob("step-*.ckpt") if f.stem[5:].isdecimal()]
    saved = f"step {max(steps)} of {run.max_steps} is saved" if steps else "no step is saved yet"
    return f"during {stage} of {run.path}: {saved}{KEPT.get(stage, '')}"


def _train(
    config: Config, run: RunDirectory, clock: StageClock, evaluate: Evaluate | None, callbacks: Sequence[Callback]
) -> dict[str, Any]:
    run.prepare()
    if (results := run.results()) is not None:
        print(f"{run.path} is finished; another name=… or more trainer.max_steps= goes on.")
        return results
    attention_in_float32_on_cpu()
    keep_freed_memory()
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    with clock("corpus"):
        if wants_a_plan(config, run) and (drawing := seconds_to_draw(config)):
            clock.plan({"corpus": drawing})
        ensure_corpus(config)
    if config.stages:
        with clock("parts"):
            ensure_stages(config)
    with telling_memory(config, "training"):
        if PARTS[config.task].whole:
            results = fit_system(config, run, clock, callbacks)
        else:
            with clock("training"):
                results = fit_part(config, run, clock, callbacks)
    if rank() == 0:
        if evaluate is not None and PARTS[config.task].whole and config.evaluation.items:
            with clock("evaluation"), telling_memory(config, "evaluation"):
                evaluate(config, run, results)
        results |= {"seconds": clock.seconds, "planned": clock.planned}
        run.finish(results)
    return results
