"""How much TensorBoard's files of a run may grow in a day."""

from __future__ import annotations

import logging
import time
from pathlib import Path

log = logging.getLogger(__name__)

DAY_S = 24 * 3600.0
MIB = 2**20


class MediaBudget:
    """Says whether there is room for more media; the first time that there is none, the log says so.

    It asks the files themselves, so that it holds across a resume.

    Args:
        folder: of the event files.
        mib_per_day: what they may grow in 24 hours.
    """

    def __init__(self, folder: Path, mib_per_day: float):
        self.folder, self.limit, self.full = folder, mib_per_day, False

    def room(self) -> bool:
        used = written_in_a_day(self.folder, time.time()) / MIB
        if used >= self.limit and not self.full:
            log.warning(
                "%s grew by %.0f MiB in a day: media are left out until it is less than trainer.media_mib_per_day=%g.",
                self.folder,
                used,
                self.limit,
            )
        self.full = used >= self.limit
        return not self.full


def written_in_a_day(folder: Path, now: float) -> float:
    """Bytes of the event files that the 24 hours before `now` brought.

    A file counts as written evenly from the second in its name, when TensorBoard's writer opened it, to its last change.
    """
    total = 0.0
    for file in folder.glob("events.out.tfevents.*"):
        stat, began = file.stat(), file.name.split(".")[3]
        first = min(float(began) if began.isdecimal() else stat.st_mtime, stat.st_mtime)
        last = max(stat.st_mtime, first + 1)
        total += stat.st_size * max(0.0, last - max(first, now - DAY_S)) / (last - first)
    return total
