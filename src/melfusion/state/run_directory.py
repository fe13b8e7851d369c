"""The run directory: runs/<name>/ with config.yaml, checkpoints/, tensorboard/, metrics.jsonl, samples/."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from melfusion.errors import ConfigError, DamagedFile, shown
from melfusion.files import read_json, read_regular, try_lock, write_json, write_whole

log = logging.getLogger(__name__)


class RunDirectory:
    """One experiment on disk. The same command resumes it; a different configuration is refused.

    Args:
        tree: the resolved configuration, in plain containers.
        differing: a stored tree → the keys that make it another experiment, each with its value there and now.
    """

    def __init__(self, path: Path, tree: dict[str, Any], differing: Callable[[dict[str, Any]], dict[str, tuple[Any, Any]]]):
        self.path, self.tree, self.differing = path, tree, differing
        self.checkpoints = self.path / "checkpoints"
        self.samples, self.export, self.results_file = (self.path / n for n in ("samples", "export", "results.json"))

    def stored(self) -> dict[str, Any] | None:
        """The configuration of the run that lies there; None where there is none."""
        file = self.path / "config.yaml"
        return stored_tree(file) if file.exists() else None

    def compare(self) -> None:
        """Check that the stored run has this configuration; ConfigError names the keys that differ."""
        stored = self.stored()
        if stored is not None and (differ := self.differing(stored)):
            words = shown("; ".join(f"{k}: {there!r} there, {now!r} now" for k, (there, now) in differ.items()))
            raise ConfigError(
                f"{self.path} holds a run of another configuration ({words}): "
                "choose another name=…, restore these keys, or remove the directory."
            )

    def prepare(self) -> None:
        """Create the directory, or check that the stored run has this configuration."""
        self.compare()
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "config.yaml", yaml.safe_dump(self.tree, sort_keys=False))

    @contextlib.contextmanager
    def hold(self, wait_s: float = 10.0) -> Iterator[None]:
        """Keep other jobs out of this directory; ConfigError names the one that holds it.

        The lock is the system's (flock), so it ends with the process, however that ends. `wait_s` seconds are allowed, since the
        loader processes of a killed run may live a little longer.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a+", errors="replace") as file:
            deadline = time.monotonic() + wait_s
            while not try_lock(file):
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

    @property
    def max_steps(self) -> int:
        return self.tree["trainer"]["max_steps"]

    def results(self) -> dict[str, Any] | None:
        """Results of a finished run of at least the steps that are wanted now, else None. A damaged file is logged."""
        if not self.results_file.exists():
            return None
        try:
            results = read_json(self.results_file, "it is passed over, and the run's end is done again")
            return results if results["step"] >= self.max_steps else None
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
