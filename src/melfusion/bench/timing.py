"""Calls timed in turn, and the figures that they give."""

from __future__ import annotations

import contextlib
import re
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from melfusion.training.plan import wait_for_device

MIB = 2**20

# Unit → is more of it better? `×` is how many times as fast ours is
RATES, COSTS = ("samples/s", "clips/s", "MB/s", "TFLOP/s", "×"), ("s", "ms", "MiB", "%")
UNITS = dict.fromkeys(RATES, True) | dict.fromkeys(COSTS, False)


@dataclass
class Figure:
    """One measured quantity: all its values, and what they are compared with.

    Attributes:
        unit: one of UNITS, which says whether more of it is better.
        ratio: how many times as fast as the reference that was measured in turn with it.
        of_peak: its FLOP/s over what the machine reached in multiplying matrices of its precision.
        of_floor: the time that the least FLOPs for the same result would take at the machine's best, over its own time.
        setting: what was measured: batch, steps, precision.
    """

    unit: str
    values: list[float]
    ratio: float | None = None
    of_peak: float | None = None
    of_floor: float | None = None
    setting: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"{self.unit!r} is no unit of a figure: give one of {', '.join(UNITS)}.")

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper."""
        if len(self.values) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def words(self) -> str:
        """Median, quartiles, ratio and shares."""
        low, high = self.quartiles
        spread = f" ({low:.4g} to {high:.4g})" if len(self.values) > 1 else ""
        shares = {"the matmul peak": self.of_peak, "the counted floor": self.of_floor}
        more = [] if self.ratio is None else [f"ratio {self.ratio:.1f}×"]
        more += [f"{share:.2%} of {name}" for name, share in shares.items() if share is not None]
        return ", ".join([f"{self.median:.4g} {self.unit}{spread}", *more])


def figure(name: str, value: Figure | float) -> Figure:
    """A section's result as a Figure. The unit of a plain number is the last word of its name, such as `samples/s` or MiB."""
    if isinstance(value, Figure):
        return value
    return Figure(name.rpartition(" ")[2], [float(value)])


def speed(seconds: list[float], amount: float, unit: str = "samples/s") -> Figure:
    """So much in each of so many seconds."""
    return Figure(unit, [amount / s for s in seconds])


def timed(work: Callable[[], object]) -> float:
    """Seconds of a call, the device's work included."""
    wait_for_device()
    started = time.perf_counter()
    work()
    wait_for_device()
    return time.perf_counter() - started


def alternated(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Name → seconds of each call. They take turns, A B A B …, so that what disturbs the machine strikes all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(timed(work))
    return seconds


class Peak:
    """The most memory in use at once, in MiB: of a GPU beyond what was in use before, else of the whole process.

    A process hands freed memory out again, so that what it grows by says little.
    """

    mib = 0.0


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Fills in `mib` at its end."""
    peak, gpu = Peak(), torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = torch.cuda.memory_allocated() if gpu else 0
    yield peak
    peak.mib = ((torch.cuda.max_memory_allocated() if gpu else _resident()) - before) / MIB


def _resident() -> int:
    """Bytes of this process at most, since the mark began anew."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
