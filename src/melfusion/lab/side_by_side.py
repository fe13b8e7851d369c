"""Several commands of this project at a time, each in a process of its own. A signal to this process reaches all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from melfusion.training.preemption import noting_signals

POLL_S = 0.1


@dataclass(frozen=True)
class MelfusionCommand:
    """`python -m melfusion WORDS…`, whose output is added to `log`."""

    name: str
    words: list[str]
    log: Path


def run_side_by_side(commands: list[MelfusionCommand], n: int) -> tuple[dict[str, int], int | None]:
    """Run at most `n` at a time; returns the exit code of each that was started, and the first signal that arrived or None.

    After SIGTERM, SIGUSR1 or SIGINT no command is started. All running ones get SIGTERM, and the call waits until they have
    saved their state and ended. Each gets an equal share of the cores as threads, unless OMP_NUM_THREADS is set.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // n)
    waiting, stopping = list(commands), False
    running: dict[str, subprocess.Popen[bytes]] = {}
    codes: dict[str, int] = {}
    with noting_signals((signal.SIGINT,)) as came:
        while running or (waiting and not came):
            while waiting and len(running) < n and not came:
                command = waiting.pop(0)
                running[command.name] = begin(command, threads)
            if came and not stopping:
                stopping = True
                for process in running.values():
                    process.send_signal(signal.SIGTERM)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                codes[name] = running.pop(name).returncode
            time.sleep(POLL_S)
    return codes, came[0] if came else None


def begin(command: MelfusionCommand, threads: int) -> subprocess.Popen[bytes]:
    """Start one in a session of its own, so that Ctrl-C in the terminal does not end it before it has saved its state."""
    command.log.parent.mkdir(parents=True, exist_ok=True)
    print(f"── {command.name}: {command.log}", flush=True)
    env = {"OMP_NUM_THREADS": str(threads)} | os.environ | {"CONFIG": ""}
    with command.log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "melfusion", *command.words],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
