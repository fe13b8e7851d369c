"""AdamW with parameter groups and the learning-rate schedule, shared by every module that trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import lightning
import torch
from torch import nn

from melfusion.batch import MusicBatch
from melfusion.models.options import OptimConfig
from melfusion.models.sharding import is_divided


def configure_optimizer(
    groups: list[dict[str, Any]], optim: OptimConfig, max_steps: int | None = None, allow_fused: bool = True
) -> dict[str, Any]:
    """Groups of parameters (each may set lr and weight_decay) → what Lightning wants of configure_optimizers.

    Biases and norms get no weight decay. Warm-up is linear over `warmup_steps`; `cosine` then falls to 0 at max_steps.
    """
    split = []
    for group in groups:
        base = {"lr": optim.lr, "weight_decay": optim.weight_decay} | {k: v for k, v in group.items() if k != "params"}
        params = [p for p in group["params"] if p.requires_grad]
        matrices = [p for p in params if p.ndim >= 2]
        split += [base | {"params": matrices}, base | {"weight_decay": 0.0, "params": [p for p in params if p.ndim < 2]}]
    split = [group for group in split if group["params"]]
    # one kernel, which a flag on the device can make leave everything as it is (training/guard.py)
    optimizer = torch.optim.AdamW(split, lr=optim.lr, betas=(optim.betas[0], optim.betas[1]), fused=allow_fused or None)
    rate = LearningRate(optim, max_steps)
    # a plain function, since the state of a callable object is stored and would bring an old max_steps back on resume
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def clip(params: list[Any], limit: float) -> torch.Tensor:
    """Scale the gradients so that their norm is at most `limit`; returns the norm () that they had.

    Gradients that are divided among processes (sharding.py) and those that are not are added up apart: torch mixes no two of them.
    """
    kinds = [kind for flag in (True, False) if (kind := [p for p in params if is_divided(p.grad) is flag])]
    norms: list[Any] = [torch.nn.utils.get_total_norm([p.grad for p in kind]) for kind in kinds]
    norms = [n.full_tensor() if is_divided(n) else n for n in norms]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    for kind in kinds:
        torch.nn.utils.clip_grads_with_norm_(kind, limit, norm)
    return norm


class LearningRate:
    """Step → factor on every group's rate."""

    def __init__(self, optim: OptimConfig, max_steps: int | None):
        self.warmup, self.cosine, self.max_steps = optim.warmup_steps, optim.schedule == "cosine", max_steps

    def __call__(self, step: int) -> float:
        factor = min(1.0, (step + 1) / max(self.warmup, 1))
        if self.cosine and self.max_steps:
            progress = min(1.0, max(0, step - self.warmup) / max(1, self.max_steps - self.warmup))
            factor *= 0.5 * (1 + math.cos(math.pi * progress))
        return factor


class StepJudge(lightning.Callback):
    """The callback that judges each optimizer step, where a Trainer has one (training/guard.py)."""

    def judge(self, optimizer: Any, norm: torch.Tensor) -> None:
        """Called with the norm () of the gradient before the optimizer steps."""
        raise NotImplementedError


class TrainedModule(lightning.LightningModule):
    """Base of the modules that train: one optimizer from OptimConfig, clipping over what it holds, the norm logged.

    Clipping is done here and not by the Trainer, whose own fails with bf16 and a fused AdamW. A StepJudge among the callbacks
    judges each step; it moves the learning rate only after a sound step.
    """

    optim: OptimConfig
    max_steps: int | None = None
    needs_pictures = False  # samples without a picture are left out of training

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for `configure_optimizer`."""
        raise NotImplementedError

    def finish(self, batches: Callable[[int], Iterable[MusicBatch]]) -> None:
        """Called once after training, before the export. `batches(n)` gives n training samples, spread over the split."""

    def frozen_networks(self) -> list[nn.Module]:
        """Those that `trainer.precision=bf16-true` keeps in bfloat16."""
        return []

    @property
    def guard(self) -> StepJudge | None:
        """The Trainer's StepJudge; None where it has none, or no Trainer is attached."""
        try:
            trainer: Any = self.trainer
        except RuntimeError:  # Lightning's word for: no Trainer is attached
            return None
        return next((callback for callback in trainer.callbacks if isinstance(callback, StepJudge)), None)

    def configure_optimizers(self) -> Any:
        try:
            # a fused AdamW unscales fp16 gradients inside its step, after they would have been clipped
            fp16 = str(self.trainer.precision).startswith("16")
        except RuntimeError:  # Lightning's word for: no Trainer is attached
            fp16 = False
        return configure_optimizer(self.parameter_groups(), self.optim, self.max_steps, allow_fused=not fp16)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = clip(params, self.optim.grad_clip_norm or float("inf"))
        if self.guard is None:
            self.log("train/grad_norm", norm)
        else:
            self.guard.judge(optimizer, norm)

    def log_loss(self, loss: torch.Tensor, batch_size: int) -> None:
        """Into the progress bar; `train/loss` of the logs is the guard's, which has it of all ranks, where there is one."""
        self.log("train/loss", loss, batch_size=batch_size, prog_bar=True, logger=self.guard is None)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.guard is None:
            scheduler.step()
