"""Cross-fades between two sounds."""

from __future__ import annotations

import torch
from torch import Tensor


def rising(first: Tensor, axis: int = -1) -> Tensor:
    """Weights from 0 to 1 along `axis`, in a shape that goes with the tensor."""
    length, shape = first.shape[axis], [1] * first.ndim
    shape[axis] = length
    return ((torch.arange(length, device=first.device) + 0.5) / length).to(first).reshape(shape)


def crossfade(first: Tensor, then: Tensor, axis: int = -1) -> Tensor:
    """Two sounds of one shape → one that begins as the first and ends as the second, along `axis`.

    The level is kept: weights that add up to 1 where both are alike, squares that do where they have nothing in common (sounds of
    other phases), in between by how they correlate. Each row of the first axis is measured alone.
    """
    first_rows, then_rows = first.flatten(1).double(), then.flatten(1).double()
    norms = (first_rows.square().sum(1) * then_rows.square().sum(1)).sqrt()
    alike = ((first_rows * then_rows).sum(1) / norms.clamp(min=1e-20)).clamp(0, 1)
    alike = torch.where(norms > 0, alike, torch.ones_like(alike)).to(first).reshape(-1, *[1] * (first.ndim - 1))
    up = rising(first, axis)
    level = ((1 - up).square() + up.square() + 2 * alike * (1 - up) * up).sqrt()
    return ((1 - up) * first + up * then) / level
