"""How long many clips take and what room they need: told after the first ones, and refused where the disk has no room."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from melfusion.errors import ConfigError


class Pace:
    """Of `total` clips of `bytes_each` in `folder`, which must exist; ConfigError where its disk has too little room for them."""

    def __init__(self, total: int, bytes_each: int, folder: Path):
        self.total, self.started, self.told = total, time.perf_counter(), False
        self.room = f"{size(total * bytes_each)} in {folder}"
        free = (usage := shutil.disk_usage(folder)).free
        if total * bytes_each > free and usage.total:  # some network drives say that they have no room at all
            raise ConfigError(
                f"{total} clips need about {self.room}, and its disk has {size(free)} left: give a smaller n, or another out=…."
            )

    def tell(self, done: int) -> None:
        """After the first clips, where more are to come: one line."""
        if not self.told and done < self.total:
            left = (time.perf_counter() - self.started) / done * (self.total - done)
            words = f"the others take about {duration(left)}, all of them {self.room}"
            print(f"{done} of {self.total} clips are made; {words}", flush=True)
        self.told = True


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds in words."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
