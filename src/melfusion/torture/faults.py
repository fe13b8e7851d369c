"""Faults on purpose: what `melfusion torture` and the tests plant into a real training run to see what survives.

Each fault is a Lightning callback for `training.run.train(config, callbacks=…)`. The text of a Fault reads WHAT@STEP or
WHAT@STEP:RANK, such as `nan-loss@3` or `die-on_after_backward@2:1`. STEP counts optimizer steps from 0; without a rank every rank
has the fault.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from melfusion.errors import CheckpointError, ConfigError
from melfusion.media.mel import LogMel

HOOKS = (
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_batch_end",
    "on_validation_end",
)


def die() -> None:
    """Die as from a power cut or the system's out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def _spoil_input(module: LightningModule, batch: Any, loss: Any) -> None:
    next(t for t in (batch.waveform, batch.latent_moments) if t is not None).view(-1)[0] = torch.nan


def _spoil_loss(module: LightningModule, batch: Any, loss: torch.Tensor) -> None:
    loss.data.fill_(torch.nan)  # its gradient stays finite: only the loss itself shows it


def _spoil_gradient(module: LightningModule, batch: Any, loss: Any) -> None:
    next(p.grad for p in module.parameters() if p.grad is not None).view(-1)[0] = torch.inf


def _spoil_latents(module: LightningModule, batch: Any, loss: Any) -> None:
    """The latents are NaN while the batch is finite, because the next mel is NaN."""
    hooks: list[Any] = []

    def spoil(part: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        for hook in hooks:
            hook.remove()
        return output * torch.nan

    hooks += [part.register_forward_hook(spoil) for part in module.modules() if isinstance(part, LogMel)]


def _scale_weights(module: LightningModule, batch: Any, loss: Any) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.mul_(8)


# fault → (hook at which it strikes, what it does to module, batch, loss)
STRIKES: dict[str, tuple[str, Callable[[LightningModule, Any, Any], None]]] = {
    "nan-input": ("on_train_batch_start", _spoil_input),
    "nan-latents": ("on_train_batch_start", _spoil_latents),
    "nan-loss": ("on_before_backward", _spoil_loss),
    "inf-gradient": ("on_after_backward", _spoil_gradient),
    "spike": ("on_train_batch_start", _scale_weights),
    "sigterm": ("on_train_batch_start", lambda *_: os.kill(os.getpid(), signal.SIGTERM)),
    "sigusr1": ("on_train_batch_start", lambda *_: os.kill(os.getpid(), signal.SIGUSR1)),
    "error": ("on_train_batch_start", lambda *_: _fail()),
    **{f"die-{hook}": (hook, lambda *_: die()) for hook in HOOKS},
}


def _fail() -> None:
    raise CheckpointError("A fault was planted here.")


class Fault(Callback):
    """One fault at one optimizer step. It must stand before all other callbacks, so that they see what it did."""

    def __init__(self, text: str):
        match = re.fullmatch(r"([\w-]+)@(\d+)(?::(\d+))?", text)
        if not match or match[1] not in STRIKES:
            raise ConfigError(f"{text!r} is no fault; faults are {', '.join(STRIKES)}, each with @STEP or @STEP:RANK.")
        self.what, self.step, self.rank = match[1], int(match[2]), match[3] and int(match[3])
        self.hook, self.strike = STRIKES[self.what]

    def _at(self, hook: str, trainer: Trainer, module: LightningModule, batch: Any = None, loss: Any = None) -> None:
        if hook == self.hook and trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            self.strike(module, batch, loss)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._at("on_train_batch_start", trainer, pl_module, batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        self._at("on_before_backward", trainer, pl_module, loss=loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._at("on_after_backward", trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._at("on_before_optimizer_step", trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._at("on_train_batch_end", trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._at("on_validation_start", trainer, pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._at("on_validation_batch_end", trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._at("on_validation_end", trainer, pl_module)


class Recorder(Callback):
    """Writes what each rank trains on, as it happens: `resume STEP TIME`, `sample STEP POSITION KEY`, `end STEP TIME`.

    There is a file per rank and `life` of the run, since a later life undoes the steps that it does again.
    """

    def __init__(self, folder: Path, life: int):
        self.folder, self.life = folder, life

    def _write(self, trainer: Trainer, lines: list[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"life{self.life:03d}-rank{trainer.global_rank}.txt").open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, [f"resume {trainer.global_step} {time.time()}"])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        pairs = zip(batch.position.tolist(), batch.keys, strict=True)
        self._write(trainer, [f"sample {trainer.global_step} {position} {key}" for position, key in pairs])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._write(trainer, [f"end {trainer.global_step} {time.time()}"])


class DieInWrite(Callback):
    """Dies while the `number`-th checkpoint of this process is written, as soon as `share` of its bytes are.

    A share of 1 is between the index and the new name, a share above 1 is after the new name.
    """

    def __init__(self, number: int, share: float):
        self.number, self.share = number, share
        self.begun: list[Path] = []
        self.size = 1e5  # bytes of the last checkpoint; the size of the first one is not known before

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io.observe(self._observe)

    def _observe(self, event: str, path: Path, size: int) -> None:
        if path not in self.begun:
            self.begun.append(path)
        if len(self.begun) == self.number and self._is_due(event, size):
            die()
        if event == "indexed":
            self.size = size

    def _is_due(self, event: str, size: int) -> bool:
        if self.share < 1:
            return event == "write" and size > self.share * self.size
        return event == ("indexed" if self.share == 1 else "named")
