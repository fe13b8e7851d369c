"""Out of memory, on a device or in the machine: what took it, and which keys make it fit. What is freed is kept on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator

import torch
from torch import nn

from melfusion.assembly.devices import accumulation, world_size
from melfusion.assembly.parts import PARTS
from melfusion.assembly.schema import Config
from melfusion.errors import MelfusionError
from melfusion.models.device import is_out_of_memory


class OutOfMemory(MelfusionError, RuntimeError):
    """What was being done, what took the memory, and which keys need less."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt, malloc.h

KEPT_MIB, LARGEST_MIB = 512, 32  # glibc takes no higher M_MMAP_THRESHOLD than 32 MiB


def keep_freed_memory() -> None:
    """On a CPU with glibc: from now on this process keeps what tensors free, up to KEPT_MIB, and the next ones take it.

    Of itself glibc returns each of them to the kernel, which gives out the same pages again one by one, filled with zeros: up to a
    third of the time of vocoding. Tensors above LARGEST_MIB are still returned.
    """
    if torch.cuda.is_available():
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_MIB << 20)
        mallopt(M_TRIM_THRESHOLD, KEPT_MIB << 20)


@contextlib.contextmanager
def telling_memory(config: Config, doing: str, model: Callable[[], nn.Module | None] = lambda: None) -> Iterator[None]:
    """What cannot be allocated within it becomes OutOfMemory. `doing`: a key of CURES; `model`: what lies in the memory then."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(sentence(config, doing, model(), error)) from error


def sentence(config: Config, doing: str, model: nn.Module | None, error: BaseException) -> str:
    """Said of an allocation that failed."""
    own = " ".join(str(error).split()).partition(". ")[0][:160].rstrip(".")
    took = [own or "the allocator says nothing more", *([] if model is None else [footprint(model, config, doing)])]
    return f"The memory is used up during {doing} ({'; '.join(took)}): give {', or '.join(CURES[doing](config))}."


def footprint(model: nn.Module, config: Config, doing: str) -> str:
    """What the model takes and, in training, all that comes with what trains."""
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += parameter.numel() * parameter.element_size()
    if doing != "training":
        return f"parameters take {gib(sum(sizes.values()))}"
    average = config.optim.ema_decay > 0 and PARTS[config.task].averaged
    with_all = "gradients, AdamW's two moments and the average" if average else "gradients and AdamW's two moments"
    return (
        f"frozen parameters take {gib(sizes[False])}, those that train {gib(sizes[True])} × {4 + average} with {with_all}, "
        f"and the rest is for micro-batches of {micro_batch(config)}"
    )


def micro_batch(config: Config) -> int:
    """Samples at once on a device."""
    return max(1, config.data.global_batch_size // (world_size(config.trainer) * accumulation(config)))


def gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _training(config: Config) -> list[str]:
    micro, own = micro_batch(config), PARTS[config.task].saves_memory
    checkpointing = "denoiser.gradient_checkpointing"
    same = {
        f"trainer.micro_batch_size={micro // 2} (or a larger trainer.accumulate)": micro > 1,
        f"{checkpointing}=true": checkpointing in own and not config.denoiser.gradient_checkpointing,
        "trainer.async_checkpoints=false, which saves the machine's own memory": config.trainer.async_checkpoints,
        "fewer data.num_workers": config.data.num_workers > 0,
    }
    other = {
        "trainer.precision=bf16-true": config.trainer.precision != "bf16-true",
        "data.precompute.enabled=true": not config.data.precompute.enabled,
        "denoiser.trainable=cross_attn": config.denoiser.trainable not in ("cross_attn", "synapse")
        and not config.denoiser.lora_rank,
        "optim.ema_decay=0": config.optim.ema_decay > 0,
    }
    changed = [key for key, helps in other.items() if helps and key.partition("=")[0] in own]
    return [key for key, helps in same.items() if helps] + [f"under another name= {', '.join(changed)}"] * bool(changed) + [LARGER]


def _smaller(key: str, size: int) -> list[str]:
    return [f"{key}={size // 2}"] if size > 1 else []


LARGER = "a device with more memory"

CURES: dict[str, Callable[[Config], list[str]]] = {  # what is being done → what needs less memory and is not given yet
    "training": _training,
    "precompute": lambda c: [*_smaller("data.precompute.batch_size", c.data.precompute.batch_size), LARGER],
    "evaluation": lambda c: [*_smaller("evaluation.batch_size", c.evaluation.batch_size), LARGER],
    "generation": lambda c: ["a smaller n", "a shorter duration_s", LARGER],
}
