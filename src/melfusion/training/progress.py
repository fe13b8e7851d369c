"""What a training says as it runs: steps of all steps and the time that is left, and no noise of libraries."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm


@contextlib.contextmanager
def frozen_parts_may_rest() -> Iterator[None]:
    """Within it Lightning does not warn that modules are in eval mode as a training starts: frozen ones are, on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode", category=UserWarning)
        yield


class StepsBar(TQDMProgressBar):
    """Lightning's bar, which counts batches of an epoch, made to count optimizer steps of the run, also after a resume."""

    BAR_FORMAT = "{desc}: {n_fmt} of {total_fmt} |{bar}| {elapsed}, {remaining} left, {rate_noinv_fmt}{postfix}"

    @property
    def train_description(self) -> str:
        return "step"

    @property
    def validation_description(self) -> str:
        return "validation batch"

    def init_train_tqdm(self) -> Tqdm:
        bar, trainer = super().init_train_tqdm(), self.trainer
        bar.unit = " steps"
        bar.total, bar.initial, bar.n = trainer.max_steps, trainer.global_step, trainer.global_step
        bar.refresh()
        return bar

    def on_train_epoch_start(self, trainer: Any, *args: Any) -> None:
        """Another pass over the data begins: the bar stays."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        bar, step = self.train_progress_bar, trainer.global_step
        if step != bar.n and (step % self.refresh_rate == 0 or step == bar.total):
            bar.n = step
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def init_validation_tqdm(self) -> Tqdm:
        bar = super().init_validation_tqdm()
        bar.total = self.total_val_batches
        return bar

    def on_validation_batch_start(self, *args: Any) -> None:
        """There is one loader: the bar is named and sized already."""

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        """What is logged for the bar, without the logger's name."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
