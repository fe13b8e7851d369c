"""The real training, `train` of this project with all its callbacks, in turn with a bare loop: what the Trainer adds to a step."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from lightning import Callback

from melfusion.assembly.run import run_directory
from melfusion.assembly.schema import Config
from melfusion.bench.machine import ratio, shares
from melfusion.bench.options import SIZES
from melfusion.bench.timing import MIB, Figure, peak_memory, speed, timed
from melfusion.training.checkpoints import SaveCheckpoints
from melfusion.training.lightning_private import Fetching, time_fetching
from melfusion.training.plan import wait_for_device
from melfusion.training.run import train

WARM, SAVES = 2, 3  # steps before the first block; checkpoints of the run


class Loop(Protocol):
    """What the Trainer is measured against."""

    def run(self, steps: int) -> None: ...


class Turns(Callback):
    """Blocks of the Trainer's steps, each followed by as many steps of another loop, within one training.

    Stands before all other callbacks: a block goes from the end of one step, before what follows it, to that of a later one.
    So it holds as many steps as all that happens between two of them. Writing checkpoints is taken out, as a figure of its own.

    Args:
        steps: of a block.
        settle: steps before each block that are not timed: those whose batches the loader's processes made during the pause.
        other: runs that many steps of the other loop.
    """

    def __init__(self, steps: int, settle: int, other: Callable[[int], object]):
        self.steps, self.settle, self.other = steps, settle, other
        self.seconds: list[float] = []  # of the Trainer's blocks
        self.others: list[float] = []  # of the other loop's
        self.waited: list[float] = []  # of each block of the Trainer, for data
        self.saves: list[float] = []
        self.done, self.last = -WARM, 0  # steps since the pause; the Trainer's count
        self.saved = self.begun = self.fetched = 0.0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.fetching: Fetching = time_fetching(trainer)
            self.saver = next(c for c in trainer.callbacks if isinstance(c, SaveCheckpoints))

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.last:  # a micro-batch within a step
            return
        self.last, self.done = trainer.global_step, self.done + 1
        self._count_saves()
        if self.done == self.settle + self.steps:
            self._end_block()
            self.done = 0
        if self.done == self.settle:
            wait_for_device()
            self.begun, self.fetched, self.saved = time.perf_counter(), self.fetching.seconds, self.saver.seconds

    def _end_block(self) -> None:
        wait_for_device()
        self.seconds.append(time.perf_counter() - self.begun - (self.saver.seconds - self.saved))
        self.waited.append(self.fetching.seconds - self.fetched)
        self.others.append(timed(lambda: self.other(self.steps)))

    def _count_saves(self) -> None:
        if (more := self.saver.seconds - sum(self.saves)) > 0:
            self.saves.append(more)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._count_saves()


def turns(config: Config, size: str, loop: Loop, name: str) -> Turns:
    """Train a new run of this configuration in turn with the loop."""
    measured = SIZES[size]
    settle = 2 * config.data.num_workers  # torch's loader keeps two batches of each of its processes
    config = copy.deepcopy(config)
    config.name = f"bench-{name}"
    config.trainer.max_steps = WARM + measured.rounds * (settle + measured.steps)
    config.trainer.checkpoint_every_n_steps = max(1, config.trainer.max_steps // SAVES)
    shutil.rmtree(run_directory(config).path, ignore_errors=True)
    callback = Turns(measured.steps, settle, loop.run)
    train(config, callbacks=[callback])
    return callback


def through_the_trainer(
    size: str, config: Config, loop: Loop, name: str, beside: dict[str, Figure | float], floor: float
) -> dict[str, Figure | float]:
    """Figures of the real training: samples/s, overhead over the bare loop, wait for data, checkpoints, memory.

    Args:
        beside: figures of the same training in a bare loop and of the references.
    """
    with peak_memory() as peak:
        found = turns(config, size, loop, name)
    batch, steps = config.data.global_batch_size, SIZES[size].steps
    rates = {n: figure for n, figure in beside.items() if isinstance(figure, Figure) and figure.unit == "samples/s"}
    bare = next(figure for n, figure in rates.items() if n.startswith("bare"))
    rate = speed(found.seconds, steps * batch)
    shares(rate, 1e12 * bare.setting["TFLOP"], floor, bare.setting["precision"])
    rate.setting |= {"a step": batch, "batch": bare.setting["batch"], "steps": steps}
    ratio(rate, *(figure for n, figure in rates.items() if n.startswith("reference")))
    pairs = list(zip(found.seconds, found.others, strict=True))
    stored = max((f.stat().st_size for f in run_directory_files(config, name)), default=0)
    return {
        f"Trainer, batch {bare.setting['batch']}": rate,
        "Trainer, over the bare loop": Figure("%", [100 * (ours / other - 1) for ours, other in pairs]),
        "Trainer, wait for data": Figure("%", [100 * w / s for w, s in zip(found.waited, found.seconds, strict=True)]),
        "Trainer, memory": Figure("MiB", [peak.mib]),
        "checkpoint": Figure("s", found.saves, setting={"asynchronous": config.trainer.async_checkpoints}),
        "checkpoint, size": Figure("MiB", [stored / MIB]),
    }


def run_directory_files(config: Config, name: str) -> list[Path]:
    """The checkpoints that the run has left."""
    return list((Path(config.runs_dir) / f"bench-{name}" / "checkpoints").glob("*.ckpt"))
