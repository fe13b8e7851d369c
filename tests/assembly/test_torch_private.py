"""What the package takes from torch's private parts works as assumed: each test fails when torch changes."""

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import melfusion
from melfusion.assembly.torch_private import (
    ITEM,
    ON_CPU,
    ON_CPU_BACKWARD,
    TorchDispatchMode,
    backward,
    family,
    fused_attention,
    tree_leaves,
)

PRIVATE = re.compile(r"\btorch(\.\w+)*\._[a-z]|\baten\._|_execution_engine|_overloadpacket|_fc\b|_foreach")


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.called, self.shapes = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.called.append(func)
        self.shapes += [tuple(leaf.shape) for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        return out


def test_a_mode_sees_operations_and_what_they_give():
    with Seen() as seen:
        parts = torch.ones(4).split(3)
        parts[0].sum().item()
    assert {(3,), (1,)} <= set(seen.shapes) and ITEM in seen.called
    assert torch.ops.aten.sum in map(family, seen.called) and family(len) is None


def test_attention_on_a_cpu_is_this_operation():
    query = torch.randn(1, 2, 8, 16, requires_grad=True)
    with Seen() as seen:
        F.scaled_dot_product_attention(query, query, query).sum().backward()
    assert {ON_CPU, ON_CPU_BACKWARD} <= set(map(family, seen.called))


def test_fused_attention_has_the_shape_of_the_public_one():
    query, key = torch.empty(2, 4, 9, 8, device="meta"), torch.empty(2, 4, 5, 8, device="meta")
    assert fused_attention(query, key, key, None).shape == F.scaled_dot_product_attention(query, key, key).shape


def test_the_backward_pass_keeps_function_modes():
    called = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            called.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.randn(3, requires_grad=True)
    with Watch():
        loss = checkpoint(lambda x: F.softmax(x, 0).square(), x, use_reentrant=False).sum()
        backward(loss)
    assert called.count(F.softmax) == 2  # the second time within the backward pass
    (wanted,) = torch.autograd.grad(F.softmax(x, 0).square().sum(), x)
    assert torch.equal(x.grad, wanted)


def test_no_other_file_touches_a_private_name():
    root = Path(melfusion.__file__).parent
    assert {file.name for file in root.rglob("*.py") if PRIVATE.search(file.read_text())} == {"torch_private.py"}
