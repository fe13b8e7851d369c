"""In which numbers a run computes, and what PyTorch's autocast needs to be told for that."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from melfusion.schema import TrainerConfig


def resolve_precision(trainer: TrainerConfig) -> str:
    """Lightning's name of the precision: `auto` is bf16-mixed on cuda and 32-true elsewhere."""
    if trainer.precision != "auto":
        return trainer.precision
    return "bf16-mixed" if torch.cuda.is_available() and trainer.accelerator in ("auto", "gpu", "cuda") else "32-true"


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
