"""A small training job of the real command: its lives, how each ends, and what came of it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only

from melfusion import __main__ as cli
from melfusion.torture import faults

STEPS, EVERY, VALIDATED = 12, 2, 5  # steps of a job; how often it saves, and validates

DEADLINE_S = 60.0  # within which every rank must have ended once one of them is gone


@dataclasses.dataclass
class Job:
    """A small run of the real command in a folder of its own; each `start` is one life of it."""

    folder: Path
    options: tuple[str, ...] = ()
    world: int = 1
    lives: int = 0
    seconds: float = 0.0  # that a whole life takes

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "job"

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text() if (self.folder / "log.txt").is_file() else ""

    def start(
        self,
        planted: str = "",
        before: Callable[[], None] = lambda: None,
        kill_after: float | None = None,
        world: int | None = None,
    ) -> list[int]:
        """Run until it ends or, after so many seconds, is killed: the exit code of each rank, negative for a signal."""
        self.folder.mkdir(parents=True, exist_ok=True)
        world, port = world or self.world, free_port()
        ranks = [fork(lambda rank=rank: self._live(rank, world, port, planted, before)) for rank in range(world)]
        self.lives += 1
        return wait(ranks, kill_after)

    def _live(self, rank: int, world: int, port: int, planted: str, before: Callable[[], None]) -> int:
        """In the child: one rank of the command."""
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
            rank_zero_only.rank = rank
        before()
        strikes = [faults.Fault(text) for text in planted.split(",") if text]
        faults.plant([faults.Recorder(self.folder / "record", self.lives), *strikes])
        devices = [f"trainer.devices={world}", "trainer.strategy=ddp"] if world > 1 else []
        return cli.main(["train", "tiny", f"runs_dir={self.folder / 'runs'}", "name=job", *workload(), *devices, *self.options])


def workload() -> list[str]:
    return [
        f"trainer.max_steps={STEPS}",
        f"trainer.checkpoint_every_n_steps={EVERY}",
        f"trainer.val_every_n_steps={VALIDATED}",
        "trainer.media_items=0",
        "data.splits.train=40",
    ]


def fork(live: Callable[[], int]) -> int:
    """The process id of a child that lives and exits with what `live` returns."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = live()
    except BaseException as error:  # a child must never go on as its parent
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def wait(ranks: list[int], kill_after: float | None = None) -> list[int]:
    """Exit codes of children; all are killed after so many seconds, and those that outlive a dead one by DEADLINE_S."""
    started, codes, gone_at = time.monotonic(), {}, None
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
    finally:  # whatever ends this process ends its children
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
    """Weights, average and optimizer state of a checkpoint, by name, as bytes."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    tensors = stored["state_dict"] | {f"ema.{k}": v for k, v in stored["ema"].items()}
    for number, entry in stored["optimizer_states"][0]["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in entry.items()}
    return {name: t.contiguous().reshape(-1).view(torch.uint8).numpy() for name, t in tensors.items()}


def differing_bits(a: Path | None, b: Path | None) -> int:
    """Of two checkpoints; a missing one differs in all."""
    one, two = (state(p) if p and p.is_file() else {} for p in (a, b))
    total = 0
    for name in one.keys() | two.keys():
        x, y = (s.get(name, np.zeros(0, np.uint8)) for s in (one, two))
        total += int(np.bitwise_count(x ^ y).sum()) if x.shape == y.shape else 8 * max(x.size, y.size)
    return total if one and two else max(total, 1)


def trained_on(job: Job) -> dict[int, tuple[int, str]]:
    """Position → step and sample, of the steps that count: what a later life took up again from an earlier step is undone."""
    seen: dict[int, tuple[int, str]] = {}
    for lines in records(job):
        for step in {int(line[1]) for line in lines if line[0] == "resume"}:
            seen = {position: pair for position, pair in seen.items() if pair[0] < step}
        seen |= {int(line[2]): (int(line[1]), line[3]) for line in lines if line[0] == "sample" and len(line) == 4}
    return seen


def spans(job: Job) -> list[tuple[int, int]]:
    """Of each life that trained: the step it went on from, and the last that it ended."""
    found = [[int(line[1]) for line in lines if line[0] in ("resume", "end")] for lines in records(job)]
    return [(min(steps), max(steps)) for steps in found if steps]


def records(job: Job) -> Iterator[list[list[str]]]:
    """What the Recorder wrote in each life, over all ranks, line by line in words; a torn line is left out."""
    for life in range(job.lives):
        files = sorted((job.folder / "record").glob(f"life{life:03d}-*.txt"))
        yield [line.split() for file in files for line in file.read_text().splitlines(True) if line.endswith("\n")]


def curves(job: Job) -> dict[tuple[int, str], float]:
    """(step, tag) → logged number, of all that is logged but the speed."""
    file = job.run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    skipped = ("step", "epoch", "train/samples_per_s")
    return {(line["step"], tag): value for line in lines for tag, value in line.items() if tag not in skipped}
