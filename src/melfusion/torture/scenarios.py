"""What is done to the jobs. Each scenario plants one kind of fault and yields lines of the table."""

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
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from melfusion import PREEMPTED
from melfusion.errors import MelfusionError
from melfusion.torture.faults import HOOKS, DieInWrite, Fault
from melfusion.torture.jobs import STEPS, VALIDATED, TortureJob, curves, differing_bits, spans, trained_on
from melfusion.torture.outcome import Outcome, killed, usable, whole

WRITES = (0.0, 0.3, 0.7, 0.98, 1.0, 1.5)  # how far a checkpoint is when the process dies in it (faults.DieInWrite)


class TortureError(MelfusionError, RuntimeError):
    """The torture could not be carried out, or a fault cost something."""


def go_on(job: TortureJob, world: int | None = None) -> bool:
    """Start a job again, as a user would: did it end well?"""
    return set(job.start(world=world)) == {0}


@dataclasses.dataclass
class Trial:
    """What the scenarios share.

    Args:
        folder: of all jobs and of the data set that they train on.
        dice: draws where and when faults strike.
        references: world size → the job that nothing happened to, run when it is first asked for.
    """

    folder: Path
    dice: random.Random
    references: dict[int, TortureJob] = dataclasses.field(default_factory=dict)

    def job(self, name: str, *options: str, world: int = 1) -> TortureJob:
        return TortureJob(self.folder / name, (f"data.path={self.folder / 'data'}", *options), world)

    def reference(self, world: int = 1) -> TortureJob:
        if world not in self.references:
            self.references[world] = self.job(f"reference{world}", world=world)
            started = time.monotonic()
            if not go_on(self.references[world]):
                raise TortureError(f"The undisturbed run failed: {self.references[world].folder / 'log.txt'} says why.")
            self.references[world].seconds = time.monotonic() - started
        return self.references[world]


def kills(trial: Trial, points: int) -> Iterator[Outcome]:
    """kill -9 at random moments, at each hook of the training loop, and within the writing of checkpoints."""
    strikes = {"any moment": kill_at_any_moment, "hook of the loop": kill_at_a_hook, "in a checkpoint": kill_in_a_checkpoint}
    outcomes = {where: Outcome(f"kill -9, {where}") for where in strikes}
    number = 0
    while (left := points - sum(outcome.injected for outcome in outcomes.values())) > 0:
        job, (where, strike) = trial.job(f"kill{number}"), list(strikes.items())[number % len(strikes)]
        outcome, number = outcomes[where], number + 1
        for _ in range(min(trial.dice.randint(1, 4), left)):
            codes = strike(trial, job)
            if codes == [0]:  # the job ended before the fault came
                break
            outcome.injected += 1
            outcome.survived += whole(job) and codes == [-signal.SIGKILL]
        if not go_on(job):
            outcome.survived -= 1
            outcome.words = f"see {job.folder / 'log.txt'}"
        outcome.compare(job, trial.reference())
        if outcome.passed:
            shutil.rmtree(job.folder)
    yield from (outcome for outcome in outcomes.values() if outcome.injected)


# The dice are thrown before the job starts: a forked child would throw its own copy of them


def kill_at_any_moment(trial: Trial, job: TortureJob) -> list[int]:
    return job.start(kill_after=trial.reference().seconds * trial.dice.uniform(0.05, 1.0))


def kill_at_a_hook(trial: Trial, job: TortureJob) -> list[int]:
    step = trial.dice.choice((*range(STEPS), VALIDATED, 2 * VALIDATED))
    return job.start([Fault(f"die-{trial.dice.choice(HOOKS)}@{step}")])


def kill_in_a_checkpoint(trial: Trial, job: TortureJob) -> list[int]:
    number = trial.dice.randint(1, 3)
    return job.start([DieInWrite(number, trial.dice.choice(WRITES))])


