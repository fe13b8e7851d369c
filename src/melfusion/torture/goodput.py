"""Goodput: the share of its time in which a job moves on, when it fails so many times an hour.

It is measured on a real training in processes of their own, imports included. A run is killed between two checkpoints and started
again. A failure costs the restart, up to the end of its first new step, and the steps since the last checkpoint, on average half an
interval. Writing checkpoints costs a share of its own.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

MEAN_TIMES_S = {"30 minutes": 1800.0, "3 hours": 10800.0}

LIMIT_S = 3600.0


def share(restart_s: float, step_s: float, checkpoint_s: float, interval: int, between_failures_s: float) -> float:
    """Useful time over all time, with a checkpoint every `interval` steps and a failure every so many seconds."""
    writing = checkpoint_s / (interval * step_s + checkpoint_s)
    failure = restart_s + interval * step_s / 2
    return (1 - writing) * max(0.0, 1 - failure / between_failures_s)


def measure(config: str, interval: int, folder: Path) -> dict[str, float]:
    """Seconds of a restart, a step and a checkpoint, and the steps lost, of a job that is killed between two checkpoints."""
    command = [
        config,
        f"runs_dir={folder / 'runs'}",
        "name=goodput",
        f"trainer.checkpoint_every_n_steps={interval}",
        "trainer.media_items=0",
        f"trainer.val_every_n_steps={100 * interval}",
        f"trainer.max_steps={10 * interval}",
        "evaluation.items=0",
    ]
    _live(command, folder, 0, until=interval + interval // 2)
    started = time.time()
    _live(command, folder, 1, until=interval + interval // 2)
    (first, again) = (_ends(folder, life) for life in (0, 1))
    pauses = {step: first[step] - first[step - 1] for step in first if step - 1 in first and step > 3}
    step_s = statistics.median(pauses.values())
    resumed = min(again) - 1
    return {
        "restart_s": again[resumed + 1] - started,
        "step_s": step_s,
        "checkpoint_s": max(0.0, pauses[interval + 1] - step_s),
        "lost_steps": max(first) - resumed,
        "interval": interval,
    }


def _live(command: list[str], folder: Path, life: int, until: int) -> None:
    """One life of the job, in a process group of its own, killed once it has ended step `until`."""
    log = (folder / f"goodput{life}.txt").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "melfusion.torture.child", f"{folder / 'goodput'}:{life}", *command],
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + LIMIT_S
    try:
        while process.poll() is None and time.monotonic() < deadline and max(_ends(folder, life), default=0) < until:
            time.sleep(0.02)
    finally:  # the job must not outlive this process
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ends(folder: Path, life: int) -> dict[int, float]:
    """Step → time at which it ended."""
    file = folder / "goodput" / f"life{life:03d}-rank0.txt"
    lines = [line.split() for line in file.read_text().splitlines()] if file.is_file() else []
    return {int(line[1]): float(line[2]) for line in lines if line[0] == "end" and len(line) == 3}


def report(config: str, found: dict[str, float]) -> str:
    """A sentence with the figures and the goals."""
    costs = (found["restart_s"], found["step_s"], found["checkpoint_s"], int(found["interval"]))
    shares = ", ".join(f"{share(*costs, mean):.1%} at one failure per {name}" for name, mean in MEAN_TIMES_S.items())
    return (
        f"Goodput of {config}: restart {found['restart_s']:.1f} s, step {found['step_s']:.3f} s, checkpoint "
        f"{found['checkpoint_s']:.2f} s every {found['interval']:.0f} steps, {found['lost_steps']:.0f} lost in this kill: "
        f"useful time {shares} (goals 95 % and 99 %)."
    )
