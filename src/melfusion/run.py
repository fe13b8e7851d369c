"""The run directory: runs/<name>/ with config.yaml, checkpoints/, tensorboard/, metrics.jsonl, samples/."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from melfusion.config import ConfigError, flatten, to_dict
from melfusion.data.errors import shown
from melfusion.errors import DamagedFile
from melfusion.files import read_json, read_regular, write_json, write_whole
from melfusion.schema import Config

log = logging.getLogger(__name__)

# Keys that may change between two calls of the same run without making it another experiment
SAFE_PREFIXES = ("name", "runs_dir", "stages", "sampling.", "data.num_workers", "data.max_bad_ratio", "data.cache_",
                 "data.retries", "data.timeout_s", "data.min_rate", "data.source", "data.draw", "data.val_items", "data.max_scenes",
                 "vocoder.", "judge.", "towers.", "evaluation.", "ablation.",
                 "trainer.max_steps", "trainer.accelerator", "trainer.devices",
                 "trainer.num_nodes", "trainer.strategy", "trainer.accumulate", "trainer.micro_batch_size",
                 "unet.gradient_checkpointing", "trainer.val_every", "trainer.checkpoint_every",
                 "trainer.keep_", "trainer.async_checkpoints", "guards.",
                 "trainer.log_every", "trainer.media_", "trainer.progress_bar", "trainer.threads")  # fmt: skip

# What a part that trains itself does not depend on, beside the safe keys
PART_PREFIXES = {"music_vae": ("audio.", "data.", "music_vae.", "optim.", "trainer.", "seed", "task"),
                 "vocoder": ("audio.", "data.", "vocoder.", "optim.", "trainer.", "seed", "task"),
                 "judge": ("audio.", "data.", "judge.", "optim.", "trainer.", "seed", "task"),
                 "towers": ("audio.", "data.", "towers.", "text_encoder.", "optim.", "trainer.", "seed", "task"),
                 "image_diffusion": ("audio.", "data.", "image.", "diffusion.", "optim.", "trainer.", "seed", "task")}  # fmt: skip
PART_SAFE = ("image.reading", "image.grid_steps", "image.fixed_timestep", "data.precompute.", "optim.ema_decay",
             "optim.alpha_lr", "diffusion.prediction_type", "diffusion.min_snr", "diffusion.loss_space", "diffusion.text_drop",
             "diffusion.image_drop", "diffusion.both_drop")  # fmt: skip


def counts(key: str, task: str) -> bool:
    """Does a difference in this key make a run of this task another experiment?"""
    if key.startswith(SAFE_PREFIXES) and not key.startswith(f"{task}."):
        return False
    return task not in PART_PREFIXES or (key.startswith(PART_PREFIXES[task]) and not key.startswith(PART_SAFE))


class RunDirectory:
    """One experiment on disk; the same command resumes it, a different configuration is refused."""

    def __init__(self, config: Config):
        self.path = Path(config.runs_dir) / str(config.name)
        self.checkpoints = self.path / "checkpoints"
        self.samples, self.export, self.results_file = (self.path / n for n in ("samples", "export", "results.json"))
        self.config = config

    def compare(self) -> None:
        """Check that what is there came from this configuration; ConfigError names the keys that differ."""
        stored, tree = self.path / "config.yaml", to_dict(self.config)
        if stored.exists():
            # a key that came after that run was made had its default then
            old, new = flatten(to_dict(Config())) | flatten(stored_tree(stored)), flatten(tree)
            differ = [k for k in sorted(old.keys() | new.keys())
                      if old.get(k) != new.get(k) and counts(k, self.config.task)]  # fmt: skip
            if differ:
                words = shown("; ".join(f"{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in differ))
                raise ConfigError(f"{self.path} holds a run of another configuration ({words}): "
                                  "choose another name=…, restore these keys, or remove the directory.")  # fmt: skip

    def prepare(self) -> None:
        """Create the directory, or check that what is there came from this configuration."""
        self.compare()
        stored, tree = self.path / "config.yaml", to_dict(self.config)
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(stored, yaml.safe_dump(tree, sort_keys=False))

    @contextlib.contextmanager
    def hold(self, wait_s: float = 10.0) -> Iterator[None]:
        """Keep other jobs out of this directory; ConfigError names the one that holds it.

        The lock is the system's (flock), so it ends with the process, however that ends. Some seconds are waited for: a
        killed run's loader processes may outlive it a little.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a+", errors="replace") as file:
            deadline = time.monotonic() + wait_s
            while not _try_lock(file):
                if time.monotonic() > deadline:
                    file.seek(0)
                    owner = file.read().strip() or "another job"
                    raise ConfigError(f"{self.path} is in use by {owner}: wait for it, stop it, or choose another name=….")
                time.sleep(0.2)
            file.truncate(0)
            job = f", job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
            file.write(f"process {os.getpid()} on {socket.gethostname()}{job}\n")
            file.flush()
            yield

    def results(self) -> dict[str, Any] | None:
        """Results of a finished run with at least the steps asked for now, or None: a damaged file is logged and made anew."""
        if not self.results_file.exists():
            return None
        try:
            results = read_json(self.results_file, "it is passed over, and the run's end is done again")
            return results if results["step"] >= self.config.trainer.max_steps else None
        except (DamagedFile, KeyError, TypeError) as error:
            log.warning("%s", error if isinstance(error, DamagedFile) else f"{self.results_file} names no step: it is passed over.")
            return None

    def finish(self, results: dict[str, Any]) -> None:
        """Mark the run finished."""
        write_json(self.results_file, results)


