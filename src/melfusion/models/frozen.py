"""What "frozen" means here: eval mode, no gradient, absent from optimizer and checkpoint, named there by digest."""

from __future__ import annotations

import hashlib
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def freeze(module: M) -> M:
    """Freeze in place and return the same module, as torch's own `eval()` and `requires_grad_()` do.

    The module stays in eval mode whatever `train()` its parent calls, its parameters need no gradient, and it adds
    nothing to a parent's state_dict; loading a parent strictly neither needs nor accepts its weights.
    """
    module.requires_grad_(False)
    module.eval()
    vars(module)["train"] = MethodType(_stay, module)  # a bound method follows deepcopy
    module.register_state_dict_post_hook(_drop_state)
    module.register_load_state_dict_pre_hook(_keep_state)
    return module


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """`train()` of a frozen module."""
    return module


def _drop_state(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    if prefix:  # a parent's state_dict; asked for directly, the module still gives its own
        for key in [key for key in state if key.startswith(prefix)]:
            del state[key]


def _keep_state(module: nn.Module, state: dict[str, Any], prefix: str, *args: Any) -> None:
    if prefix:
        state.update({prefix + key: value for key, value in module.state_dict().items()})


@torch.no_grad()
def digest(module: nn.Module | dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of all weights and persistent buffers, as hex."""
    total = hashlib.sha256()
    for name, tensor in sorted((module if isinstance(module, dict) else module.state_dict()).items()):
        total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if tensor.is_meta:  # which has no bytes
            continue
        flat = tensor.detach().cpu().contiguous()
        total.update(flat.reshape(-1).view(torch.uint8).numpy().data if flat.numel() else b"")
    return total.hexdigest()
