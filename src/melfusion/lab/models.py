"""The trained model of a row, and the settings that it generates with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from melfusion.assembly.load import load_system
from melfusion.assembly.run import run_directory
from melfusion.assembly.schema import Config
from melfusion.errors import CheckpointError
from melfusion.evaluation.conditions import CONDITIONS, Condition
from melfusion.lab.suite import Suite
from melfusion.models.device import best_device
from melfusion.models.system import MeLFusion


def condition_of(config: Config) -> Condition:
    """What the row's model is conditioned on when its clips are generated."""
    return CONDITIONS[config.ablation.condition]


def sampling_config(suite: Suite, row: str, seed: int, scale: float | None) -> Config:
    """The row's configuration with the guidance scale that was chosen for its model; its own scale for None."""
    config = suite.config(row, seed)
    return config if scale is None else with_scale(config, scale)


def with_scale(config: Config, scale: float) -> Config:
    """A copy of the configuration with another guidance scale."""
    return dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, guidance_scale=scale))


def trained(config: Config) -> MeLFusion:
    """A row's trained model with the row's own vocoder, whatever vocoder it was trained with.

    CheckpointError where it was trained for more steps than its suite allows.
    """
    results = run_directory(config).results()
    if results and results["step"] > config.trainer.max_steps:
        raise CheckpointError(
            f"{run_directory(config).path} was trained for {results['step']} steps, but its suite's budget is "
            f"{config.trainer.max_steps}: remove it, or give another runs_dir=…."
        )
    vocoder = [f"vocoder.{k}={'null' if v is None else v}" for k, v in dataclasses.asdict(config.vocoder).items()]
    return load_system(Path(config.runs_dir) / str(config.name), overrides=vocoder)[0].to(best_device())
