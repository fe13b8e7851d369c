"""A request to leave (SIGTERM, SIGUSR1): all ranks save the same step and exit with PREEMPTED; the same command goes on.

A cluster sends SIGUSR1 some time before a job's limit, or SIGTERM where it needs the node. During training the signal, on
whichever rank, travels in the guard's vector (guards.py), so that all ranks know of it at the same step. At other times
nothing is half done that matters, and the process leaves at once and says what is kept.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from lightning import Callback, LightningModule, Trainer

from melfusion.errors import Interrupted, Preempted
from melfusion.training.checkpoints import SaveCheckpoints
from melfusion.training.guard import StepGuard

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@contextlib.contextmanager
def leaving_on_signal(kept: Callable[[], str]) -> Iterator[None]:
    """While nothing trains: a signal ends what is being done and becomes Preempted.

    `kept` is asked then for the sentence's middle: during what the signal came, and what is kept of it.
    """
    came: list[int] = []

    def leave(number: int, frame: Any) -> None:
        came.append(number)
        if len(came) == 1:  # `timeout` and schedulers often send more than one
            raise Interrupted

    with _handlers(leave):
        try:
            yield
        except Interrupted:
            raise Preempted(f"{signal.Signals(came[0]).name} arrived {kept()}; the same command goes on.") from None


@contextlib.contextmanager
def noting_signals(more: tuple[int, ...] = ()) -> Iterator[list[int]]:
    """Within it, signals (and `more` than the usual ones) do nothing but stand in the list."""
    came: list[int] = []
    with _handlers(lambda number, frame: came.append(number), (*SIGNALS, *more)):
        yield came


@contextlib.contextmanager
def _handlers(handler: Callable[[int, Any], None], numbers: tuple[int, ...] = SIGNALS) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread set handlers
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class Preemption(Callback):
    """While it trains: a signal is noted, agreed on, and obeyed at the end of a step. Stands after SaveCheckpoints.

    Args:
        requeue: called once, by rank 0, when all is saved and the signal was SIGUSR1: a cluster's way to start the job
            again. After SIGTERM nothing is called: that is a cancelled job, or one that the cluster requeues by itself.
    """

    def __init__(self, guard: StepGuard, saver: SaveCheckpoints, requeue: Callable[[], None] = lambda: None):
        self.guard, self.saver, self.requeue, self.stack = guard, saver, requeue, contextlib.ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stack.enter_context(_handlers(self._note))

    def _note(self, number: int, frame: Any) -> None:
        self.guard.stop_signal = number

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.guard.stopping and trainer.global_step % self.saver.val_every:
            self.saver.finish(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.guard.stopping and trainer.state.fn == "fit":  # a resume would not make this validation up
            self.saver.finish(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Not at the end of the step before, or its last log lines would be lost."""
        if not self.guard.stopping:
            return
        trainer.strategy.barrier("preemption")
        if trainer.is_global_zero and self.guard.time_is_up:
            self.requeue()
        raise Preempted(f"The run was asked to leave and has saved step {trainer.global_step}: the same command goes on.")

    def obey(self, trainer: Trainer) -> None:
        """After the last step, when it is saved: all ranks leave where one was asked to and no step came that obeyed."""
        asked, usr1 = (
            trainer.strategy.reduce_boolean_decision(flag, all=False)
            for flag in (self.guard.stop_signal > 0, self.guard.stop_signal == signal.SIGUSR1)
        )
        if not asked:
            return
        if trainer.is_global_zero and usr1:
            self.requeue()
        raise Preempted(f"The run was asked to leave and has saved all its {trainer.global_step} steps: the same command goes on.")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stack.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.stack.close()
