"""Checkpoints: written whole, and read back as the system with EMA weights, ready to generate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from melfusion import build
from melfusion.config import from_dict
from melfusion.melfusion import CheckpointError, MeLFusion
from melfusion.schema import Config


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints appear whole or not at all: temporary file beside the target, fsync, rename."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        with part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def load_system(path: str | Path, ema: bool = True) -> tuple[MeLFusion, Config]:
    """A `.ckpt` of this project or the run directory that holds it → (system in eval mode, its configuration).

    Raises CheckpointError where the file is missing, cannot be read, or belongs to other frozen parts.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "checkpoints" / "last.ckpt"
    if not file.is_file():
        raise CheckpointError(f"There is no checkpoint {file}: give CKPT=runs/<name> of a run that has saved one.")
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError here
        raise CheckpointError(f"{file} cannot be read ({type(error).__name__}): it is truncated, or not a checkpoint "
                              "of melfusion; use an older one.") from error  # fmt: skip
    if "config" not in stored or "state_dict" not in stored:
        raise CheckpointError(f"{file} is not a checkpoint of a melfusion run: it lacks its configuration.")
    config = from_dict(stored["config"])
    system = build.system(config)
    system.on_load_checkpoint(stored)
    system.load_state_dict(stored["state_dict"] | (stored.get("ema", {}) if ema else {}))
    return system.eval(), config
