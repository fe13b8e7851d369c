"""What torch offers no public way for. Nothing else in this package touches a private name of torch.

Each part has a test in tests/assembly/test_torch_private.py that fails when torch changes.

- `TorchDispatchMode` sees each operation that is called. torch's own FlopCounterMode and FakeTensorMode are made of it (since
  1.13), and torch.utils gives it under no public name.
- `tree_leaves` takes apart what an operation gives, as torch itself does; torch.utils has it under `_pytree` alone (up to 2.13).
- The operations below are what public functions call; a dispatch mode sees nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["TorchDispatchMode", "tree_leaves"]

# what F.scaled_dot_product_attention calls on a CPU, and its backward pass
ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
ON_CPU_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

ITEM = torch.ops.aten._local_scalar_dense.default  # what Tensor.item calls


def family(operation: Any) -> Any:
    """The operation without its overload: `aten.mm` of `aten.mm.default`; None of what has none."""
    return getattr(operation, "_overloadpacket", None)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """CUDA's fused kernel, on the meta device, too; there F.scaled_dot_product_attention would keep the matrix of weights."""
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True)[0]


def backward(loss: Tensor) -> None:
    """The backward pass with all modes in force, for activations that it computes again.

    `Tensor.backward` and its kin leave a function mode for as long as they run.
    """
    engine: Any = torch.autograd.Variable._execution_engine
    engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True)
