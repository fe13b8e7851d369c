"""What trains, divided among processes (FSDP2): each holds a part of every tensor, and a block is whole while it computes.

A divided tensor is a DTensor. Nothing here asks for the class: a run in one process need not import it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from melfusion.models.denoiser import Denoiser


def is_divided(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor")


def local(tensor: Any) -> Tensor:
    """What this process holds of a tensor: its part, which shares the memory, or the tensor itself."""
    return tensor.to_local() if is_divided(tensor) else tensor


def whole(tensor: Any) -> Any:
    """A divided tensor, put together in the host memory of rank 0; the others get its shape alone. All ranks call it."""
    if not is_divided(tensor):
        return tensor
    full = tensor.full_tensor()
    return full.to("cpu" if dist.get_rank() == 0 else "meta")


def like(tensor: Any, example: Any) -> Any:
    """A whole tensor, the same on all ranks → on the device of `example` and divided as that is."""
    if not is_divided(example) or is_divided(tensor):
        return tensor.to(example.device)
    from torch.distributed.tensor import distribute_tensor

    # no rank sends: each cuts its part out of its own
    return distribute_tensor(tensor.to(example.device), example.device_mesh, example.placements, src_data_rank=None)


def divide(denoiser: Denoiser, mesh: Any) -> None:
    """Divide what trains among the processes of the mesh, block by block. What is frozen stays whole, and so does each α."""
    from torch.distributed.fsdp import fully_shard

    if parts(denoiser):
        return  # a second stage of the same trainer
    kept = {p for p in denoiser.parameters() if not p.requires_grad or p.ndim == 0} | set(denoiser.alpha_parameters())
    for block in denoiser.pieces():
        if not kept.issuperset(block.parameters()):
            fully_shard(block, mesh=mesh, ignored_params=kept)
    fully_shard(denoiser, mesh=mesh, reshard_after_forward=True, ignored_params=kept)


def parts(module: nn.Module) -> list[Any]:
    """The modules whose parameters are divided."""
    return [part for part in module.modules() if hasattr(part, "set_reshard_after_forward")]


@contextlib.contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within it the weights are whole, so that each rank computes for itself as often as it likes. All ranks call it."""
    divided = parts(module)
    for part in divided:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in divided:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)
