"""Writing shards: samples → tars and the index beside them, whole or not at all, by one process or by several together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from melfusion.data import replacing, tars
from melfusion.data.index import write_index
from melfusion.data.ranks import Ranks
from melfusion.data.shards import Sample
from melfusion.data.storage import is_url
from melfusion.errors import DataError

OPEN = ".part"  # at the end of the name of a tar that is being written

Samples = Iterable[Sample] | Callable[[Collection[str]], Iterable[Sample]]  # a function: of the keys that are stored already


def write_shards(
    samples: Samples,
    out: str | Path,
    samples_per_shard: int = 256,
    info: dict[str, Any] | None = None,
    unless: Callable[[], bool] = lambda: False,
    named_by: str = "",
    ranks: Ranks | None = None,
    resumes: str = "",
) -> dict[str, int]:
    """Write samples to `<split>-NNNNNN.tar` in `out` and the index last; returns how many samples this process gave each split.

    They replace an older set only when the new one is whole (replacing.py). One process builds there at a time; the others wait.

    Args:
        samples: or a function of the keys that this process has stored already, which gives the others.
        info: what the index says of the whole set.
        unless: asked when no other process builds there any more. Where it says True, nothing is written and {} is returned.
        named_by: the key that names `out`, for errors.
        ranks: processes that build the set together. All call this, each with samples of its own, which go into its own shards.
        resumes: what the samples are made from, in a word. A build of the same word that died goes on after its last whole shard.
    Raises DataError where the folder holds shards of others, cannot be written, or no sample came.
    """
    if is_url(out):
        raise DataError(f"{out}: shards are written to local folders; build them in one and copy it there.")
    out, ranks = Path(out), ranks or Ranks()
    word = resumes and f"{resumes} {samples_per_shard} {ranks.world}"
    explaining = partial(replacing.explaining, out, named_by)
    with ExitStack() as stack:
        with ranks.together():
            wanted = ranks.first and _begin(stack, out, unless, named_by, word)
        if not ranks.meet(wanted)[0]:
            return {}
        building = Building(out / replacing.BUILDING, samples_per_shard, ranks)
        with building.abandoned_on_error(drops=ranks.first and not resumes):
            _write(samples, building, info or {}, explaining)
        with ranks.together(), explaining():
            if ranks.first:
                replacing.move(out)
    return building.counts


def _begin(stack: ExitStack, out: Path, unless: Callable[[], bool], named_by: str, resumes: str) -> bool:
    """Hold the folder, and make room in it for a new set; False where none is wanted."""
    stack.enter_context(replacing.held(out, named_by))
    if unless():
        return False
    if foreign := replacing.foreign_or_ours(out)[0]:
        raise DataError(f"{out} holds {foreign[0].name}, which no index of ours names: choose an empty folder.")
    with replacing.explaining(out, named_by):
        replacing.begin(out, resumes)
    return True


def _write(
    samples: Samples, building: Building, info: dict[str, Any], explaining: Callable[[], AbstractContextManager[None]]
) -> None:
    """All shards of this process, and the index when all processes have written theirs.

    `explaining` is for errors of writing; errors of a source that reads pass as they are.
    """
    ranks = building.ranks
    with ranks.together():
        building.go_on()
        for sample in samples(building.keys) if callable(samples) else samples:
            with explaining():
                building.add(sample)
        with explaining():
            building.close()
    if not any(ranks.meet(building.counts)):
        out = building.folder.parent
        raise DataError(f"{out}: no sample could be written; see the reasons above and check the paths of the source.")
    with ranks.together(), explaining():
        if ranks.first:
            write_index(building.folder, info)


class Building:
    """Shards that are being written: samples go into one open tar for each split.

    Attributes:
        counts: split → its samples so far.
        keys: of these samples.
    """

    def __init__(self, folder: Path, samples_per_shard: int, ranks: Ranks):
        self.folder, self.samples_per_shard, self.ranks = folder, samples_per_shard, ranks
        self.counts: dict[str, int] = {}
        self.shards: dict[str, int] = {}  # split → its tars so far
        self.room: dict[str, int] = {}  # split → samples that its open tar still takes
        self.keys: set[str] = set()
        self.tars: dict[str, tuple[Any, Path, IO[bytes]]] = {}  # webdataset's writer, its path and its file
        self.writer = tars.webdataset_secured().TarWriter

    def go_on(self) -> None:
        """Count in the whole shards that this process wrote before it died, and remove the one that it was writing."""
        for path in sorted(self.folder.glob("*.tar*")):
            split, _, number = path.name.partition(".")[0].rpartition("-")
            if int(number) % self.ranks.world != self.ranks.number:
                continue
            if path.suffix == OPEN:
                path.unlink()
                continue
            with path.open("rb") as file:
                found = {key for *_, key, _ in tars.members(file)}
            self.keys |= found
            self.counts[split] = self.counts.get(split, 0) + len(found)
            self.shards[split] = self.shards.get(split, 0) + 1

    def add(self, sample: Sample) -> None:
        split = sample.meta.get("split", "train")
        if not isinstance(split, str) or not re.fullmatch(r"[A-Za-z0-9_]+", split):
            raise DataError(f"sample {sample.key}: the split {split!r} must be a word such as train, val or test.")
        if not sample.key or set(sample.key) & set("./\\") or sample.key in self.keys:
            raise DataError(f"the key {sample.key!r} must be unique in its data set, not empty, and without dot or slash.")
        self.keys.add(sample.key)
        if not self.room.get(split):
            self._open(split)
        self.tars[split][0].write({"__key__": sample.key, **sample.members()})
        self.room[split] -= 1
        self.counts[split] = self.counts.get(split, 0) + 1

    def _open(self, split: str) -> None:
        """The next tar of a split. Number n of this process is number n · world + its own of all."""
        if split in self.tars:
            self._close(split)
        number = self.shards.get(split, 0)
        path = self.folder / f"{split}-{number * self.ranks.world + self.ranks.number:06d}.tar{OPEN}"
        file = path.open("wb")  # opened here, since with security enforced webdataset itself opens none
        self.tars[split] = self.writer(file, encoder=False, mtime=0), path, file
        self.shards[split], self.room[split] = number + 1, self.samples_per_shard

    def _close(self, split: str) -> None:
        tar, path, file = self.tars.pop(split)
        tar.close()
        file.flush()
        os.fsync(file.fileno())  # on the disk before the index that says so
        file.close()
        path.rename(path.with_suffix(""))

    def close(self) -> None:
        """End all tars."""
        for split in list(self.tars):
            self._close(split)

    @contextmanager
    def abandoned_on_error(self, drops: bool) -> Iterator[None]:
        """Where the block fails, close all files, also where that fails. `drops`: what was built is removed then."""
        try:
            yield
        except Exception:
            for tar, _, file in self.tars.values():
                for one in (tar, file):
                    with suppress(Exception):
                        one.close()
            if drops:
                replacing.drop(self.folder.parent)
            raise
