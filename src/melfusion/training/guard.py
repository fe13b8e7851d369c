"""What keeps a bad step from doing harm: numbers that are not finite, leaps of the loss, and a request to stop.

A step is judged on the device, by one small vector that the ranks add up (verdict.py). A step with an input, loss or gradient that
is not finite changes nothing: the optimizer gets `found_inf`. The host reads the vector one step later, while the device already
computes the next step. Only then the learning rate, the average and the counts move.
"""

from __future__ import annotations

import logging
import statistics
from collections import deque
from pathlib import Path
from signal import SIGUSR1
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from melfusion.assembly.options import GuardConfig
from melfusion.batch import MusicBatch
from melfusion.errors import MelfusionError
from melfusion.models.trained import StepJudge
from melfusion.randomness import torch_seed
from melfusion.state.checkpoint_store import newest
from melfusion.training.ema import EMA
from melfusion.training.verdict import NOT_FINITE, Step, not_finite, threshold, to_host

log = logging.getLogger(__name__)

WINDOW = 100  # applied steps whose losses say what is usual


class GuardError(MelfusionError, RuntimeError):
    """Training that goes nowhere: what was seen, where the samples are named, what to do."""


class StepGuard(StepJudge):
    """Judges each optimizer step; `TrainedModule`, which finds it among the callbacks, hands it the norm of the gradient.

    Args:
        folder: where bad steps are described, one JSON file per rank.
        seed: of the run; with the positions of a step it gives every random number that the step used.
        ema: moves when a step is known to be sound. Whoever reads it calls `settle` first.
        checkpoints: where a rollback finds the state before a spike.
    """

    def __init__(self, config: GuardConfig, folder: Path, seed: int, ema: EMA | None, checkpoints: Path):
        self.config, self.folder, self.seed, self.ema, self.checkpoints = config, folder, seed, ema, checkpoints
        self.applied: int | None = None  # optimizer steps that moved the weights: what rates and averages go by
        self.skipped = self.overflows = self.spikes = self.in_a_row = self.spikes_in_a_row = 0
        self.usual: deque[float] = deque(maxlen=WINDOW)
        self.stop_signal = 0  # of this rank
        self.stopping = False  # all ranks have agreed to stop after this step
        self.time_is_up = False  # likewise, because a job's time is up
        self.roll_back = False  # likewise, to go back after this step
        self.pending: Step | None = None
        self._begin()

    def ask_to_stop(self, signal_number: int) -> None:
        """Called by a signal handler on any rank: all ranks stop after a step that they agree on."""
        self.stop_signal = signal_number

    def _begin(self) -> None:
        """Start to gather from the micro-batches of a step: samples, the loss, and whether all is finite, on the device."""
        self.samples: list[dict[str, Any]] = []
        self.loss: Tensor | None = None
        self.bad_input: Tensor | None = None

    # --- during a step --------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.trainer, self.module, self.stopping = trainer, pl_module, False
        self.scaler = getattr(trainer.precision_plugin, "scaler", None)  # of fp16
        if self.applied is None:
            self.applied = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # whatever draws from torch's own generator draws the same after a resume
        number = trainer.global_step * trainer.accumulate_grad_batches + len(self.samples)
        torch.manual_seed(torch_seed(self.seed, number * trainer.world_size + trainer.global_rank))
        if isinstance(batch, MusicBatch):
            self.samples.append({"keys": batch.keys, "positions": batch.position})
            bad = not_finite(batch)
            self.bad_input = bad if self.bad_input is None else self.bad_input | bad

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        loss = loss.detach().float()  # Lightning has divided it by the accumulation, and fp16 has scaled it
        if self.scaler is not None:
            loss = loss / self.scaler.get_scale()
        self.loss = loss if self.loss is None else self.loss + loss

    def judge(self, optimizer: Any, norm: Tensor) -> None:
        """Called with the norm () of the gradient: settle the step before, then tell the optimizer about this one."""
        self.settle()
        device, zero = norm.device, torch.zeros((), device=norm.device)
        loss = zero if self.loss is None else self.loss
        flags = [
            zero if self.bad_input is None else self.bad_input,
            ~loss.isfinite(),
            ~norm.isfinite(),
            *(torch.full((), float(asked), device=device) for asked in (self.stop_signal > 0, self.stop_signal == SIGUSR1)),
        ]
        vector = torch.stack([loss, norm.float(), *(flag.float() for flag in flags)])
        if self.trainer.world_size > 1:
            dist.all_reduce(vector)
            vector[:2] /= self.trainer.world_size
        bad = vector[2:5].sum() > 0
        if optimizer.defaults.get("fused"):
            optimizer.grad_scale, optimizer.found_inf = None, bad.float()
        elif bad.item():  # at the cost of waiting for the device, as the scaler of fp16 does anyway
            optimizer.zero_grad(set_to_none=True)
        self.pending = Step(self.trainer.global_step + 1, self.samples, *to_host(vector))
        self._begin()

    # --- one step later -------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Learn how the last step went, and do what follows from it. GuardError where too many in a row went wrong."""
        if self.pending is None:
            return
        step, self.pending = self.pending, None
        seen = step.read()
        self.stopping, self.time_is_up = self.stopping or seen["stop"] > 0, self.time_is_up or seen["time_is_up"] > 0
        if step.number == 1 or step.number % self.trainer.log_every_n_steps == 0:
            self._log({"train/loss": seen["loss"], "train/grad_norm": seen["grad_norm"]}, step.number)
        bad = [name for name in NOT_FINITE if seen[name] > 0]
        if self.scaler is not None and bad == ["gradient"]:  # the loss scale was too high: it finds its way by such steps
            self.overflows += 1
            self._count(step.number)
        elif bad:
            self._skipped(step, seen, bad)
        else:
            self._applied(step, seen["loss"])

    def _applied(self, step: Step, loss: float) -> None:
        self.in_a_row, self.applied = 0, (self.applied or 0) + 1
        for entry in self.trainer.lr_scheduler_configs:
            entry.scheduler.step()
        if self.ema is not None:
            self.ema.update(self.module, self.applied)
        self._watch(step, loss)

    def _skipped(self, step: Step, seen: dict[str, float], bad: list[str]) -> None:
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        file = self._describe(step, seen, bad)
        self._count(step.number)
        if self.in_a_row >= self.config.max_bad_steps:
            what = " and ".join(bad)
            raise GuardError(
                f"{self.in_a_row} optimizer steps in a row had an {what} that is not finite, the last one step "
                f"{step.number}: {file} names its samples; mend them, or lower optim.lr or change trainer.precision, "
                "and run the same command again."
            )
        log.warning("Step %d is skipped: its %s not finite; %s names the samples.", step.number, " and ".join(bad), file)

    def _watch(self, step: Step, loss: float) -> None:
        """Is the loss far above the usual?"""
        factor = self.config.spike_factor
        if factor and len(self.usual) == WINDOW and loss > threshold(self.usual, factor):
            self.spikes, self.spikes_in_a_row = self.spikes + 1, self.spikes_in_a_row + 1
            self._describe(step, {"loss": loss, "usual": statistics.median(self.usual)}, ["spike"])
            self._count(step.number)
            self.roll_back = 0 < self.config.rollback_after <= self.spikes_in_a_row
            return
        self.spikes_in_a_row = 0
        self.usual.append(loss)

    def _describe(self, step: Step, seen: dict[str, float], why: list[str]) -> Path:
        return step.describe(self.folder, self.trainer.global_rank, self.seed, seen, why)

    @rank_zero_only
    def _log(self, scalars: dict[str, float], step: int) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics(scalars, step)

    def _count(self, step: int) -> None:
        counts = {"skipped_steps": self.skipped, "fp16_overflows": self.overflows, "spikes": self.spikes}
        self._log({f"guards/{name}": count for name, count in counts.items()}, step)

    # --- the rest of a run ----------------------------------------------------------------------------------------

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.roll_back:
            self._restore(trainer, pl_module)

    def _restore(self, trainer: Trainer, module: LightningModule) -> None:
        """Weights, optimizer, rates and average of the last good checkpoint before the spike; the data go on from here."""
        first = trainer.global_step - self.spikes_in_a_row - 1
        path = trainer.strategy.broadcast(newest(self.checkpoints, before=first) if trainer.is_global_zero else None)
        self.roll_back, self.spikes_in_a_row, self.pending = False, 0, None
        if path is None:
            log.warning("No checkpoint is older than the spike at step %d: nothing is rolled back.", first)
            return
        stored = trainer.strategy.load_checkpoint(path, weights_only=True)
        module.on_load_checkpoint(stored)
        trainer.strategy.load_model_state_dict(stored)
        trainer.strategy.load_optimizer_state_dict(stored)
        for entry, state in zip(trainer.lr_scheduler_configs, stored["lr_schedulers"], strict=True):
            entry.scheduler.load_state_dict(state)
        if self.ema is not None:
            self.ema.restore(stored["ema"])
        self.applied = stored["callbacks"][self.state_key]["applied"]
        log.warning("After a spike of the loss at step %d, the state of %s is back; its data are passed over.", first, path)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.settle()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.settle()

    def state_dict(self) -> dict[str, Any]:
        names = ("applied", "skipped", "overflows", "spikes", "in_a_row", "spikes_in_a_row")
        return {n: getattr(self, n) for n in names} | {"usual": list(self.usual)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, deque(value, maxlen=WINDOW) if name == "usual" else value)
