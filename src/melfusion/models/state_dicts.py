"""Files of torch.save or safetensors → tensors by name → networks: all, or one sentence, so that nothing stays random."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from melfusion.errors import WeightsError
from melfusion.models.layouts import is_pointer, recognise

log = logging.getLogger(__name__)

NESTS = ("state_dict", "model")  # where trainers put the weights among other things

WRAPPERS = ("module.", "_orig_mod.")  # which DataParallel and torch.compile put before each name


def read_state(file: Path) -> dict[str, Tensor]:
    """Tensors by name, of a file of weights alone; mapped into memory, so that only what is used is read, once per machine.

    A dict in which the weights are one entry is opened, and prefixes of wrappers are taken off. Writing to the tensors
    does not change the file. WeightsError where the file holds anything else.
    """
    if is_pointer(file):
        layout = recognise(file)
        raise WeightsError(f"{file} is {layout.what}: {layout.cure}.")
    try:
        mapped = file.suffix == ".safetensors"
        stored = load_file(file) if mapped else torch.load(file, map_location="cpu", weights_only=True, mmap=_mappable(file))
    except Exception as error:  # torch raises UnpicklingError, EOFError, RuntimeError, …, some of many lines
        raise WeightsError(f"{file} is not a file of weights alone ({type(error).__name__}): fetch it again.") from error
    state = stored
    if isinstance(stored, dict):
        state = next((stored[nest] for nest in NESTS if isinstance(stored.get(nest), dict)), stored)
    if wrong := _not_a_state(state):
        raise WeightsError(f"{file} holds {wrong}, where tensors by name are wanted: fetch it again, or give another.")
    return unwrapped(state)


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes of wrappers that all names share."""
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state


def fill(network: nn.Module, state: dict[str, Tensor], file: Path, what: str) -> None:
    """All tensors of a network, whatever their float type in the file; WeightsError names what is missing and what is left."""
    if words := misfits(network.state_dict(), state):
        raise WeightsError(f"{file} is not {what}: {'; '.join(words)}.")
    network.load_state_dict(state)


def misfits(wanted: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """What of the wanted tensors is missing, left over or of another kind, in words; empty where all fit."""
    words = []
    if missing := sorted(wanted.keys() - state.keys()):
        words.append(f"it lacks {some(missing)}")
    if unknown := sorted(state.keys() - wanted.keys()):
        words.append(f"it has {some(unknown)}, which that one has not")
    for name in sorted(wanted.keys() & state.keys()):
        if (here := _kind(state[name])) != (there := _kind(wanted[name])):
            words.append(f"{name!r} is {here} and not {there}")
            break
    return words


def some(names: Iterable[str]) -> str:
    """'a', 'b', 'c' and 12 more."""
    names = list(names)
    return ", ".join(f"{name!r:.80}" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _kind(tensor: Tensor) -> str:
    return f"{'floats' if tensor.is_floating_point() else str(tensor.dtype).removeprefix('torch.')} of {tuple(tensor.shape)}"


def _not_a_state(state: Any) -> str | None:
    """What it is instead, in words."""
    if not isinstance(state, dict):
        return f"a value of type {type(state).__name__}"
    if not state:
        return "an empty dict"
    odd = next(((k, v) for k, v in state.items() if not (isinstance(k, str) and isinstance(v, Tensor))), None)
    return odd and f"a value of type {type(odd[1]).__name__} under {odd[0]!r:.80}"


def _mappable(file: Path) -> bool:
    """torch maps its zip format alone, and reads nonsense from one that was packed again with compression."""
    try:
        with zipfile.ZipFile(file) as archive:
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    except Exception:  # zipfile raises many kinds at what is no zip
        stored = False
    if not stored:
        log.warning("%s is not in torch's uncompressed zip format: it cannot be mapped, so every process reads all of it.", file)
    return stored
