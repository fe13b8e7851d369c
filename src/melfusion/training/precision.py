"""In which numbers a run computes, and what PyTorch's autocast needs to be told for that."""

from __future__ import annotations

import contextlib
import warnings
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from melfusion.assembly.devices import device_type
from melfusion.assembly.options import TrainerConfig
from melfusion.errors import ConfigError


def resolve_precision(trainer: TrainerConfig) -> str:
    """The precision by its full name: `auto` is bf16-mixed on cuda and 32-true elsewhere. ConfigError for fp16 on a CPU."""
    device = device_type(trainer)
    if trainer.precision == "16-mixed" and device == "cpu":  # where Lightning would take bf16-mixed without a word
        raise ConfigError("trainer.precision=16-mixed needs a GPU, and this run is on a CPU: give bf16-mixed or 32-true.")
    automatic = "bf16-mixed" if device == "cuda" else "32-true"
    return {"auto": automatic, "32": "32-true"}.get(trainer.precision, trainer.precision)


class FrozenHalf(MixedPrecision):
    """`bf16-true`: what `bf16-mixed` is, with the frozen networks kept in bfloat16, too, at half their memory.

    What trains, its optimizer state and its average stay float32: bfloat16 has 8 bits, and a weight of 0.5 does not move by a
    step of 1e-5. For the same reason so do schedules and statistics.
    """

    def __init__(self, device: str):
        super().__init__("bf16-mixed", device)

    def convert_module(self, module: nn.Module) -> nn.Module:
        return keep_frozen(module, "bf16-true")


def keep_frozen(module: nn.Module, precision: str) -> nn.Module:
    """The module with its frozen networks in the type that this precision keeps them in, changed in place."""
    if precision == "bf16-true":
        for network in module.frozen_networks():
            network.to(torch.bfloat16)
    return module


def precision_of(trainer: TrainerConfig) -> dict[str, Any]:
    """What Lightning's Trainer is told of the precision: its name, or a plugin in `plugins`."""
    name = resolve_precision(trainer)
    return {"plugins": [FrozenHalf(device_type(trainer))]} if name == "bf16-true" else {"precision": name, "plugins": []}


def autocast(precision: str, device: str) -> torch.autocast:
    """The autocast of a training step."""
    dtype = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    return torch.autocast(device, dtype, enabled=dtype is not None)


def between_steps(plugin: Any) -> AbstractContextManager:
    """What a system generates under between steps: autocast where its frozen networks are no float32, else nothing."""
    return plugin.forward_context() if isinstance(plugin, FrozenHalf) else contextlib.nullcontext()


def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args, **kwargs) -> Tensor:
    """scaled_dot_product_attention in fp32, the result in the query's type."""
    mask = attn_mask.float() if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask, *args, **kwargs)
    return out.to(query.dtype)


# Under autocast on a CPU, attention is computed in fp32: the backward pass of torch's bf16 kernel there takes six times as
# long (113 against 18 ms a step of 32 of configs/scenes.yaml on an EPYC core with avx512_bf16; the step falls from .47 to .37 s).
_rules = torch.library.Library("aten", "IMPL")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that autocast's own rule for it, bf16, is replaced
    _rules.impl("scaled_dot_product_attention", attention, "AutocastCPU")
