"""The run directory: runs/<name>/ with config.yaml, checkpoints/, tensorboard/, metrics.jsonl, samples/."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from melfusion.assembly.run import counts
from melfusion.assembly.schema import Config, to_dict
from melfusion.config.check import flatten
from melfusion.errors import ConfigError, DamagedFile, shown
from melfusion.files import _try_lock, read_json, read_regular, write_json, write_whole

log = logging.getLogger(__name__)

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
