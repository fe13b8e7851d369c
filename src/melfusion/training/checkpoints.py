"""When checkpoints are written."""

from __future__ import annotations

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from melfusion.errors import CheckpointError
from melfusion.state.checkpoint_store import CheckpointStore


class SaveCheckpoints(Callback):
    """When checkpoints are written: every so many optimizer steps, and at a validation that is the best so far.

    A step that is validated is saved after its validation, which a resume would not make up for. Stands last among the
    callbacks, so that all others have had their say about the step; `settle` is called before each.
    """

    def __init__(self, store: CheckpointStore, every_n_steps: int, val_every_n_steps: int, settle: Any = lambda: None):
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
        """Write the state of this step, on all ranks alike; CheckpointError on all of them where rank 0 could not."""
        started = time.perf_counter()
        self.settle()
        trainer.save_checkpoint(self.store.path(trainer.global_step))
        self.saved = trainer.global_step
        self.seconds += time.perf_counter() - started
        self.check(trainer)

    def finish(self, trainer: Trainer) -> None:
        """Save where it is not yet, and wait until it is on disk."""
        if self.saved != trainer.global_step:
            self.save(trainer)
        self.store.wait()
        self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        if failure := trainer.strategy.broadcast(self.store.failure):
            raise CheckpointError(failure)