def saved_checkpoint(job: TortureJob) -> Path:
    """The newest checkpoint, which the job must have saved; TortureError where it has not."""
    path = usable(job)
    if path is None:
        raise TortureError(f"A job saved no checkpoint before its fault: {job.folder / 'log.txt'} says why.")
    return path


def disk_full(trial: Trial) -> Iterator[Outcome]:
    """The disk is full in the middle of a checkpoint."""
    outcome, reference = Outcome("disk full", injected=2), trial.reference()
    size = saved_checkpoint(reference).stat().st_size
    for share in (0.1, 0.9):
        job = trial.job(f"full{share}")
        struck = killed(job.start([Fault("die-on_before_backward@5")]))  # so that there is something to lose
        before = usable(job)
        limit = int(share * size)
        codes = job.start(before=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)))
        kept = struck and usable(job) == before and not list((job.run / "checkpoints").glob(".*.part"))
        outcome.survived += kept and codes == [2] and "the disk is full" in job.log and go_on(job)
        outcome.compare(job, reference)
    yield outcome


def foreign_tmpdir(trial: Trial) -> Iterator[Outcome]:
    """TMPDIR on another file system, or none at all, and a death while a checkpoint is written."""
    outcome, reference = Outcome("foreign TMPDIR", injected=2), trial.reference()
    for name in ("/dev/shm", "/nowhere"):
        job = trial.job(f"tmpdir-{name[1:].replace('/', '-')}")
        codes = job.start([DieInWrite(3, 0.7)], before=partial(os.environ.__setitem__, "TMPDIR", name))
        outcome.survived += codes == [-signal.SIGKILL] and whole(job) and go_on(job)
        outcome.compare(job, reference)
    yield outcome


