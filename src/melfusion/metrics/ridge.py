"""Does one set of features tell another? Ridge regression whose predictions are ranked, against a null of permuted targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PENALTIES = tuple(10.0**k for k in range(-1, 5))  # of ridge, in units of the mean of the kernel's diagonal

COMPONENTS = 32  # of the targets, whitened: no direction of large variance decides alone


@dataclass(frozen=True)
class Folds:
    """Out-of-fold ridge from fixed features: `targets` (N, Q) → predictions (N, Q), each from items of other folds.

    Ridge in its dual form (Saunders et al. 1998): predictions = K_ij (K_jj + λ I)⁻¹ targets_j, so one matrix (N, N) serves every
    permutation of the targets.
    """

    hats: np.ndarray  # (penalties, N, N)

    @staticmethod
    def of(features: np.ndarray, fold: Sequence[int], trained: np.ndarray | None = None) -> Folds:
        """features (N, P), standardised.

        Args:
            fold: of each item. Items that belong together have the same one.
            trained: (N,) bool, the items that may be learned from; None: all.
        """
        number, usable = np.asarray(fold), np.ones(len(features), bool) if trained is None else trained
        kernel = features @ features.T
        hats = np.zeros((len(PENALTIES), *kernel.shape))
        for one in np.unique(number):
            out, kept = np.flatnonzero(number == one), np.flatnonzero((number != one) & usable)
            values, vectors = np.linalg.eigh(kernel[np.ix_(kept, kept)])
            across, unit = kernel[np.ix_(out, kept)] @ vectors, np.diagonal(kernel).mean()
            for hat, penalty in zip(hats, PENALTIES, strict=True):
                hat[np.ix_(out, kept)] = (across / (values.clip(0) + penalty * unit)) @ vectors.T
        return Folds(hats)

    def predict(self, targets: np.ndarray) -> np.ndarray:
        """With the penalty whose predictions have the smallest error."""
        made = [hat @ targets for hat in self.hats]
        return made[int(np.argmin([np.square(one - targets).sum() for one in made]))]


def standardised(features: np.ndarray) -> np.ndarray:
    """(N, P) → zero mean and unit variance in each column; a column without variance becomes 0."""
    centred = features - features.mean(0)
    return centred / np.where((deviation := centred.std(0)) > 1e-12, deviation, np.inf)


def whitened(features: np.ndarray, components: int = COMPONENTS) -> np.ndarray:
    """(N, P) → (N, Q): the first principal components of the standardised columns, each of unit variance."""
    left, *_ = np.linalg.svd(standardised(features), full_matrices=False)
    return left[:, : min(components, len(features) // 4)] * np.sqrt(len(features))


def apart(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N, Q), (N, Q) → (N, N) squared distances of each prediction to each target."""
    return np.square(predicted).sum(1)[:, None] + np.square(targets).sum(1)[None] - 2 * predicted @ targets.T


def ranks(distances: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(N,) which share of its candidates is farther from an item's prediction than its own target: 1 is best, .5 is chance.

    Args:
        distances: (N, N), as `apart` gives them.
        candidates: (N, N) bool, with no item its own candidate. An item without candidates has NaN.
    """
    own = np.diagonal(distances)[:, None]
    farther = ((distances > own) & candidates).sum(1) + 0.5 * ((distances == own) & candidates).sum(1)
    count = candidates.sum(1)
    return np.where(count > 0, farther / np.maximum(count, 1), np.nan)


def permuted(groups: Sequence[str], generator: np.random.Generator) -> np.ndarray:
    """(N,) a permutation that moves items within their group only."""
    order, names = np.arange(len(groups)), np.asarray(groups)
    for name in np.unique(names):
        where = np.flatnonzero(names == name)
        order[where] = generator.permutation(where)
    return order