def stored_tree(file: Path) -> dict[str, Any]:
    """The keys of a run's config.yaml; DamagedFile where it holds none, with what to do."""
    cure = "remove it, and the same command writes it anew; the run's checkpoints are untouched"
    data = read_regular(file, cure)
    try:
        tree = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # not UTF-8, NUL, tags, torn
        raise DamagedFile(f"{file} cannot be read as YAML ({' '.join(str(error).split())[:100]}): {cure}.") from None
    if not isinstance(tree, dict):
        raise DamagedFile(f"{file} {'is empty' if tree is None else 'holds no keys'}: {cure}.")
    return {str(key): value for key, value in tree.items()}


class RankLost(RuntimeError):
    """Another rank of this run is gone."""


@contextlib.contextmanager
def naming_lost_ranks(run: RunDirectory) -> Iterator[None]:
    """A collective that fails because a rank is gone becomes one sentence."""
    try:
        yield
    except RuntimeError as error:
        words = " ".join(str(error).split())
        ours = type(error).__module__.startswith("melfusion")  # whose words may name anything
        if ours or not (isinstance(error, torch.distributed.DistError) or "gloo" in words):
            raise
        raise RankLost(f"This rank lost another rank of {run.path} ({words[:160]}…): that one's own words say why it ended; the "
                       "same command goes on from the newest checkpoint.") from error  # fmt: skip


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def refuse_login_node(env: Mapping[str, str]) -> None:
    """A cluster's login node is not for training: ConfigError where sbatch is found and no job runs."""
    if shutil.which("sbatch", path=env.get("PATH")) and "SLURM_JOB_ID" not in env:
        raise ConfigError("This looks like a cluster's login node (sbatch is found and no job runs here): "
                          "send the training there with `make submit`, or start it inside a job.")  # fmt: skip


def device_name() -> str:
    """Of the machine that computes: the GPU's name, or the CPU and how many cores this process may use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0))
    return f"CPU, {cores} core{'s' if cores > 1 else ''}"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock file: of several processes that would build the same thing, one does and the others wait.

    Its holder may remove the file when all is done: who waited for that one takes the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = _lock_file(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if path.is_file() and os.path.samestat(path.stat(), os.fstat(handle)):
                yield
                return
        finally:
            os.close(handle)


def _lock_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # another user's, perhaps: a lock on a local disk needs no right to write
        if not path.is_file():
            raise
        return os.open(path, os.O_RDONLY)
