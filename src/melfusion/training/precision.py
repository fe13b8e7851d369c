"""The number formats of a run, and the rule that PyTorch's autocast needs for them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import warnings
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from melfusion.assembly.devices import device_type, world_size
from melfusion.assembly.options import TrainerConfig
from melfusion.assembly.schema import Config
from melfusion.errors import ConfigError

M = TypeVar("M", bound=nn.Module)


def resolve_precision(trainer: TrainerConfig) -> str:
    """The precision by its full name. ConfigError for fp16 on a CPU.

    `auto` is bf16-mixed on cuda, and on a single CPU that is faster with it; else 32-true.
    """
    device = device_type(trainer)
    if trainer.precision == "16-mixed" and device == "cpu":  # where Lightning would take bf16-mixed without a word
        raise ConfigError("trainer.precision=16-mixed needs a GPU, and this run is on a CPU: give bf16-mixed or 32-true.")
    if trainer.precision == "auto":  # several processes would each measure, and might not agree
        return "bf16-mixed" if device == "cuda" or device == "cpu" and world_size(trainer) == 1 and bf16_pays() else "32-true"
    return {"32": "32-true"}.get(trainer.precision, trainer.precision)


def settled(config: Config, stored: dict[str, Any] | None) -> Config:
    """The same configuration with the precision by its full name: that of the stored run where it goes on, whose CPU may differ.

    Args:
        stored: what the run directory holds; None: the run is new.
    """
    name = resolve_precision(config.trainer)
    if config.trainer.precision == "auto" and stored is not None:
        name = {"auto": "32-true"}.get(then := str(stored.get("trainer", {}).get("precision", name)), then)
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, precision=name))


PAYS = 1.5  # of the product alone; what stands around it is no faster in bfloat16


@functools.cache
def bf16_pays() -> bool:
    """Measured on this CPU, in milliseconds: are products of matrices in bfloat16 PAYS times as fast as in float32?

    Without instructions for it they are 100 times slower; with AMX several times faster.
    """
    return seconds_of_a_product(torch.float32) > PAYS * seconds_of_a_product(torch.bfloat16)


def seconds_of_a_product(dtype: torch.dtype, size: int = 256) -> float:
    """Processor time of the shortest of some calls on one thread, so that other work on the machine does not count."""
    threads, matrix, times = torch.get_num_threads(), torch.ones(size, size, dtype=dtype), []
    torch.set_num_threads(1)
    for _ in range(5):
        started = time.thread_time()
        matrix @ matrix
        times.append(time.thread_time() - started)
    torch.set_num_threads(threads)
    return min(times)


class FrozenHalf(MixedPrecision):
    """`bf16-true`: as `bf16-mixed`, but the frozen networks are kept in bfloat16, at half their memory.

    What trains, its optimizer state and its average stay float32: bfloat16 has 8 bits, so a weight of 0.5 does not move by a
    step of 1e-5. Schedules and statistics stay float32 for the same reason.
    """

    def __init__(self, device: str):
        super().__init__("bf16-mixed", device)

    def convert_module(self, module: nn.Module) -> nn.Module:
        return keep_frozen(module, "bf16-true")


def keep_frozen(module: M, precision: str) -> M:
    """Change the frozen networks of a TrainedModule in place to the type that this precision keeps them in; returns the module."""
    if precision == "bf16-true":
        trained: Any = module
        for network in trained.frozen_networks():
            network.to(torch.bfloat16)
    return module


def precision_of(trainer: TrainerConfig) -> dict[str, Any]:
    """The arguments of Lightning's Trainer for this precision: its name, or a plugin in `plugins`."""
    name = resolve_precision(trainer)
    return {"plugins": [FrozenHalf(device_type(trainer))]} if name == "bf16-true" else {"precision": name, "plugins": []}


def autocast(precision: str, device: str) -> torch.autocast:
    """The autocast of a training step."""
    dtype = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    return torch.autocast(device, dtype, enabled=dtype is not None)


def between_steps(plugin: Any) -> AbstractContextManager:
    """The context for generation between training steps: autocast where the frozen networks are not float32, else nothing."""
    return plugin.forward_context() if isinstance(plugin, FrozenHalf) else contextlib.nullcontext()


@functools.cache
def attention_in_float32_on_cpu() -> torch.library.Library:
    """From the first call on, attention under autocast on a CPU is computed in float32, in this whole process.

    PyTorch's own rule is bfloat16, and the backward pass of its kernel takes six times as long there: 113 against 18 ms in a step
    of 32 clips of configs/scenes.yaml on an EPYC core with avx512_bf16. The step falls from 0.47 to 0.37 s.
    Returns the library that holds the rule; PyTorch drops the rule with it.
    """
    rules = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says that its own rule is replaced
        rules.impl("scaled_dot_product_attention", _attention, "AutocastCPU")
    return rules


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    """scaled_dot_product_attention in float32; the result has the type of the query."""
    mask = attn_mask.float() if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask, *args, **kwargs)
    return out.to(query.dtype)
