"""How N image tokens become M."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from melfusion.errors import ConfigError


def pool(tokens: Tensor, length: int) -> Tensor:
    """(B, N, D) → (B, M, D): mean over M stretches of the raster order; every image token is in one or more of them."""
    return F.adaptive_avg_pool1d(tokens.transpose(1, 2), length).transpose(1, 2)


def pool_2d(tokens: Tensor, length: int) -> Tensor:
    """(B, N, D) → (B, M, D): mean over a rows × columns grid of cells, the most square one with M cells."""
    side = math.isqrt(tokens.shape[1])
    if tokens.shape[1] == length:
        return tokens
    if side * side != tokens.shape[1]:
        raise ConfigError(f"synapse.match=pool_2d needs a square picture, but got {tokens.shape[1]} image tokens.")
    grid = tokens.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, (most_square(length), length // most_square(length))).flatten(2).transpose(1, 2)


def most_square(cells: int) -> int:
    """Of the most square grid of so many cells, no more than columns."""
    return max(r for r in range(1, math.isqrt(cells) + 1) if cells % r == 0)


MATCHES = {"pool": pool, "pool_2d": pool_2d}
