"""Intervals of 95 %: pure functions of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Interval of a share, hits of n (Wilson 1927); (0, 1) where nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = hits / n, Z * Z
    centre, spread = p + z2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z2 / n)), min(1.0, (centre + spread) / (1 + z2 / n))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half width) of the mean of independent values, such as paired differences."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((v - mean) ** 2 for v in values) / max(n - 1, 1)
    return mean, Z * math.sqrt(variance / n)
