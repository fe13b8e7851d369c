"""Checkpoints and exported folders → the system with EMA weights, ready to generate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from melfusion.assembly.configuration import from_dict, override
from melfusion.assembly.provenance import SHIPPED
from melfusion.assembly.schema import Config, to_dict
from melfusion.assembly.system import system as build_system
from melfusion.data.reading import digest_of
from melfusion.errors import CheckpointError
from melfusion.files import write_json
from melfusion.models.device import is_out_of_memory
from melfusion.models.state_dicts import some
from melfusion.models.system import MeLFusion
from melfusion.state.checkpoint_store import newest

PARTS_FOLDER = "parts"  # in an exported folder that is whole: the weights of each part

SYSTEM_FILE = "system.json"  # beside model.safetensors: a conditioned model as its trained tensors


def export_system(system: MeLFusion, config: Config, folder: Path, licence: str | None = None) -> None:
    """What trained (with EMA where `load_system` gave it) → folder: a model on top of the parts its configuration names.

    Args:
        licence: written into the header of the weights, with a digest of the configuration; None: neither.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trained = {f"denoiser.{n}": p.detach() for n, p in system.denoiser.named_parameters() if p.requires_grad}
    tree = to_dict(config)
    header = (
        {"format": "pt"} if licence is None else {"format": "pt", "licence": licence, "configuration": digest_of(tree, source=True)}
    )
    save_file({n: p.contiguous() for n, p in trained.items()}, folder / "model.safetensors", header)
    write_json(folder / SYSTEM_FILE, {"config": tree, "frozen": system.frozen_digests()})


def load_system(path: str | Path | None = None, ema: bool = True, overrides: list[str] | None = None) -> tuple[MeLFusion, Config]:
    """A `.ckpt` of this project, a run directory (its newest), an exported folder, or None for the shipped model.

    Returns the system in eval mode and its configuration, with `overrides` (a dotlist) laid over it. Raises
    CheckpointError where the file is missing, cannot be read, or belongs to other frozen parts.
    """
    file = stored_in(path)
    stored = _exported(file) if (file / SYSTEM_FILE).is_file() else _checkpoint(file)
    config = override(from_dict(stored["config"]), overrides or [])
    system = build_system(config)
    system.on_load_checkpoint(stored)
    average = stored.get("ema") or {} if ema else {}
    trained = {name for name, p in system.named_parameters() if p.requires_grad}
    if lost := sorted(trained - average.keys()) if average else []:  # the rest would be mixed with weights of the last step
        raise CheckpointError(f"{file} has an average that lacks {some(lost)}: use another checkpoint.")
    try:
        system.load_state_dict(stored["state_dict"] | average)
    except RuntimeError as error:  # of many lines
        words = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{file} does not hold the weights of its own configuration: {words}") from error
    return system.eval(), config


def stored_in(path: str | Path | None = None) -> Path:
    """The checkpoint file or exported folder that `load_system` reads for a path."""
    file = SHIPPED if path is None else Path(path)
    if (file / SYSTEM_FILE).is_file() or not file.is_dir():
        return file
    return newest(file / "checkpoints") or file / "checkpoints"


def _exported(folder: Path) -> dict[str, Any]:
    try:
        tensors = load_file(folder / "model.safetensors")
        tree = json.loads((folder / SYSTEM_FILE).read_text())
        for section in dict(tree["config"]).values():
            if isinstance(section, dict) and str(section.get("weights")).startswith(f"{PARTS_FOLDER}/"):
                section["weights"] = str(folder / section["weights"])
        return {"config": dict(tree["config"]), "frozen": tree["frozen"], "state_dict": {k: t.float() for k, t in tensors.items()}}
    except Exception as error:  # safetensors raises its own; json ValueError
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{folder} cannot be read ({type(error).__name__}): copy the folder again.") from error


def _checkpoint(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"There is no checkpoint in {file}: give CKPT=runs/<name> of a run that has saved one.")
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True, mmap=True)  # its optimizer's state is not read
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError here
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{file} cannot be read ({type(error).__name__}): it is truncated, or not a checkpoint of melfusion; use an older one."
        ) from error
    if not isinstance(stored, dict) or not isinstance(stored.get("config"), dict) or "state_dict" not in stored:
        raise CheckpointError(f"{file} is not a checkpoint of a melfusion run: it lacks its configuration.")
    return stored
