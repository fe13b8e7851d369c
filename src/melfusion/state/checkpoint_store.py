"""A run's checkpoints on disk: written whole or not at all, checked by digest, the last few and the best kept.

`index.json` beside them holds each file's size, SHA-256, step and, where it was validated, its loss. A file enters the index before
it gets its name. So after a crash a file is either whole and listed, or no checkpoint at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from melfusion.errors import FULL, CheckpointError, DamagedFile
from melfusion.files import mapped, read_json, sha256_of, write_whole

log = logging.getLogger(__name__)

INDEX = "index.json"


# Called at each step of writing a checkpoint with (event, path, bytes): "write" before each piece, bytes with it; "indexed" when
# all bytes are on disk and in the index, before the file has its name; "named" when it has it
Observer = Callable[[str, Path, int], None]


class Digesting:
    """A file that is written in order. It keeps the SHA-256 of the bytes, and the system's own error."""

    def __init__(self, file: IO[bytes], before: Callable[[int], None]):
        self.file, self.before, self.sha256 = file, before, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.before(self.file.tell() + len(data))
        self.sha256.update(data)
        try:
            return self.file.write(data)
        except OSError as error:  # torch raises one of its own instead, which does not say what happened
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


class CheckpointStore(TorchCheckpointIO):
    """Lightning's seam for checkpoint files.

    Tensors stream to the file one by one, without a second copy of the state. With `asynchronous` a thread writes while training
    goes on, which takes one copy of the state in host memory.

    Args:
        keep_last: how many of the newest stay; two or more, so that one damaged file loses little.
        keep_best: how many with the lowest validation loss stay beside them.
    """

    def __init__(self, folder: Path, keep_last: int = 2, keep_best: int = 1, asynchronous: bool = False):
        self.folder, self.keep_last, self.keep_best = folder, keep_last, keep_best
        self.writer = ThreadPoolExecutor(1) if asynchronous else None
        self.pending: Future | None = None
        self.failure: str | None = None  # a sentence, kept until all ranks have met
        self.observer: Observer = lambda event, path, size: None

    def observe(self, observer: Observer) -> None:
        """Report each step of writing a checkpoint to `observer`, in the process and thread that writes."""
        self.observer = observer

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.ckpt"

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write, or start to. An error is kept as a sentence in `failure`, since other ranks wait for this one."""
        self.wait()
        if self.writer is None:
            self._write(checkpoint, Path(path))
        else:
            copy = mapped(lambda x: x.detach().to("cpu", copy=True) if isinstance(x, torch.Tensor) else x, checkpoint)
            self.pending = self.writer.submit(self._write, copy, Path(path))

    def wait(self) -> None:
        """Wait until the checkpoint that was started is on disk."""
        if self.pending is not None:
            self.pending.result()
            self.pending = None

    def teardown(self) -> None:
        self.wait()

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        step = checkpoint["global_step"]
        file: Any = None

        def content(raw: IO[bytes]) -> None:
            nonlocal file
            file = Digesting(raw, lambda size: self.observer("write", path, size))
            torch.save(checkpoint, file)
            raw.flush()
            os.fsync(raw.fileno())
            entry = {"step": step, "bytes": raw.tell(), "sha256": file.sha256.hexdigest()}
            write_index(self.folder, read_index(self.folder) | {path.name: entry})
            self.observer("indexed", path, entry["bytes"])

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content, lasting=True)
            self.observer("named", path, path.stat().st_size)
            self.prune(step)
        except (OSError, RuntimeError) as error:
            self.clean()
            self.failure = failed(path, file.error if file and file.error else error)

    def score(self, step: int, loss: float) -> None:
        """Note the validation loss of the newest checkpoint, which is of this step, and remove one that is no longer the best."""
        self.wait()
        index = read_index(self.folder)
        if (name := self.path(step).name) in index and math.isfinite(loss):
            index[name]["loss"] = loss
            try:
                write_index(self.folder, index)
                self.prune(step)
            except OSError as error:
                self.clean()
                self.failure = failed(self.folder / INDEX, error)

    def best_loss(self) -> float:
        """The lowest validation loss of those that are kept; infinity for none."""
        return min((entry["loss"] for entry in read_index(self.folder).values() if "loss" in entry), default=float("inf"))

    def prune(self, step: int) -> None:
        """Remove all but the newest and the best, and those after `step`, where the run is: they are damaged or have no file."""
        index = read_index(self.folder)
        past = sorted((name for name in index if index[name]["step"] <= step), key=lambda name: index[name]["step"])
        newest = past[-self.keep_last :]
        scored = sorted((name for name in past if "loss" in index[name]), key=lambda name: index[name]["loss"])
        kept = {*newest, *scored[: self.keep_best]}
        if kept != index.keys():
            for name in index.keys() - kept:
                (self.folder / name).unlink(missing_ok=True)
            write_index(self.folder, {name: index[name] for name in index if name in kept})

    def clean(self) -> None:
        """Remove the rest of a failed write. Only the process that holds the run may call it."""
        for part in self.folder.glob(".*.part*"):
            part.unlink()


def failed(path: Path, error: Exception) -> str:
    """The sentence for a checkpoint that could not be written."""
    code = getattr(error, "errno", None)
    full, words = code in FULL, getattr(error, "strerror", None) or str(error)
    reason = "the disk is full" if full else " ".join(words.split())[:200]
    cure = "free some space" if full else "correct that"
    return (
        f"{path} could not be written ({reason}): the checkpoints before it are whole; {cure} and run the same command "
        "again, which goes on from the newest of them."
    )


def read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """Name → {step, bytes, sha256, loss?}, without damaged entries; {} where the index is missing or damaged."""
    if not (folder / INDEX).exists():
        return {}
    try:
        index = read_json(folder / INDEX, "it is passed over, and checkpoints are known by their files alone")
    except DamagedFile as error:
        log.warning("%s", error)
        return {}
    return {name: entry for name, entry in index.items() if _is_entry(name, entry)}


def _is_entry(name: str, entry: Any) -> bool:
    """Does it name a file of this folder, and have the fields of an entry?"""
    kinds = {"step": int, "bytes": int, "sha256": str} | ({"loss": float} if isinstance(entry, dict) and "loss" in entry else {})
    return (
        Path(name).name == name
        and name.endswith(".ckpt")
        and isinstance(entry, dict)
        and all(type(entry.get(key)) is kind for key, kind in kinds.items())
    )


def write_index(folder: Path, index: dict[str, dict[str, Any]]) -> None:
    write_whole(folder / INDEX, json.dumps(index, indent=1), lasting=True)


def newest(folder: Path, before: int | None = None) -> Path | None:
    """The newest whole checkpoint, of a step below `before`; None where there is none. Damaged ones are logged and skipped.

    Raises CheckpointError where there are checkpoints, but all are damaged.
    """
    damaged = []
    for path, reason in inspected(folder, before):
        if reason is None:
            return path
        log.warning("%s is passed over: %s.", path, reason)
        damaged.append(path.name)
    if damaged:
        raise CheckpointError(
            f"{folder} holds no checkpoint that is whole ({', '.join(damaged)} are damaged): bring one back "
            "from a copy, or remove the directory to start again."
        )
    return None


def inspected(folder: Path, before: int | None = None) -> Iterator[tuple[Path, str | None]]:
    """Checkpoints from the newest on, each with what is wrong with it. Files without an index entry count as the oldest."""
    index = read_index(folder)
    files = sorted(folder.glob("*.ckpt"), key=lambda p: (index.get(p.name, {}).get("step", -1), p.lstat().st_mtime), reverse=True)
    for path in files:
        if before is not None and index.get(path.name, {}).get("step", before) >= before:
            continue
        yield path, damage(path, index.get(path.name))


def damage(path: Path, entry: dict[str, Any] | None) -> str | None:
    """What is wrong with a file, in words; None: size and digest are those of its entry, and it holds a checkpoint."""
    if not path.is_file():
        return "it is no regular file"
    if entry is not None and (size := path.stat().st_size) != entry["bytes"]:
        return f"it has {size} bytes of {entry['bytes']}"
    try:
        if entry is not None and sha256_of(path) != entry["sha256"]:
            return "its SHA-256 is not the one it was written with"
        return None if is_checkpoint(path) else "it is no checkpoint of melfusion"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def is_checkpoint(path: Path) -> bool:
    """Does it hold a step and weights? Only names and shapes are read."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        stored = torch.load(path, map_location="meta", weights_only=True)
    except OSError:
        raise
    except Exception:  # of a foreign zip torch raises anything from RuntimeError to UnpicklingError
        return False
    return isinstance(stored, dict) and {"global_step", "state_dict"} <= stored.keys()
