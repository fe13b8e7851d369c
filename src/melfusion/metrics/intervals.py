"""Intervals of 95 %: of shares, of means, and by resampling of scores of whole sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Z = 1.959963984540054  # the normal distribution's 97.5 % point

T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)  # Student's t for 1, 2, … degrees


def t_975(degrees: int) -> float:
    """Student's 97.5 % point: a table to 9 degrees of freedom, then its expansion in 1/degrees (Abramowitz & Stegun, 26.7.5)."""
    if degrees <= len(T_975):
        return T_975[degrees - 1]
    z, v = Z, degrees
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2) + third


def wilson(hits: float, n: int, z: float = Z) -> tuple[float, float]:
    """(low, high) of a share, hits of n (Wilson 1927); (0, 1) for n = 0. `z` is the normal distribution's point: 1.96 for 95 %."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = hits / n, z * z
    centre, spread = p + z2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z2 / n)), min(1.0, (centre + spread) / (1 + z2 / n))


def mean_interval(values: Sequence[float], z: float = Z) -> tuple[float, float]:
    """(mean, half width) of independent values, such as paired differences; that of one value is inf. `z` as in `wilson`."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.inf
    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    return mean, z * math.sqrt(variance / n)


def jackknife(score: Callable[[Sequence[int]], float], n: int, groups: int | Sequence[Any] = 20) -> float:
    """Half width of the score of n items by the delete-a-group jackknife with Student's t; inf for one group.

    `groups`: the number of interleaved groups, or the group of each item, such as the training seed of its model.
    It is for scores that are smooth but biased in n, such as Fréchet distances. The repeated items of a bootstrap add bias.
    """
    of = [i % min(groups, n) for i in range(n)] if isinstance(groups, int) else groups
    names = list(dict.fromkeys(of))
    if (count := len(names)) < 2:
        return math.inf
    kept = [score([i for i in range(n) if of[i] != name]) for name in names]
    mean = sum(kept) / count
    return t_975(count - 1) * math.sqrt((count - 1) / count * sum((k - mean) ** 2 for k in kept))


def students(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half width) over a few independent repetitions, such as training seeds, by Student's t; inf for one repetition."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.inf
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, t_975(n - 1) * spread / math.sqrt(n)


def share(hits: int, n: int, z: float = Z) -> dict[str, float]:
    """hits of n (at least one) as accuracy with its Wilson interval."""
    low, high = wilson(hits, n, z)
    return {"accuracy": hits / n, "low": low, "high": high, "n": n}


@dataclass(frozen=True)
class Draws:
    """R resamplings of two sets: how often each clip is in each of them, (R, N) and (R, M).

    `factor` times the sum of squared deviations of R scores is their variance. `over` says in words what was resampled.
    `point` is the half width in standard errors. `apart`, (N, N) and (M, M), is 1 where two clips are of different tracks.
    """

    real: Tensor
    generated: Tensor
    factor: float
    over: str
    point: float
    apart: tuple[Tensor, Tensor] | None = None

    def half_width(self, scores: Tensor) -> float:
        """Scores (R,) of the resamplings → half width of the score of the sets. A NaN, from one track only, is left out."""
        finite = scores[scores.isfinite()]
        variance = self.factor * len(scores) / len(finite) * (finite - finite.mean()).square().sum().item()
        return self.point * math.sqrt(variance)


def leave_out(n: int, m: int, groups: int = 20) -> Draws:
    """The jackknife: each of `groups` interleaved groups of clips is left out of both sets in turn."""
    groups = max(1, min(groups, n, m))
    real, generated = ((torch.arange(size) % groups != torch.arange(groups)[:, None]).double() for size in (n, m))
    return Draws(real, generated, (groups - 1) / groups, "clips", t_975(groups - 1) if groups > 1 else math.inf)


def redraw(real: Sequence[str], generated: Sequence[str], repeats: int = 400, seed: int = 0) -> Draws:
    """The bootstrap over tracks: each resampling draws as many whole tracks as there are, with replacement.

    `real` and `generated` name the track of each clip. Clips of one track resemble each other, so intervals over clips would be
    too narrow. With few tracks a plain bootstrap is too narrow, too: G tracks drawn with replacement vary by √((G - 1) / G)
    too little. `point` corrects that and takes Student's t. One track has no interval: its half width is inf.
    """
    generator = torch.Generator().manual_seed(seed)
    fewest = min(len(set(real)), len(set(generated)))
    point = t_975(fewest - 1) * math.sqrt(fewest / (fewest - 1)) if fewest > 1 else math.inf

    def drawn_again(names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """How often each clip is in each draw, (R, N), and which clips are of different tracks, (N, N)."""
        tracks = {name: i for i, name in enumerate(dict.fromkeys(names))}
        drawn = torch.randint(len(tracks), (repeats, len(tracks)), generator=generator)
        times = torch.zeros(repeats, len(tracks), dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())
        own = torch.tensor([tracks[name] for name in names])
        return times[:, own], (own[:, None] != own).double()

    (ours, apart), (theirs, apart_too) = drawn_again(real), drawn_again(generated)
    over = f"{len(set(generated))} tracks against {len(set(real))}"
    return Draws(ours, theirs, 1 / (repeats - 1), over, point, (apart, apart_too))
