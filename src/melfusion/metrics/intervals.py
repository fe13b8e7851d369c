"""Intervals of 95 %: pure functions of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Z = 1.959963984540054  # the normal distribution's 97.5 % point
T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)  # Student's t for 1, 2, … degrees


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


def jackknife(score: Callable[[Sequence[int]], float], n: int, groups: int = 20) -> tuple[float, float]:
    """(score of all n items, half width), deleting each of `groups` interleaved groups in turn.

    For scores that are smooth but biased in n, such as Fréchet distances, where a bootstrap's repeated items would add bias.
    One item has no interval: its half width is inf.
    """
    if n < 2:
        return score(range(n)), math.inf
    groups = min(groups, n)
    kept = [score([i for i in range(n) if i % groups != g]) for g in range(groups)]
    mean = sum(kept) / groups
    variance = (groups - 1) / groups * sum((k - mean) ** 2 for k in kept)
    return score(range(n)), Z * math.sqrt(variance)


def students(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half width) over a few independent repetitions, such as training seeds, by Student's t; inf for one."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.inf
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, T_975[min(n - 1, len(T_975)) - 1] * spread / math.sqrt(n)
