"""The exponential moving average of what trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from melfusion.models.sharding import like, local, whole


class EMA(Callback):
    """Exponential moving average of the parameters that train. Validation and generation use it.

    Where training divides the weights among processes (models/sharding.py), the average is divided in the same way.
    The decay is warmed up by step, min(decay, (1 + step) / (10 + step)), so that early averages forget random init.
    The guard calls `update` once it knows that a step is sound (guard.py).
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.shadow: dict[str, Tensor] = {}

    @staticmethod
    def _trained(module: LightningModule) -> dict[str, Tensor]:
        return {name: p for name, p in module.named_parameters() if p.requires_grad}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trained = self._trained(pl_module)
        self.shadow = {n: like(self.shadow.get(n, p).detach(), p).clone() for n, p in trained.items()}

    @torch.no_grad()
    def update(self, pl_module: LightningModule, step: int) -> None:
        """Move towards the weights as they are after the `step`-th applied step."""
        decay = min(self.decay, (1 + step) / (10 + step))
        trained = self._trained(pl_module)
        averages = [local(t) for t in self.shadow.values()]
        get_ema_multi_avg_fn(decay)(averages, [local(trained[n].detach()) for n in self.shadow], step)

    @contextlib.contextmanager
    def averaged(self, module: LightningModule) -> Iterator[None]:
        """Within it the module's parameters are the averages; afterwards they are the trained ones again."""
        self._swap(module)
        try:
            yield
        finally:
            self._swap(module)

    @torch.no_grad()
    def _swap(self, module: LightningModule) -> None:
        for name, parameter in self._trained(module).items():
            if name in self.shadow:  # in place: what divides a parameter keeps its memory
                mine, average = local(parameter), local(self.shadow[name])
                kept = mine.clone()
                mine.copy_(average)
                average.copy_(kept)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = {name: whole(tensor) for name, tensor in self.shadow.items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.shadow = dict(checkpoint.get("ema", {}))

    def restore(self, stored: dict[str, Tensor]) -> None:
        """Take the average of a checkpoint, onto the devices where this one lies."""
        self.shadow = {n: like(stored[n], t) for n, t in self.shadow.items()}
