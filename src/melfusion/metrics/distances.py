"""Distances between two sets of embeddings: pure functions of float64 tensors (N, D). A score that cannot be computed is an error.

FAD and FD: Kilgour et al. 2019 (arXiv 1812.08466); FAD-inf: Gui et al. 2024 (2311.01616), after Chong & Forsyth 2020
(1911.07023); KAD: Chung et al. 2025 (2502.15602), after Gretton et al. 2012, eq. 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from melfusion.errors import ConfigError, MelfusionError
from melfusion.metrics.intervals import Draws

MIN_PER_DIMENSION = 10  # samples that a covariance needs for each of its dimensions

KAD_SCALE = 100.0  # the published tool prints KAD times this


class TooFewSamples(MelfusionError, ValueError):
    """Too few samples for a score; the message says how many it needs."""


def moments(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D) → mean (D,) and unbiased covariance (D, D), float64."""
    x = embeddings.double()
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def frechet(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a^½ Σ_b Σ_a^½)^½), by eigenvalues of symmetric matrices, so never imaginary."""
    values, vectors = torch.linalg.eigh(cov_a.double())
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b.double() @ root).clamp(min=0).sqrt().sum()
    difference = mean_a.double() - mean_b.double()
    return (difference @ difference + cov_a.double().trace() + cov_b.double().trace() - 2 * cross).item()


def frechet_distance(real: Tensor, generated: Tensor, check: bool = True) -> float:
    """Fréchet distance of two sets (N, D) of equal size; TooFewSamples below 10 samples a dimension.

    `check=False` is for a jackknife, whose smaller sets are parts of sets that were checked.
    """
    if check:
        check_counts(len(real), len(generated), real.shape[1])
    if min(len(real), len(generated)) < 2:
        raise TooFewSamples(f"{len(real)} real and {len(generated)} generated clips: a covariance needs two of each.")
    return frechet(*moments(real), *moments(generated))


def check_counts(n_real: int, n_generated: int, dimensions: int, halves: bool = False) -> None:
    """TooFewSamples for sets of unequal size, or of less than 10 samples a dimension; with `halves` of half the sets."""
    if n_real != n_generated:
        raise TooFewSamples(f"{n_real} real and {n_generated} generated clips: Fréchet distances need sets of equal size.")
    n = n_real // 2 if halves else n_real
    if n < MIN_PER_DIMENSION * dimensions:
        of = f", half of {n_real}," if halves else ""
        raise TooFewSamples(f"{n} clips{of} are fewer than {MIN_PER_DIMENSION} for each of {dimensions} dimensions.")


def frechet_infinity(real: Tensor, generated: Tensor, check: bool = True, points: int = 5, seed: int = 0) -> float:
    """FAD-inf: the score at n samples is linear in 1/n; this is its value at 1/n = 0, fitted over n = N/2, 2N/3, … and N.

    The score at n = N - N/k is the mean over k parts, each left out of both sets in turn: a small reference has as much bias
    as a small generated set. Every clip has the same weight at each n. The parts do not depend on the order of the clips.
    `check` as in `frechet_distance`, for the halves.
    """
    if check:
        check_counts(len(real), len(generated), real.shape[1], halves=True)
    draw, number = torch.Generator().manual_seed(seed), torch.arange(len(real))
    one, other = (_ordered(x)[torch.randperm(len(x), generator=draw)] for x in (real, generated))
    inverse, scores = [1 / len(real)], [frechet_distance(one, other, check=False)]
    for k in range(2, points + 1):
        kept = [number % k != part for part in range(k)]
        inverse.append(sum(1 / int(part.sum()) for part in kept) / k)
        scores.append(sum(frechet_distance(one[part], other[part], check=False) for part in kept) / k)
    x, y = torch.tensor([inverse, scores], dtype=torch.float64)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return (y.mean() - slope * x.mean()).item()


def _ordered(embeddings: Tensor) -> Tensor:
    """The rows sorted by their first number, then by their second, …"""
    return embeddings[sorted(range(len(embeddings)), key=embeddings.tolist().__getitem__)]


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """KAD: 100 × the unbiased squared MMD under a Gaussian kernel, whose width is the median distance within `real`.

    It is unbiased at any N ≥ 2, so it may be below 0 for sets that are alike.
    """
    if min(len(real), len(generated)) < 2:
        raise TooFewSamples(f"{len(real)} real and {len(generated)} generated clips: KAD needs two of each.")
    return KAD_SCALE * mmd(*kernel_matrices(real, generated)).item()


def kernel_distances(real: Tensor, generated: Tensor, draws: Draws) -> tuple[float, Tensor]:
    """KAD of two sets, and (R,) of the resampled sets. All have the kernel of the whole sets."""
    kernels = kernel_matrices(real, generated)
    again = [mmd(*kernels, *weights, draws.apart) for weights in zip(draws.real, draws.generated, strict=True)]
    return KAD_SCALE * mmd(*kernels, apart=draws.apart).item(), KAD_SCALE * torch.stack(again)


def kernel_matrices(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel matrices of real × real, real × generated and generated × generated."""
    real, generated = real.double(), generated.double()
    width = torch.pdist(real).median().clamp(min=1e-12)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        # not by matrix products, in which large embeddings cancel
        return torch.exp(-torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * width**2))

    return kernel(real, real), kernel(real, generated), kernel(generated, generated)


