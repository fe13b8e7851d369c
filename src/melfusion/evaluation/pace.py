"""How long many clips will take and how much disk they need. What the disk has no room for is refused."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from melfusion.errors import ConfigError


class Pace:
    """Progress of `total` clips of `bytes_each` bytes in `folder`, which exists. ConfigError where its disk has too little room."""

    def __init__(self, total: int, bytes_each: int, folder: Path):
        self.total, self.started, self.printed = total, time.perf_counter(), False
        self.room = f"{size(total * bytes_each)} in {folder}"
        free = (usage := shutil.disk_usage(folder)).free
        if total * bytes_each > free and usage.total:  # some network drives report a size of 0
            raise ConfigError(
                f"{total} clips need about {self.room}, and its disk has {size(free)} left: give a smaller n, or another out=…."
            )

    def tell(self, done: int) -> None:
        """Call it after each batch. After the first one it prints how long the rest takes, unless nothing is left."""
        if not self.printed and done < self.total:
            left = (time.perf_counter() - self.started) / done * (self.total - done)
            words = f"the others take about {duration(left)}, all of them {self.room}"
            print(f"{done} of {self.total} clips are made; {words}", flush=True)
        self.printed = True


def size(count: float) -> str:
    """A number of bytes with its unit: 1.5 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds with a readable unit: 3 hours."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
