"""Where the curves of a run go: TensorBoard and metrics.jsonl. A full disk ends no training."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard.summary import hparams

from melfusion.files import write_whole
from melfusion.training.lightning_private import forget_writer, rank

log = logging.getLogger(__name__)


def log_hparams(board: Any, flat: dict[str, Any], scores: Iterable[str] = ()) -> None:
    """Put the configuration into TensorBoard's HParams tab.

    Args:
        scores: the curves of the same run that stand beside it, and all of `flat` are columns. Without them TensorBoard chooses:
            the keys in which the runs that it shows differ come first.
    """
    plain = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in flat.items()}
    experiment, *session = hparams(plain, dict.fromkeys(scores, 0.0))
    for summary in [experiment, *session] if scores else session:
        board.file_writer.add_summary(summary)


class Board(TensorBoardLogger):
    """TensorBoard's event files. Where they cannot be written, training goes on, and a later line begins a new file."""

    def __init__(self, folder: Path, purge_step: int):
        super().__init__(str(folder), name="", version="tensorboard", default_hp_metric=False, purge_step=purge_step)
        self.trouble = Trouble(folder / "tensorboard")

    @property
    def experiment(self) -> Any:
        """The SummaryWriter; one that does nothing while the disk takes no file of it."""
        with self.trouble:
            return super().experiment
        return DummyLogger().experiment

    def write(self, what: Callable[[Any], Any]) -> None:
        """Call `what` with the SummaryWriter. TensorBoard reads a file that ends in half a record up to there."""
        with self.trouble:
            what(super().experiment)
        if self.trouble.came:
            forget_writer(self)
            self.trouble.came = False

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.write(lambda _: super(Board, self).log_metrics(metrics, step))

    @rank_zero_only
    def save(self) -> None:
        self.write(lambda _: super(Board, self).save())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.write(lambda _: super(Board, self).finalize(status))


class Trouble:
    """A context that swallows the system's refusal to write, and logs the first of several."""

    def __init__(self, path: Path):
        self.path, self.came, self.logged = path, False, False

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self.came = isinstance(error, OSError)
        if self.came and not self.logged:
            log.warning(
                "%s cannot be written (%s): the run goes on without it; free some space or mend that.",
                self.path,
                getattr(error, "strerror", None) or error,
            )
            self.logged = True
        return self.came


class JSONLines(Logger):
    """metrics.jsonl: one object per logging step; a number that is not finite is null, since JSON has no such numbers."""

    name, version = "jsonl", ""

    def __init__(self, path: Path, resumed_step: int = 0):
        super().__init__()
        self.path, self.trouble = path, Trouble(path)
        if path.is_file() and rank() == 0:
            self._forget_after(resumed_step)

    def _forget_after(self, step: int) -> None:
        """Leave out what a run logged after its last checkpoint, since those steps come again, and lines that cannot be read."""
        kept, damaged = [], 0
        for line in self.path.read_bytes().splitlines():
            try:
                if (json.loads(line)["step"] or 0) <= step:
                    kept.append(line + b"\n")
            except (ValueError, KeyError, TypeError, RecursionError):  # torn, or not UTF-8
                damaged += 1
        if damaged > 1:  # a killed process leaves one
            log.warning("%s: %d lines cannot be read and are left out.", self.path, damaged)
        with self.trouble:
            write_whole(self.path, b"".join(kept))

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        numbers = {k: float(v) for k, v in metrics.items()}
        with self.trouble, self.path.open("a") as file:
            file.write(json.dumps({"step": step, **{k: v if math.isfinite(v) else None for k, v in numbers.items()}}) + "\n")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """They are in config.yaml."""
