"""Floating-point operations: how many a computation takes, and how many a second this machine can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from melfusion.assembly.torch_private import ON_CPU, ON_CPU_BACKWARD, TorchDispatchMode, family
from melfusion.models.device import best_device

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def format_of(precision: str) -> str:
    """The number format, a key of TYPES, that a precision multiplies in (a name of training/precision.py)."""
    return "fp32" if precision.startswith("32") else "bf16"


def multiplication(dtype: torch.dtype, side: int) -> Callable[[], Tensor]:
    """A product of two square matrices, of 2 side³ operations."""
    a, b = (torch.ones(side, side, dtype=dtype, device=best_device()) for _ in range(2))
    return lambda: a @ b


def quick_peak(precision: str, at_most_s: float = 0.03) -> float:
    """FLOP/s that this process reaches in multiplying square matrices of a precision, the best of a few.

    The sides double until the time is up: a CPU is then at its speed with some hundred rows, a GPU with some thousand.
    """
    best, side, end = 0.0, 128, time.perf_counter() + at_most_s
    while side <= 8192 and time.perf_counter() < end:
        work = multiplication(TYPES[format_of(precision)], side)
        for _ in range(3):
            started = _now()
            work()
            best = max(best, 2 * side**3 / (_now() - started))
        side *= 2
    return best


def _now() -> float:
    """Seconds, once the device has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Flops(TorchDispatchMode):
    """Within it the operations of matrices, convolutions and attention are counted, two per multiplication, backward passes too.

    PyTorch's own FlopCounterMode also hooks every module, and knows no attention on CPUs. This one lets each call pass as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, called = func(*args, **(kwargs or {})), family(func)
        if called is ON_CPU:
            self.total += sdpa_flop_count(*(t.shape for t in args[:3]))
        elif called is ON_CPU_BACKWARD:
            self.total += sdpa_backward_flop_count(*(t.shape for t in args[:4]))
        elif called in flop_registry:
            self.total += flop_registry[called](*args, **(kwargs or {}), out_val=out)
        return out
