"""A configuration → its run directory, and which keys make another experiment."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from melfusion.assembly.kinds import kinds_of, of_kinds
from melfusion.assembly.parts import PARTS
from melfusion.assembly.schema import KINDS, Config, now_named, to_dict
from melfusion.config.check import flatten
from melfusion.state.run_directory import RunDirectory

# Keys that may change between two calls of the same run without making it another experiment
SAFE_PREFIXES = (
    "name",
    "runs_dir",
    "stages",
    "sources",
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
    "codec.chunk_s",
    "codec.peak",
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
    "denoiser.gradient_checkpointing",
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

# Keys that no part depends on, in the sections that all parts share
PART_SAFE = ("data.precompute.", "optim.ema_decay", "optim.alpha_lr")

ALL_PARTS = ("optim.", "trainer.", "seed", "task")  # what every part depends on


def counts(key: str, task: str) -> bool:
    """Does a difference in this key make a run of this task another experiment?"""
    part = PARTS[task]
    own = not part.whole and key.startswith(f"{part.section}.")
    if key.startswith(SAFE_PREFIXES) and not own:
        return False
    if part.depends_on is None:
        return True
    return key.startswith((*ALL_PARTS, *(f"{section}." for section in part.depends_on))) and not key.startswith(
        (*PART_SAFE, *part.free)
    )


def run_directory(config: Config) -> RunDirectory:
    """<runs_dir>/<name> of this configuration."""
    return RunDirectory(Path(config.runs_dir) / str(config.name), to_dict(config), partial(differing, config))


def differing(config: Config, stored: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys that make a stored configuration another experiment than this one → (value there, value here)."""
    # a key that came after that run was made had its default then
    then, new = {now_named(key): value for key, value in flatten(stored).items()}, flatten(to_dict(config))
    known = {section: kind for section in KINDS if (kind := then.get(f"{section}.kind")) in KINDS[section]}
    old = flatten(to_dict(of_kinds(Config(), kinds_of(config) | known))) | then
    if new["trainer.precision"] == "auto":  # it is what the run was begun with
        new["trainer.precision"] = old["trainer.precision"]
    if new["synapse.kind"] == "none":  # no layer is touched
        new["synapse.layers"] = old["synapse.layers"]
    return {
        k: (old.get(k), new.get(k)) for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k) and counts(k, config.task)
    }
