"""Faults on purpose: what `melfusion torture` and the tests plant into a real training run to see what survives.

A fault reads WHAT@STEP or WHAT@STEP:RANK, such as `nan-loss@3` or `die-on_after_backward@2:1`. STEP counts optimizer
steps from 0; without a rank every rank has it. `python -m melfusion.torture.faults FAULT[,FAULT] train …` runs any verb with them.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from melfusion.state import checkpoint_store
from melfusion.training import fit as training

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
    """As a power cut or the system's out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


def _spoil_input(module: LightningModule, batch: Any, loss: Any) -> None:
    next(t for t in (batch.waveform, batch.latent_moments) if t is not None).view(-1)[0] = torch.nan


def _spoil_loss(module: LightningModule, batch: Any, loss: torch.Tensor) -> None:
    loss.data.fill_(torch.nan)  # its gradient stays finite: only the guard's look at the loss can tell


def _spoil_gradient(module: LightningModule, batch: Any, loss: Any) -> None:
    next(p.grad for p in module.parameters() if p.grad is not None).view(-1)[0] = torch.inf


def _spoil_latents(module: LightningModule, batch: Any, loss: Any) -> None:
    encode = module.encode_music
    module.encode_music = lambda b: [encode(b) * torch.nan, setattr(module, "encode_music", encode)][0]


def _scale_weights(module: LightningModule, batch: Any, loss: Any) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.mul_(8)


# fault → (hook it strikes at, what it does)
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
    raise checkpoint_store.CheckpointError("A fault was planted here.")


class Fault(Callback):
    """One fault; stands before all other callbacks, so that they see what it did."""

    def __init__(self, text: str):
        match = re.fullmatch(r"([\w-]+)@(\d+)(?::(\d+))?", text)
        if not match or match[1] not in STRIKES:
            raise ValueError(f"{text!r} is no fault; faults are {', '.join(STRIKES)}, each with @STEP or @STEP:RANK.")
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

    A file per rank and `life` of the run, since what a later life takes up again from an earlier step is undone.
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


def plant(callbacks: list[Callback]) -> None:
    """Put callbacks before all others of every Trainer that `train` makes in this process."""
    make = training.make_trainer

    def planted(config: Any, run: Any, others: list, *rest: Any) -> Any:
        return make(config, run, [*callbacks, *others], *rest)

    training.make_trainer = planted


def die_in_write(number: int, share: float) -> None:
    """Die while the `number`-th checkpoint of this process is written: `share` of its bytes are on disk; 1 is between the
    index and the new name, above 1 is after it.
    """
    write, replace, files, state = checkpoint_store.Digesting.write, Path.replace, [], {"bytes": 0}
    size = _size_of_last()

    def counted(self: Any, data: Any) -> int:
        if self not in files:
            files.append(self)
            state["bytes"] = 0
        state["bytes"] += len(data)
        if len(files) == number and share < 1 and state["bytes"] > share * size():
            self.file.flush()
            die()
        return write(self, data)

    def renamed(self: Path, target: Path) -> Path:
        ours = str(target).endswith(".ckpt") and len(files) == number
        if ours and share == 1:
            die()
        made = replace(self, target)
        if ours and share > 1:
            die()
        return made

    checkpoint_store.Digesting.write, Path.replace = counted, renamed


def _size_of_last() -> Callable[[], float]:
    """How many bytes a checkpoint of this run has, as far as is known; the first one counts as 100 kB."""
    known: dict[str, float] = {}
    finish = checkpoint_store.write_index

    def noted(folder: Path, index: dict[str, Any]) -> None:
        known["size"] = max((entry["bytes"] for entry in index.values()), default=1e5)
        finish(folder, index)

    checkpoint_store.write_index = noted
    return lambda: known.get("size", 1e5)


def main(argv: list[str]) -> int:
    """FAULT[,FAULT] VERB …, where record:FOLDER:LIFE stands for a Recorder."""
    from melfusion.__main__ import main as run

    plant([_recorder(text) if text.startswith("record:") else Fault(text) for text in argv[0].split(",")])
    return run(argv[1:])


def _recorder(text: str) -> Recorder:
    folder, _, life = text.removeprefix("record:").rpartition(":")
    return Recorder(Path(folder), int(life))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
