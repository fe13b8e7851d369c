"""A configuration → its run directory, and which keys make another experiment."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from melfusion.assembly.schema import Config, to_dict
from melfusion.config.check import flatten
from melfusion.state.run_directory import RunDirectory

# Keys that may change between two calls of the same run without making it another experiment
SAFE_PREFIXES = (
    "name",
    "runs_dir",
    "stages",
    "sampling.",
    "data.num_workers",
    "data.max_bad_ratio",
    "data.cache_",
    "data.retries",
    "data.timeout_s",
    "data.min_rate",
    "data.source",
    "data.draw",
    "data.val_items",
    "data.max_scenes",
    "vocoder.",
    "judge.",
    "towers.",
    "evaluation.",
    "ablation.",
    "trainer.max_steps",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.accumulate",
    "trainer.micro_batch_size",
    "unet.gradient_checkpointing",
    "trainer.val_every",
    "trainer.checkpoint_every",
    "trainer.keep_",
    "trainer.async_checkpoints",
    "guards.",
    "trainer.log_every",
    "trainer.media_",
    "trainer.progress_bar",
    "trainer.threads",
)

# What a part that trains itself does not depend on, beside the safe keys
PART_PREFIXES = {
    "music_vae": ("audio.", "data.", "music_vae.", "optim.", "trainer.", "seed", "task"),
    "vocoder": ("audio.", "data.", "vocoder.", "optim.", "trainer.", "seed", "task"),
    "judge": ("audio.", "data.", "judge.", "optim.", "trainer.", "seed", "task"),
    "towers": ("audio.", "data.", "towers.", "text_encoder.", "optim.", "trainer.", "seed", "task"),
    "image_diffusion": ("audio.", "data.", "image.", "diffusion.", "optim.", "trainer.", "seed", "task"),
}

PART_SAFE = (
    "image.reading",
    "image.grid_steps",
    "image.fixed_timestep",
    "data.precompute.",
    "optim.ema_decay",
    "optim.alpha_lr",
    "diffusion.prediction_type",
    "diffusion.min_snr",
    "diffusion.loss_space",
    "diffusion.text_drop",
    "diffusion.image_drop",
    "diffusion.both_drop",
)


def counts(key: str, task: str) -> bool:
    """Does a difference in this key make a run of this task another experiment?"""
    if key.startswith(SAFE_PREFIXES) and not key.startswith(f"{task}."):
        return False
    return task not in PART_PREFIXES or (key.startswith(PART_PREFIXES[task]) and not key.startswith(PART_SAFE))


def run_directory(config: Config) -> RunDirectory:
    """<runs_dir>/<name> of this configuration."""
    return RunDirectory(Path(config.runs_dir) / str(config.name), to_dict(config), partial(differing, config))


def differing(config: Config, stored: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys that make a stored configuration another experiment than this one → (value there, value here)."""
    # a key that came after that run was made had its default then
    old, new = flatten(to_dict(Config())) | flatten(stored), flatten(to_dict(config))
    return {
        k: (old.get(k), new.get(k)) for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k) and counts(k, config.task)
    }
