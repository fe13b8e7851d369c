"""What a run logs: scalars, hyper-parameters, metrics.jsonl."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class TrainingScalars(Callback):
    """samples/s, learning rates, each α, the loss by timestep bin, and how many samples had to be replaced, why."""

    def __init__(self, global_batch_size: int, bins: int = 10):
        self.batch_size, self.bins = global_batch_size, bins
        self.sums, self.counts = torch.zeros(bins), torch.zeros(bins)
        self.last = (0, 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last, self.started = (trainer.global_step, time.perf_counter()), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any) -> None:
        if isinstance(outputs, dict) and "timesteps" in outputs:
            where = outputs["timesteps"] * self.bins // len(pl_module.alpha_bar)
            self.sums, self.counts = self.sums.to(where.device), self.counts.to(where.device)
            self.sums.index_add_(0, where, outputs["losses"].float())
            self.counts.index_add_(0, where, torch.ones_like(where, dtype=torch.float32))
        step, since = trainer.global_step, self.last[0]
        first = step == self.started + 1 and since == self.started
        if step == since or (step % trainer.log_every_n_steps and not first):
            return
        now = time.perf_counter()
        scalars = {"train/samples_per_s": (step - since) * self.batch_size / (now - self.last[1])}
        self.last = (step, now)
        for i, group in enumerate(trainer.optimizers[0].param_groups):
            scalars[f"lr/group{i}"] = group["lr"]
        for name, value in self._by_bin().items():
            scalars[name] = value
        denoiser = getattr(pl_module, "denoiser", None)
        for name, alpha in (denoiser.alphas() if denoiser is not None else {}).items():
            for head, value in enumerate(alpha.detach().float().reshape(-1).tolist()):
                scalars[f"synapse/alpha/{name}" + (f"/head{head}" if alpha.ndim else "")] = value
        if trainer.datamodule is not None:
            scalars |= trainer.datamodule.replacements.scalars()
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All ranks come by here, so what they replaced is added up."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step  # Lightning logs a validation at this one
        if trainer.datamodule is not None:
            trainer.datamodule.replacements.gather()
            if scalars := trainer.datamodule.replacements.scalars():
                for logger in trainer.loggers:
                    logger.log_metrics(scalars, trainer.global_step)

    def _by_bin(self) -> dict[str, float]:
        counts, sums = self.counts.tolist(), self.sums.tolist()
        self.sums.zero_(), self.counts.zero_()
        return {f"train/loss_by_timestep/{i}": s / c for i, (s, c) in enumerate(zip(sums, counts, strict=True)) if c}
