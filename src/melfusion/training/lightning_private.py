"""What Lightning offers no public way for. Nothing else in this package touches a private name of Lightning.

Each function has a test in tests/training/test_lightning_private.py that fails when Lightning changes what it relies on.
"""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities import rank_zero_only

_rank_zero_only: Any = rank_zero_only  # its type is that of a plain function, which has no `rank`


def rank() -> int:
    """The rank of this process, also before a Trainer exists; then it is read from the environment of the launcher.

    Lightning keeps it as an attribute of `rank_zero_only` (since 1.0) and documents no function for it.
    """
    return _rank_zero_only.rank


def set_rank(number: int) -> None:
    """Tell Lightning the rank of a process that was forked after the import, when the environment had been read already."""
    _rank_zero_only.rank = number


def leave_signals_alone(trainer: Any) -> None:
    """Keep Lightning from handling SIGTERM and SIGUSR1 in this Trainer: preemption.py does.

    Its handlers (since 2.0) send the signal to other ranks at once, so two ranks may stop at different steps. No option
    turns them off; `SLURMEnvironment(auto_requeue=False)` leaves the one of SIGTERM. Before each batch all ranks agree on SIGTERM
    once more (since 2.5.2), for which the host waits for the device.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def log_validation_at(trainer: Any, step: int) -> None:
    """Let Lightning log the numbers of this validation at `step`.

    It logs them at its count of batches that stepped (since 1.6.5). During a validation that count is one too low. The public
    way, a metric named `step`, would also appear among the results of the run.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def forget_writer(logger: TensorBoardLogger) -> None:
    """Let the logger open a new event file at its next line, since the one that is open may end in half a record.

    It keeps the SummaryWriter for ever (since 1.0); the writer's own `close` fails as long as the disk is full.
    """
    logger._experiment = None


class Fetching(Profiler):
    """Adds up the seconds in which a training waited for its loader."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.started = 0.0, 0.0

    def start(self, action_name: str) -> None:
        if action_name == "[_TrainingEpochLoop].train_dataloader_next":
            self.started = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name == "[_TrainingEpochLoop].train_dataloader_next":
            self.seconds += time.perf_counter() - self.started


def time_fetching(trainer: Any) -> Fetching:
    """Let the Trainer tell what it waits for data, from a callback's `setup` on.

    Its profiler is an argument when it is made (since 1.0), which no callback can give. The name of the action is Lightning's own.
    """
    if not isinstance(trainer.profiler, Fetching):  # two callbacks may ask
        trainer.profiler = Fetching()
    return trainer.profiler