def mmd(
    rr: Tensor,
    rg: Tensor,
    gg: Tensor,
    real: Tensor | None = None,
    generated: Tensor | None = None,
    apart: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Unbiased squared MMD of kernel matrices (Gretton et al. 2012, eq. 3).

    `real` (N,) and `generated` (M,) say how often each clip counts. `apart` (N, N) and (M, M) are 1 where two clips may be
    compared: by default all but a clip with itself; with tracks, clips of different tracks. NaN where no two may.
    """
    a, b = (torch.ones(len(k), dtype=torch.float64) if w is None else w for k, w in ((rr, real), (gg, generated)))
    pairs = apart or tuple(1 - torch.eye(len(k), dtype=torch.float64) for k in (rr, gg))
    within = [(w @ (k * p) @ w) / (w @ p @ w) for k, w, p in zip((rr, gg), (a, b), pairs, strict=True)]
    return within[0] + within[1] - 2 * (a @ rg @ b) / (a.sum() * b.sum())


class Projection:
    """PCA fitted on one set (N, D): `apply` gives the first `dimensions` components, unscaled."""

    def __init__(self, embeddings: Tensor, dimensions: int):
        self.mean, covariance = moments(embeddings)
        if dimensions > len(self.mean):
            raise ConfigError(f"{dimensions} components are more than the {len(self.mean)} of the embedding.")
        self.vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :dimensions]

    def apply(self, embeddings: Tensor) -> Tensor:
        return (embeddings.double() - self.mean) @ self.vectors


def affordable_dimensions(counts: list[int], most: int = 32) -> int:
    """As many components as the smallest class allows at 10 samples each, at most `most`; TooFewSamples for none."""
    smallest = min(counts, default=0)
    dimensions = min(most, smallest // MIN_PER_DIMENSION)
    if dimensions < 1:
        raise TooFewSamples(f"the smallest set is of {smallest}: a Fréchet distance needs at least {MIN_PER_DIMENSION}.")
    return dimensions


def conditional_frechet(
    real: Tensor, generated: Tensor, real_classes: list[dict[str, str]], classes: list[dict[str, str]], check: bool = True
) -> float:
    """Mean over the classes of all attributes of the Fréchet distance within the class, by the label of the item.

    A distance of whole sets is the same for a model that follows its pictures and for one that makes the same clips in
    another order. Within a class the two differ. `real_classes` and `classes`: attribute → class of each clip. Class sizes of
    both sets are made equal by leaving out the last clips of the larger one.
    """
    scores = []
    for attribute, name in sorted({(a, c) for labels in classes for a, c in labels.items()}):
        ours = [i for i, labels in enumerate(classes) if labels.get(attribute) == name]
        theirs = [i for i, labels in enumerate(real_classes) if labels.get(attribute) == name]
        n = min(len(ours), len(theirs))
        try:
            scores.append(frechet_distance(real[theirs[:n]], generated[ours[:n]], check))
        except TooFewSamples as error:
            raise TooFewSamples(f"{attribute} {name}: {error}") from error
    if not scores:
        raise TooFewSamples("No clip has a label.")
    return sum(scores) / len(scores)
