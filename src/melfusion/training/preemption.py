"""A request to leave (SIGTERM, SIGUSR1): all ranks save the same step and exit with PREEMPTED; the same command goes on.

A cluster sends SIGUSR1 some time before a job's limit, or SIGTERM when it needs the node. During training the signal may come to
any rank. It travels in the guard's vector (guard.py), so that all ranks learn of it at the same step. At other times nothing is
half done that matters: the process leaves at once and says what is kept.
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
    """While nothing trains: a signal ends the work within and becomes Preempted.

    Args:
        kept: called then; returns the middle of the sentence: which work the signal interrupted, and what is kept of it.
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
    """Within it, signals (the usual ones and `more`) are only added to the list."""
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
    """While it trains: ranks note a signal, agree on it, and obey it at the end of a step. Stands after SaveCheckpoints.

    Args:
        requeue: called once, by rank 0, when all is saved and the signal was SIGUSR1; it tells the cluster to start the job
            again. It is not called after SIGTERM: the job was cancelled, or the cluster requeues it by itself.
    """

    def __init__(self, guard: StepGuard, saver: SaveCheckpoints, requeue: Callable[[], None] = lambda: None):
        self.guard, self.saver, self.requeue, self.stack = guard, saver, requeue, contextlib.ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stack.enter_context(_handlers(self._note))

    def _note(self, number: int, frame: Any) -> None:
        self.guard.ask_to_stop(number)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.guard.stopping and trainer.global_step % self.saver.val_every:
            self.saver.finish(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.guard.stopping and trainer.state.fn == "fit":  # a resume would not do this validation
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
        """Called when the last step is saved: all ranks leave if one was asked to and no later step could obey."""
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
