"""The exponential moving average of what trains."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor


class EMA(Callback):
    """Exponential moving average of the parameters that train, used by validation and generation.

    The decay is warmed up by step, min(decay, (1 + step) / (10 + step)), so that early averages forget random init.
    `update` is called by the guard, once a step is known to be sound (guards.py); `settle` is the guard's.
    """

    def __init__(self, decay: float):
        self.decay, self.shadow, self.settle = decay, {}, lambda: None

    @staticmethod
    def _trained(module: LightningModule) -> dict[str, Tensor]:
        return {name: p for name, p in module.named_parameters() if p.requires_grad}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trained = self._trained(pl_module)
        self.shadow = {n: self.shadow.get(n, p).detach().clone().to(p.device) for n, p in trained.items()}

    @torch.no_grad()
    def update(self, pl_module: LightningModule, step: int) -> None:
        """Move towards the weights as they are after the `step`-th applied step."""
        decay = min(self.decay, (1 + step) / (10 + step))
        trained = self._trained(pl_module)
        torch._foreach_lerp_(list(self.shadow.values()), [trained[n].detach() for n in self.shadow], 1 - decay)

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        self.settle()
        for name, parameter in self._trained(pl_module).items():
            if name in self.shadow:
                parameter.data, self.shadow[name] = self.shadow[name], parameter.data

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = dict(self.shadow)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.shadow = dict(checkpoint.get("ema", {}))

    def restore(self, stored: dict[str, Tensor]) -> None:
        """Take a stored average on, on the devices where this one lies."""
        self.shadow = {n: stored[n].to(t.device) for n, t in self.shadow.items()}
