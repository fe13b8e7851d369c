"""The scalars that a run logs beside its losses."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from melfusion.assembly.peak import Flops, quick_peak
from melfusion.training.lightning_private import log_validation_at, time_fetching

# What two runs that are equal to the bit differ in: clocks, and what the process held before
OF_THE_MACHINE = ("train/samples_per_s", "train/share_of_peak", "data/wait_share", "memory/process_peak_gib", "memory/gpu_peak_gib")


class TrainingScalars(Callback):
    """samples/s, share of peak, memory, waiting for data, learning rates, each α, loss by timestep bin, replaced samples by reason.

    Args:
        counting: may the operations of the first micro-batch be counted?
    """

    def __init__(self, global_batch_size: int, bins: int = 10, counting: bool = True):
        self.batch_size, self.bins = global_batch_size, bins
        self.counting, self.flops, self.within = counting, Flops(), contextlib.ExitStack()
        self.flops_per_sample = self.peak = 0.0  # of forward and backward; FLOP/s of all devices
        self.sums, self.counts = torch.zeros(bins), torch.zeros(bins)
        self.last, self.started = (0, 0.0), 0  # step and time of the last line; the step that this process began with
        self.waited = 0.0  # seconds, for data, up to the last line

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.fetching = time_fetching(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.counting:
            self.peak = quick_peak(str(trainer.precision_plugin.precision)) * trainer.world_size
        self.last, self.started = (trainer.global_step, time.perf_counter()), trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.counting:
            self.counting = False
            self.within.enter_context(self.flops)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.within.close()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self.within.close()
        self.flops_per_sample = self.flops_per_sample or self.flops.total / len(batch)
        if isinstance(outputs, dict) and "timesteps" in outputs:
            self._gather(outputs["timesteps"] * self.bins // pl_module.objective.num_timesteps, outputs["losses"].float())
        step, since = trainer.global_step, self.last[0]
        first = step == self.started + 1 and since == self.started
        if step == since or (step % trainer.log_every_n_steps and not first):
            return
        now = time.perf_counter()
        scalars = {"train/samples_per_s": (step - since) * self.batch_size / (now - self.last[1])}
        if self.flops_per_sample:
            scalars["train/share_of_peak"] = scalars["train/samples_per_s"] * self.flops_per_sample / self.peak
        scalars["data/wait_share"] = (self.fetching.seconds - self.waited) / (now - self.last[1])
        self.last, self.waited = (step, now), self.fetching.seconds
        for i, group in enumerate(trainer.optimizers[0].param_groups):
            scalars[f"lr/group{i}"] = group["lr"]
        scalars |= self._by_bin() | alphas(pl_module) | peak_memory(trainer)
        if trainer.datamodule is not None:
            scalars |= trainer.datamodule.replacements.scalars()
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step)

    def on_validation_start(self, trainer: Any, pl_module: LightningModule) -> None:
        """All ranks call this, so what each replaced is added up here."""
        log_validation_at(trainer, trainer.global_step)
        if trainer.datamodule is not None:
            trainer.datamodule.replacements.gather()
            if scalars := trainer.datamodule.replacements.scalars():
                for logger in trainer.loggers:
                    logger.log_metrics(scalars, trainer.global_step)

    def _gather(self, bins: Tensor, losses: Tensor) -> None:
        """Bin (B,) and loss (B,) of each sample."""
        self.sums, self.counts = self.sums.to(bins.device), self.counts.to(bins.device)
        self.sums.index_add_(0, bins, losses)
        self.counts.index_add_(0, bins, torch.ones_like(bins, dtype=torch.float32))

    def _by_bin(self) -> dict[str, float]:
        counts, sums = self.counts.tolist(), self.sums.tolist()
        self.sums.zero_(), self.counts.zero_()
        return {f"train/loss_by_timestep/{i}": s / c for i, (s, c) in enumerate(zip(sums, counts, strict=True)) if c}


def alphas(module: Any) -> dict[str, float]:
    """Log tag → α of each block or layer of the synapse, and of each head where it has one of its own."""
    denoiser = getattr(module, "denoiser", None)
    return {
        f"synapse/alpha/{name}" + (f"/head{head}" if alpha.ndim else ""): value
        for name, alpha in (denoiser.alphas() if denoiser is not None else {}).items()
        for head, value in enumerate(alpha.detach().float().reshape(-1).tolist())
    }


def peak_memory(trainer: Any) -> dict[str, float]:
    """GiB at the peak so far: of this process, and of tensors on its GPU where it has one."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = {"memory/process_peak_gib": resident / 2**30}
    if trainer.strategy.root_device.type == "cuda":
        found["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(trainer.strategy.root_device) / 2**30
    return found
