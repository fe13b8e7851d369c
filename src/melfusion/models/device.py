"""Which device computes, and its name."""

from __future__ import annotations

import os

import torch

# How allocators say so where they raise a plain RuntimeError: torch's on CPUs, Metal, and CUDA's libraries
WORDS = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Is it an allocation that failed, by its type or its words?"""
    plain = isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or plain


def best_device(accelerator: str = "cuda", index: int | None = None) -> str:
    """The device that a word of trainer.accelerator allows: cuda, mps or cpu.

    Training asks with its own word; all else computes in float64 somewhere, which mps has not.
    `index`: of this process among those that share the GPUs of a machine; None: the current GPU.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "cuda" if index is None else f"cuda:{index % torch.cuda.device_count()}"
    return "mps" if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available() else "cpu"


def only_sizes() -> bool:
    """Are networks built on the meta device now, so that their sizes count and no weight is read?"""
    return torch.get_default_device().type == "meta"


def device_name() -> str:
    """Of the machine that computes: the GPU's name, or the CPU and how many cores this process may use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0))
    return f"CPU, {cores} core{'s' if cores > 1 else ''}"
