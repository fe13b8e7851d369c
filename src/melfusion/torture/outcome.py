"""What a fault cost: one line of the table, from comparing a job with the one that nothing happened to."""

from __future__ import annotations

import dataclasses
import signal
from itertools import pairwise
from pathlib import Path

from melfusion.errors import CheckpointError
from melfusion.state.checkpoint_store import newest
from melfusion.torture.jobs import EVERY, TortureJob, curves, differing_bits, spans, state, trained_on


@dataclasses.dataclass
class Outcome:
    """One line of the table.

    Args:
        lost: samples of the run that no step was trained on, or another step than without the fault.
        bits: that differ from the undisturbed run in weights, average and optimizer.
    """

    fault: str
    injected: int = 0
    survived: int = 0
    lost: int = 0
    bits: int = 0
    words: str = ""

    @property
    def passed(self) -> bool:
        return 0 < self.injected == self.survived and not self.lost and not self.bits

    def compare(self, job: TortureJob, reference: TortureJob, exact: bool = True, damaged: int = 0) -> None:
        """Add what a job that has ended lost against the undisturbed one. A step that had been saved and is done again is lost.

        Args:
            exact: also compare the bits of the newest checkpoints and all logged numbers.
            damaged: how many of the newest checkpoints the fault spoiled.
        """
        there, here = trained_on(reference), trained_on(job)
        self.lost += sum(here.get(p) != there.get(p) for p in there.keys() | here.keys())
        for (_, ended), (resumed, _) in pairwise(spans(job)):
            if resumed < saved_by(ended) - damaged * EVERY:
                self.survived, self.words = self.survived - 1, f"went on from step {resumed} after step {ended}"
        if exact:
            self.bits += differing_bits(usable(job), usable(reference))
            self.bits += sum(curves(job).get(k) != v for k, v in curves(reference).items())


def saved_by(ended: int) -> int:
    """The step whose checkpoint is surely on disk when step `ended` has ended: its own may still be being written."""
    return max(0, ended - 1) // EVERY * EVERY


def usable(job: TortureJob) -> Path | None:
    """The newest checkpoint that is whole, if there is one."""
    try:
        return newest(job.run / "checkpoints")
    except CheckpointError:
        return None


def whole(job: TortureJob) -> bool:
    """Is there a checkpoint that can be loaded, unless none can have been saved yet?"""
    path = usable(job)
    return bool(state(path)) if path else all(saved_by(ended) == 0 for _, ended in spans(job))


def killed(codes: list[int]) -> bool:
    """Did SIGKILL end the first rank, and all others too, or the loss of that rank?"""
    return -signal.SIGKILL in codes and set(codes) <= {-signal.SIGKILL, 2}
