"""What a computation asks of its device: the meta device stands for a GPU, from which no number can be had without waiting."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
ASKED = {aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default}
COPIES = {aten._to_copy.default, aten.copy_.default}


class Transfers(TorchDispatchMode):
    """Within it `seen` lists every wait for the device and every copy to it or from it; the host gets zeros."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        there = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        here = any(t.is_meta for t in there)
        if here and func in ASKED:
            self.seen.append(f"asked by {func}")
            return self.answer(func, args)
        if func is aten.index.Tensor and any(t.is_meta and t.dtype == torch.bool for t in there[1:]):
            self.seen.append("asked by a mask as an index")
            return args[0].new_empty(0)
        if func in COPIES:
            target = args[0].device if func is aten.copy_.default else torch.device(kwargs.get("device") or args[0].device)
            source = args[1] if func is aten.copy_.default else args[0]
            if source.device.type != target.type:
                self.seen.append(f"copied from {source.device.type} to {target.type}")
                if source.is_meta:
                    return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        return func(*args, **kwargs)

    @staticmethod
    def answer(func, args):
        if func is aten._local_scalar_dense.default:
            return torch.zeros((), dtype=args[0].dtype).item()
        if func is aten.equal.default:
            return False
        return args[0].new_empty(0, args[0].ndim, dtype=torch.long) if func is aten.nonzero.default else args[0].new_empty(0)
