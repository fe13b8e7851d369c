"""What a computation takes of a device, seen from outside: the bytes that are alive, and GPU kernels on the meta device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from melfusion.assembly.torch_private import ITEM, TorchDispatchMode, fused_attention, tree_leaves

BLOCK = 512  # bytes: what CUDA's allocator rounds a tensor up to


class LiveBytes(TorchDispatchMode):
    """Within it all new tensors are counted until they are freed. Views count once, by their storage.

    Attributes:
        now, peak: bytes that are alive, and the most there were at once.

    Args:
        block: bytes that each tensor is rounded up to.
    """

    def __init__(self, block: int = BLOCK):
        super().__init__()
        self.now = self.peak = 0
        self.block = block
        self.alive: dict[int, Any] = {}

    def hold(self, tensors: Iterable[Tensor]) -> LiveBytes:
        """Count tensors from before, such as weights; returns itself."""
        for tensor in tensors:
            self._count(tensor)
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), -(-storage.nbytes() // self.block) * self.block
        if key not in self.alive:
            self.alive[key] = weakref.ref(storage, lambda _: self._free(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _free(self, key: int, size: int) -> None:
        del self.alive[key]
        self.now -= size


class Zeros(TorchDispatchMode):
    """Within it the host may ask tensors of the meta device for a number, as transformers does of its masks: it is 0, or False."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is ITEM and args[0].is_meta:
            return torch.zeros((), dtype=args[0].dtype, device="cpu").item()
        if func is torch.ops.aten.equal.default and args[0].is_meta:
            return False
        return func(*args, **(kwargs or {}))


# What autocast on CUDA computes in the short type, and what in float32 (PyTorch's manual, "CUDA Ops that can autocast")
SHORT = {
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.scaled_dot_product_attention,
    torch.matmul,
    torch.bmm,
    torch.addmm,
    torch.baddbmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
}
LONG = {F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax, F.mse_loss}


class GPUKernels(TorchFunctionMode):
    """Within it attention is the fused kernel of CUDA, which keeps no matrix of weights.

    With `short` the types are those of autocast on CUDA, which the meta device has not.
    """

    def __init__(self, short: torch.dtype | None = None):
        super().__init__()
        self.short = short

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.short is not None and (func in SHORT or func in LONG):
            dtype = self.short if func in SHORT else torch.float32
            args = tuple(cast(a, dtype) for a in args)
            kwargs = {name: cast(a, dtype) for name, a in kwargs.items()}
        if func is F.scaled_dot_product_attention:
            return fused(*args, **kwargs)
        return func(*args, **kwargs)


def fused(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **options: Any) -> Tensor:
    """Attention as its GPU kernel allocates: output and a float32 number per query and head are kept."""
    if groups := query.shape[-3] // key.shape[-3] - 1:  # heads of queries that share a key
        key, value = (t.repeat_interleave(groups + 1, -3) for t in (key, value))
    bias = None if attn_mask is None else attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    return fused_attention(query, key, value, bias)


def cast(value: Any, dtype: torch.dtype) -> Any:
    """A tensor of floats in this type; anything else as it is."""
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
