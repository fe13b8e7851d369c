"""A small training job: its lives, how each ends, and what it left."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning import Callback

from melfusion.torture.child import train_with
from melfusion.torture.faults import Recorder
from melfusion.training.lightning_private import set_rank
from melfusion.training.scalars import OF_THE_MACHINE

STEPS, EVERY, VALIDATED = 12, 2, 5  # steps of a job; how often it saves, and validates

DEADLINE_S = 60.0  # within which every rank must have ended once one of them is gone


@dataclasses.dataclass
class TortureJob:
    """A small run in a folder of its own; each `start` is one life of it.

    Args:
        options: overrides of configs/tiny.yaml.
        world: ranks, each a process.
        seconds: that a life takes when nothing happens to it; 0 where that is not known.
    """

    folder: Path
    options: tuple[str, ...] = ()
    world: int = 1
    lives: int = 0
    seconds: float = 0.0

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "job"

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text() if (self.folder / "log.txt").is_file() else ""

    def start(
        self,
        planted: Sequence[Callback] = (),
        before: Callable[[], object] = lambda: None,
        kill_after: float | None = None,
        world: int | None = None,
    ) -> list[int]:
        """Run until it ends or is killed after so many seconds; returns the exit code of each rank, negative for a signal.

        Args:
            planted: faults that every rank gets.
            before: called in each child before it trains.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        world, port = world or self.world, free_port()
        ranks = [fork(partial(self._live, rank, world, port, planted, before)) for rank in range(world)]
        self.lives += 1
        return wait(ranks, kill_after)

    def _live(self, rank: int, world: int, port: int, planted: Sequence[Callback], before: Callable[[], object]) -> int:
        """In the child: one rank of the training."""
        handle = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1), os.dup2(handle, 2)
        if world > 1:  # as torchrun starts its ranks
            names = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": world,
                "LOCAL_WORLD_SIZE": world,
                "GROUP_RANK": 0,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "TORCHELASTIC_RUN_ID": "torture",
            }
            os.environ |= {name: str(value) for name, value in names.items()} | {"GLOO_SOCKET_IFNAME": "lo"}
            set_rank(rank)
        before()
        devices = [f"trainer.devices={world}", "trainer.strategy=ddp"] if world > 1 else []
        overrides = [f"runs_dir={self.folder / 'runs'}", "name=job", *workload(), *devices, *self.options]
        return train_with([Recorder(self.folder / "record", self.lives), *planted], "tiny", overrides)


def workload() -> list[str]:
    return [
        f"trainer.max_steps={STEPS}",
        f"trainer.checkpoint_every_n_steps={EVERY}",
        f"trainer.val_every_n_steps={VALIDATED}",
        "trainer.media_items=0",
        "data.splits.train=40",
    ]


def fork(live: Callable[[], int]) -> int:
    """Start a child that exits with what `live` returns; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = live()
    except BaseException as error:  # a child must never return into its parent's code
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def wait(ranks: list[int], kill_after: float | None = None) -> list[int]:
    """Exit codes of children. All are killed after `kill_after` seconds, and DEADLINE_S after the first of them has ended."""
    codes: dict[int, int] = {}
    started, gone_at = time.monotonic(), None
    try:
        while len(codes) < len(ranks):
            for pid in ranks:
                if pid not in codes and (done := os.waitpid(pid, os.WNOHANG))[0]:
                    codes[pid] = os.waitstatus_to_exitcode(done[1])
                    gone_at = gone_at or time.monotonic()
            late = gone_at is not None and time.monotonic() > gone_at + DEADLINE_S
            if late or (kill_after is not None and time.monotonic() > started + kill_after):
                _kill(pid for pid in ranks if pid not in codes)
                kill_after = None
            time.sleep(0.005)
    finally:  # no child outlives this function
        _kill(pid for pid in ranks if pid not in codes)
    return [codes[pid] for pid in ranks]


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def state(path: Path) -> dict[str, np.ndarray]:
    """Name → bytes of the weights, the average and the optimizer state of a checkpoint."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    tensors = stored["state_dict"] | {f"ema.{k}": v for k, v in stored["ema"].items()}
    for number, entry in stored["optimizer_states"][0]["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in entry.items()}
    return {name: t.contiguous().reshape(-1).view(torch.uint8).numpy() for name, t in tensors.items()}


def differing_bits(a: Path | None, b: Path | None) -> int:
    """How many bits of two checkpoints differ. If one is missing, all bits of the other do."""
    one, two = (state(p) if p and p.is_file() else {} for p in (a, b))
    total = 0
    for name in one.keys() | two.keys():
        x, y = (s.get(name, np.zeros(0, np.uint8)) for s in (one, two))
        total += int(np.bitwise_count(x ^ y).sum()) if x.shape == y.shape else 8 * max(x.size, y.size)
    return total if one and two else max(total, 1)


def trained_on(job: TortureJob) -> dict[int, tuple[int, str]]:
    """Position → step and sample, of the steps that count: a later life undoes the steps that it does again."""
    seen: dict[int, tuple[int, str]] = {}
    for lines in records(job):
        for step in {int(line[1]) for line in lines if line[0] == "resume"}:
            seen = {position: pair for position, pair in seen.items() if pair[0] < step}
        seen |= {int(line[2]): (int(line[1]), line[3]) for line in lines if line[0] == "sample" and len(line) == 4}
    return seen


def spans(job: TortureJob) -> list[tuple[int, int]]:
    """Per life that trained: the step from which it went on, and the last step that it ended."""
    found = [[int(line[1]) for line in lines if line[0] in ("resume", "end")] for lines in records(job)]
    return [(min(steps), max(steps)) for steps in found if steps]


def records(job: TortureJob) -> Iterator[list[list[str]]]:
    """Per life the lines of its Recorders, all ranks together, each as its words. A line that is cut off is left out."""
    for life in range(job.lives):
        files = sorted((job.folder / "record").glob(f"life{life:03d}-*.txt"))
        yield [line.split() for file in files for line in file.read_text().splitlines(True) if line.endswith("\n")]


def curves(job: TortureJob) -> dict[tuple[int, str], float]:
    """(step, tag) → logged number; speed and memory are left out."""
    file = job.run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    skipped = ("step", "epoch", *OF_THE_MACHINE)
    return {(line["step"], tag): value for line in lines for tag, value in line.items() if tag not in skipped}