def damaged_checkpoint(trial: Trial) -> Iterator[Outcome]:
    """The newest checkpoint is cut short, or one bit of it flips: the one before it serves."""
    outcome, reference = Outcome("damaged checkpoint", injected=2), trial.reference()
    for how in ("cut", "flipped"):
        job = trial.job(f"damaged-{how}")
        struck = killed(job.start([Fault("die-on_before_backward@9")]))
        path = saved_checkpoint(job)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data if how == "flipped" else data[: len(data) // 2])
        outcome.survived += struck and go_on(job) and f"{path.name} is passed over" in job.log
        outcome.compare(job, reference, damaged=1)
    yield outcome


def dead_rank(trial: Trial) -> Iterator[Outcome]:
    """One of two ranks dies, or stops with an error: the other ends within a minute, and both go on."""
    outcome, reference = Outcome("dead rank of two"), trial.reference(2)
    ends = {
        "die-on_after_backward@5:1": [2, -signal.SIGKILL],
        "die-on_train_batch_start@7:0": [-signal.SIGKILL, 2],
        "error@3:1": [2, 2],
    }
    for planted, expected in ends.items():
        job = trial.job(f"dead{outcome.injected}", world=2)
        outcome.injected += 1
        started = time.monotonic()
        codes = job.start([Fault(planted)])
        ended = codes == expected  # a rank that hangs is killed and has another code
        named = "lost another rank" in job.log and ("error" not in planted or "A fault was planted here" in job.log)
        if not ended:
            outcome.words = f"ranks ended with {codes}, {time.monotonic() - started:.0f} s after the start"
        outcome.survived += ended and named and go_on(job)
        outcome.compare(job, reference)
    yield outcome


def asked_to_leave(trial: Trial) -> Iterator[Outcome]:
    """SIGTERM or SIGUSR1 on one rank: all ranks save the same step, which only the signal asks for, and leave with code 75."""
    outcome = Outcome(f"signal to one rank (exit {PREEMPTED})")
    for planted, world in (("sigterm@1", 1), ("sigusr1@4:1", 2), ("sigterm@6:0", 2)):
        job = trial.job(f"signal{outcome.injected}", "trainer.checkpoint_every_n_steps=100", world=world)
        outcome.injected += 1
        codes = job.start([Fault(planted)])
        outcome.survived += set(codes) == {PREEMPTED} and go_on(job) and all(a[1] == b[0] for a, b in pairwise(spans(job)))
        outcome.compare(job, trial.reference(world))
    yield outcome


def not_finite(trial: Trial) -> Iterator[Outcome]:
    """A step with a number that is not finite changes nothing; the samples of it are named."""
    for what in ("nan-input", "nan-latents", "nan-loss", "inf-gradient"):
        outcome = Outcome(f"{what} on one rank of two", injected=1)
        job = trial.job(what, "trainer.checkpoint_every_n_steps=1", "trainer.keep_last=99", world=2)
        ended = set(job.start([Fault(f"{what}@4:1")])) == {0}
        before, after = (job.run / "checkpoints" / f"step-{step:09d}.ckpt" for step in (4, 5))
        outcome.bits = differing_bits(before, after)
        outcome.survived = int(ended and len(list((job.run / "guards").glob("step-000000005-rank*.json"))) == 2)
        outcome.compare(job, trial.reference(2), exact=False)
        outcome.words = "bits: of the state before and after that step"
        yield outcome


def changed_world(trial: Trial) -> Iterator[Outcome]:
    """Killed on one rank, resumed on two, and on one again: the samples are the same, in the same steps."""
    outcome, reference = Outcome("changed world size", injected=2), trial.reference()
    job = trial.job("world")
    outcome.survived = sum(killed(job.start([Fault(f"die-on_before_backward@{at}")], world=n)) for at, n in ((5, 1), (9, 2)))
    outcome.survived *= go_on(job)
    outcome.compare(job, reference, exact=False)
    here = curves(job)
    there = {key: value for key, value in curves(reference).items() if key[1] in ("train/loss", "val/loss")}
    worst = max(abs(here.get(k, np.inf) - v) / v for k, v in there.items())
    outcome.survived *= worst < 1e-3
    outcome.words = f"losses within {worst:.0e} of one rank's: sums over ranks round otherwise"
    yield outcome


def damaged_shard(trial: Trial) -> Iterator[Outcome]:
    """Bytes of a sample are overwritten: it is replaced in its place and counted. A shard that is cut short is refused."""
    outcome, reference = Outcome("damaged shard", injected=2), trial.reference()
    data = trial.folder / "data-damaged"
    shutil.copytree(trial.folder / "data", data)
    shard, key = overwrite_a_sample(data)
    job = trial.job("shard", f"data.path={data}")
    outcome.survived = int(go_on(job))
    counted = sum(json.loads((job.run / "results.json").read_text())["replaced"].values()) if outcome.survived else 0
    there, here = trained_on(reference), trained_on(job)
    differ = [p for p, seen in there.items() if here.get(p) != seen]
    replaced = [p for p in differ if there[p][1] == key and p in here and here[p][0] == there[p][0]]
    outcome.lost = len(differ) - len(replaced) + abs(counted - len(replaced))
    outcome.words = f"replacements of the sample that cannot be read: {counted}, all counted"
    os.truncate(shard, shard.stat().st_size // 2)
    cut = trial.job("cut", f"data.path={data}")
    outcome.survived += cut.start() == [2] and f"{shard.name} does not match" in cut.log
    yield outcome


def overwrite_a_sample(data: Path) -> tuple[Path, str]:
    """Random bytes in place of the clip of one training sample; returns its shard and its key."""
    index = json.loads((data / "index.json").read_text())
    entry = next(s for s in index["shards"] if s["name"].startswith("train"))
    sample, shard = entry["samples"][0], data / entry["name"]
    offset, length = next(v for ext, v in sample["members"].items() if ext in ("flac", "wav", "ogg", "mp3"))
    raw = bytearray(shard.read_bytes())
    raw[offset : offset + length] = os.urandom(length)
    shard.write_bytes(raw)
    return shard, sample["key"]


SCENARIOS = (disk_full, damaged_checkpoint, not_finite, dead_rank, asked_to_leave, changed_world, foreign_tmpdir, damaged_shard)
