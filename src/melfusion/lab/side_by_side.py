"""Commands of this project in processes of their own, a few at a time; a signal to this process is theirs, too."""

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
class Command:
    """`python -m melfusion WORDS…`, whose output is added to `log`."""

    name: str
    words: list[str]
    log: Path


def run_side_by_side(commands: list[Command], n: int) -> tuple[dict[str, int], int | None]:
    """At most `n` at a time → the exit code of each that was started, and the first signal that came meanwhile.

    After SIGTERM, SIGUSR1 or SIGINT nothing is started, all that run get SIGTERM, and this waits until they have saved and left.
    Each has its share of the cores, unless OMP_NUM_THREADS says otherwise: jobs of as many threads as cores hinder each other.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // n)
    waiting, running, codes, told = list(commands), {}, {}, False
    with noting_signals((signal.SIGINT,)) as came:
        while running or (waiting and not came):
            while waiting and len(running) < n and not came:
                command = waiting.pop(0)
                running[command.name] = begin(command, threads)
            if came and not told:
                told = True
                for process in running.values():
                    process.send_signal(signal.SIGTERM)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                codes[name] = running.pop(name).returncode
            time.sleep(POLL_S)
    return codes, came[0] if came else None


def begin(command: Command, threads: int) -> subprocess.Popen:
    """Start one, out of reach of a terminal's Ctrl-C, which would end it before it has saved."""
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
