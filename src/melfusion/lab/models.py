"""A row's trained model, and the settings that it samples with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from melfusion.assembly.load import load_system
from melfusion.assembly.run import run_directory
from melfusion.assembly.schema import Config
from melfusion.errors import CheckpointError
from melfusion.lab.suite import Suite
from melfusion.models.system import MeLFusion


def sung(suite: Suite, row: str, seed: int, scale: float | None) -> Config:
    """The row as it sings: at the scale that was chosen for its model, or where none was looked for, at its own."""
    config = suite.config(row, seed)
    if scale is not None:
        config.sampling.guidance_scale = scale
    return config


def trained(config: Config) -> MeLFusion:
    """A row's trained model behind the row's own vocoder, whatever vocoder it was trained beside.

    CheckpointError where it was trained for longer than its suite's budget.
    """
    results = run_directory(config).results()
    if results and results["step"] > config.trainer.max_steps:
        raise CheckpointError(
            f"{run_directory(config).path} was trained for {results['step']} steps, but its suite's budget is "
            f"{config.trainer.max_steps}: remove it, or give another runs_dir=…."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    voice = [f"vocoder.{k}={'null' if v is None else v}" for k, v in dataclasses.asdict(config.vocoder).items()]
    return load_system(Path(config.runs_dir) / str(config.name), overrides=voice)[0].to(device)
