"""When checkpoints are written."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lightning import Callback, LightningModule, Trainer

from melfusion.errors import CheckpointError
from melfusion.state.checkpoint_store import CheckpointStore


class SaveCheckpoints(Callback):
    """Saves every so many optimizer steps, and after a validation with the lowest loss so far.

    A step that is validated is saved after its validation, because a resumed run does not validate it. Stands after the callbacks
    whose state it saves.

    Args:
        settle: called before each checkpoint: the last step is judged, and the average moves.
    """

    def __init__(
        self, store: CheckpointStore, every_n_steps: int, val_every_n_steps: int, settle: Callable[[], None] = lambda: None
    ):
        self.store, self.every, self.val_every, self.settle, self.saved = store, every_n_steps, val_every_n_steps, settle, -1
        self.seconds = 0.0  # spent on writing, as the training loop saw it

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._due(trainer.global_step) and trainer.global_step % self.val_every:
            self.save(trainer)

    def _due(self, step: int) -> bool:
        return step % self.every == 0 and step != self.saved

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = trainer.callback_metrics.get("val/loss")
        if trainer.state.fn != "fit" or loss is None:
            return
        best = trainer.strategy.broadcast(float(loss) < self.store.best_loss())  # rank 0 alone may read what it writes
        if self._due(trainer.global_step) or (best and self.store.keep_best and self.saved != trainer.global_step):
            self.save(trainer)
        if trainer.is_global_zero and self.saved == trainer.global_step:
            self.store.score(trainer.global_step, float(loss))
        self.check(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the state of this step; all ranks call it. CheckpointError on all of them where rank 0 could not write."""
        started = time.perf_counter()
        self.settle()
        trainer.save_checkpoint(self.store.path(trainer.global_step))
        self.saved = trainer.global_step
        self.seconds += time.perf_counter() - started
        self.check(trainer)

    def finish(self, trainer: Trainer) -> None:
        """Save this step unless that is done, and wait until it is on disk."""
        if self.saved != trainer.global_step:
            self.save(trainer)
        self.store.wait()
        self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        if failure := trainer.strategy.broadcast(self.store.failure):
            raise CheckpointError(failure)
