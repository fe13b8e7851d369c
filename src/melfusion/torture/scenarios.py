"""What is done to the jobs: each scenario plants one kind of fault and yields lines of the table."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from melfusion import PREEMPTED
from melfusion.errors import CheckpointError, MelfusionError
from melfusion.state.checkpoint_store import newest
from melfusion.torture import faults
from melfusion.torture.jobs import EVERY, STEPS, VALIDATED, Job, curves, differing_bits, spans, state, trained_on

WRITES = (0.0, 0.3, 0.7, 0.98, 1.0, 1.5)  # how far a checkpoint is when the process dies in it (faults.die_in_write)


@dataclasses.dataclass
class Row:
    """One line of the table."""

    fault: str
    injected: int = 0
    survived: int = 0
    lost: int = 0  # samples of the run that no step, or another one, was trained on
    bits: int = 0  # that differ from the undisturbed run in weights, average and optimizer
    words: str = ""

    @property
    def passed(self) -> bool:
        return 0 < self.injected == self.survived and not self.lost and not self.bits


def compare(row: Row, job: Job, reference: Job, exact: bool = True, damaged: int = 0) -> None:
    """Add what a job that has ended lost against the undisturbed one; a step done again is lost where it had been saved.

    Args:
        damaged: how many of the newest checkpoints the fault spoiled.
    """
    there, here = trained_on(reference), trained_on(job)
    row.lost += sum(here.get(p) != there.get(p) for p in there.keys() | here.keys())
    for (_, ended), (resumed, _) in pairwise(spans(job)):
        if resumed < saved_by(ended) - damaged * EVERY:
            row.survived, row.words = row.survived - 1, f"went on from step {resumed} after step {ended}"
    if exact:
        row.bits += differing_bits(usable(job), usable(reference))
        row.bits += sum(curves(job).get(k) != v for k, v in curves(reference).items())


def saved_by(ended: int) -> int:
    """The step whose checkpoint is surely on disk when that one has ended: its own may still be written."""
    return max(0, ended - 1) // EVERY * EVERY


def usable(job: Job) -> Path | None:
    """The newest checkpoint that is whole, if there is one."""
    try:
        return newest(job.run / "checkpoints")
    except CheckpointError:
        return None


def killed(codes: list[int]) -> bool:
    """Did the fault strike: is every rank dead, the first of them by SIGKILL and none by an error of its own but that loss?"""
    return -signal.SIGKILL in codes and set(codes) <= {-signal.SIGKILL, 2}


def go_on(job: Job, world: int | None = None) -> bool:
    """Start a job again, as a user would: did it end well?"""
    return set(job.start(world=world)) == {0}


@dataclasses.dataclass
class Ordeal:
    """All that the scenarios share: where they run, their dice, and what an undisturbed run gives on one and two ranks."""

    folder: Path
    dice: random.Random
    references: dict[int, Job] = dataclasses.field(default_factory=dict)

    def job(self, name: str, *options: str, world: int = 1) -> Job:
        return Job(self.folder / name, (f"data.path={self.folder / 'data'}", *options), world)

    def reference(self, world: int = 1) -> Job:
        if world not in self.references:
            self.references[world] = self.job(f"reference{world}", world=world)
            started = time.monotonic()
            if not go_on(self.references[world]):
                raise TortureError(f"The undisturbed run failed: {self.references[world].folder / 'log.txt'} says why.")
            self.references[world].seconds = time.monotonic() - started
        return self.references[world]


class TortureError(MelfusionError, RuntimeError):
    """The torture itself could not be carried out."""


def kills(ordeal: Ordeal, points: int) -> Iterator[Row]:
    """kill −9 at random moments, at each hook of the training loop, and within the writing of checkpoints."""
    rows = [Row(f"kill -9, {where}") for where in ("any moment", "hook of the loop", "in a checkpoint")]
    at_random, at_hook, _ = rows
    reference, dice = ordeal.reference(), ordeal.dice
    number = 0
    while (left := points - sum(row.injected for row in rows)) > 0:
        job, row = ordeal.job(f"kill{number}"), rows[number % 3]
        number += 1
        for _ in range(min(dice.randint(1, 4), left)):
            if row is at_random:
                codes = job.start(kill_after=dice.uniform(0.05, 1.0) * reference.seconds)
            elif row is at_hook:
                step = dice.choice((*range(STEPS), VALIDATED, 2 * VALIDATED))
                codes = job.start(planted=f"die-{dice.choice(faults.HOOKS)}@{step}")
            else:  # the dice are thrown here: a child throws its own copy of them
                point = dice.randint(1, 3), dice.choice(WRITES)
                codes = job.start(before=lambda point=point: faults.die_in_write(*point))
            if codes == [0]:  # it was faster than the fault
                break
            row.injected += 1
            row.survived += whole(job) and codes == [-signal.SIGKILL]
        if not go_on(job):
            row.survived -= 1
            row.words = f"see {job.folder / 'log.txt'}"
        compare(row, job, reference)
        if row.passed:
            shutil.rmtree(job.folder)
    yield from (row for row in rows if row.injected)


def whole(job: Job) -> bool:
    """Is there a checkpoint that can be loaded, unless none can have been saved yet?"""
    path = usable(job)
    return bool(state(path)) if path else all(saved_by(ended) == 0 for _, ended in spans(job))


def disk_full(ordeal: Ordeal) -> Iterator[Row]:
    """The disk is full in the middle of a checkpoint."""
    row = Row("disk full")
    reference = ordeal.reference()
    size = newest(reference.run / "checkpoints").stat().st_size
    for share in (0.1, 0.9):
        job = ordeal.job(f"full{share}")
        struck = killed(job.start(planted="die-on_before_backward@5"))  # so that there is something to lose
        before = usable(job)
        limit = int(share * size)
        row.injected += 1
        codes = job.start(before=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        kept = struck and usable(job) == before and not list((job.run / "checkpoints").glob(".*.part"))
        row.survived += kept and codes == [2] and "the disk is full" in job.log and go_on(job)
        compare(row, job, reference)
    yield row


def foreign_tmpdir(ordeal: Ordeal) -> Iterator[Row]:
    """TMPDIR on another file system, or none at all, and a death while a checkpoint is written."""
    row, reference = Row("foreign TMPDIR"), ordeal.reference()
    for name in ("/dev/shm", "/nowhere"):
        job = ordeal.job(f"tmpdir-{name[1:].replace('/', '-')}")
        row.injected += 1

        def elsewhere(name: str = name) -> None:
            os.environ["TMPDIR"] = name
            faults.die_in_write(3, 0.7)

        codes = job.start(before=elsewhere)
        row.survived += codes == [-signal.SIGKILL] and whole(job) and go_on(job)
        compare(row, job, reference)
    yield row


def damaged_checkpoint(ordeal: Ordeal) -> Iterator[Row]:
    """The newest checkpoint is cut short, or one bit of it flips: the one before it serves."""
    row, reference = Row("damaged checkpoint"), ordeal.reference()
    for how in ("cut", "flipped"):
        job = ordeal.job(f"damaged-{how}")
        struck = killed(job.start(planted="die-on_before_backward@9"))
        path = newest(job.run / "checkpoints")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data if how == "flipped" else data[: len(data) // 2])
        row.injected += 1
        row.survived += struck and go_on(job) and f"{path.name} is passed over" in job.log
        compare(row, job, reference, damaged=1)
    yield row


def dead_rank(ordeal: Ordeal) -> Iterator[Row]:
    """One of two ranks dies, or stops with an error: the other ends within a minute, and both go on."""
    row, reference = Row("dead rank of two"), ordeal.reference(2)
    ends = {
        "die-on_after_backward@5:1": [2, -signal.SIGKILL],
        "die-on_train_batch_start@7:0": [-signal.SIGKILL, 2],
        "error@3:1": [2, 2],
    }
    for planted, expected in ends.items():
        job = ordeal.job(f"dead{row.injected}", world=2)
        row.injected += 1
        started = time.monotonic()
        codes = job.start(planted=planted)
        ended = codes == expected  # one that hangs is killed, too
        named = "lost another rank" in job.log and ("error" not in planted or "A fault was planted here" in job.log)
        if not ended:
            row.words = f"ranks ended with {codes}, {time.monotonic() - started:.0f} s after the start"
        row.survived += ended and named and go_on(job)
        compare(row, job, reference)
    yield row


def asked_to_leave(ordeal: Ordeal) -> Iterator[Row]:
    """SIGTERM or SIGUSR1 on one rank: all save the same step, which no other rule would, and leave with the documented code."""
    row = Row(f"signal to one rank (exit {PREEMPTED})")
    for planted, world in (("sigterm@1", 1), ("sigusr1@4:1", 2), ("sigterm@6:0", 2)):
        job = ordeal.job(f"signal{row.injected}", "trainer.checkpoint_every_n_steps=100", world=world)
        row.injected += 1
        codes = job.start(planted=planted)
        row.survived += set(codes) == {PREEMPTED} and go_on(job) and all(a[1] == b[0] for a, b in pairwise(spans(job)))
        compare(row, job, ordeal.reference(world))
    yield row


def not_finite(ordeal: Ordeal) -> Iterator[Row]:
    """A step with a number that is not finite changes nothing; the samples of it are named."""
    for what in ("nan-input", "nan-latents", "nan-loss", "inf-gradient"):
        row = Row(f"{what} on one rank of two", injected=1)
        job = ordeal.job(what, "trainer.checkpoint_every_n_steps=1", "trainer.keep_last=99", world=2)
        ended = set(job.start(planted=f"{what}@4:1")) == {0}
        before, after = (job.run / "checkpoints" / f"step-{step:09d}.ckpt" for step in (4, 5))
        row.bits = differing_bits(before, after)
        row.survived = int(ended and len(list((job.run / "guards").glob("step-000000005-rank*.json"))) == 2)
        compare(row, job, ordeal.reference(2), exact=False)
        row.words = "bits: of the state before and after that step"
        yield row


def changed_world(ordeal: Ordeal) -> Iterator[Row]:
    """Killed on one rank, resumed on two, and on one again: the samples are the same, in the same steps."""
    row, reference = Row("changed world size", injected=2), ordeal.reference()
    job = ordeal.job("world")
    row.survived = sum(killed(job.start(planted=f"die-on_before_backward@{at}", world=n)) for at, n in ((5, 1), (9, 2)))
    row.survived *= go_on(job)
    compare(row, job, reference, exact=False)
    here = curves(job)
    there = {key: value for key, value in curves(reference).items() if key[1] in ("train/loss", "val/loss")}
    worst = max(abs(here.get(k, np.inf) - v) / v for k, v in there.items())
    row.survived *= worst < 1e-3
    row.words = f"losses within {worst:.0e} of one rank's: sums over ranks round otherwise"
    yield row


def damaged_shard(ordeal: Ordeal) -> Iterator[Row]:
    """Bytes of a sample are overwritten: it is replaced in its place and counted. A shard that is cut short is refused."""
    row, reference = Row("damaged shard"), ordeal.reference()
    data = ordeal.folder / "data-damaged"
    shutil.copytree(ordeal.folder / "data", data)
    index = json.loads((data / "index.json").read_text())
    shard = next(s for s in index["shards"] if s["name"].startswith("train"))
    broken = shard["samples"][0]
    offset, length = next(v for ext, v in broken["members"].items() if ext in ("flac", "wav", "ogg", "mp3"))
    raw = bytearray((data / shard["name"]).read_bytes())
    raw[offset : offset + length] = os.urandom(length)
    (data / shard["name"]).write_bytes(raw)
    job = ordeal.job("shard", f"data.path={data}")
    row.injected, row.survived = 2, int(go_on(job))
    counted = sum(json.loads((job.run / "results.json").read_text())["replaced"].values()) if row.survived else 0
    there, here = trained_on(reference), trained_on(job)
    differ = [p for p, seen in there.items() if here.get(p) != seen]
    stands_in = [p for p in differ if there[p][1] == broken["key"] and here.get(p, (None,))[0] == there[p][0]]
    row.lost = len(differ) - len(stands_in) + abs(counted - len(stands_in))
    row.words = f"{counted} times a sample stands in for the one that cannot be read, counted"
    (data / shard["name"]).write_bytes(raw[: len(raw) // 2])
    cut = ordeal.job("cut", f"data.path={data}")
    row.survived += cut.start() == [2] and f"{shard['name']} does not match" in cut.log
    yield row


SCENARIOS = (disk_full, damaged_checkpoint, not_finite, dead_rank, asked_to_leave, changed_world, foreign_tmpdir, damaged_shard)
