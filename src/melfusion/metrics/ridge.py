"""Does one set of features tell another? Ridge regression whose predictions are ranked, against a null of permuted targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PENALTIES = tuple(10.0**k for k in range(-1, 5))  # of ridge, in units of the kernel's mean eigenvalue

COMPONENTS = 32  # of the targets, whitened: no direction of large variance decides alone


@dataclass(frozen=True)
class Folds:
    """Out-of-fold ridge from fixed features: `targets` (N, Q) → what the features add to the mean, (N, Q), from other folds alone.

    Ridge in its dual form (Saunders et al. 1998): K_ij (K_jj + λ I)⁻¹ targets_j, so one matrix (N, N) serves every permutation of
    the targets. The mean of the other folds is left out: an item lies farther from it than they do, whatever is learned.
    """

    hats: np.ndarray  # (penalties, N, N)
    means: np.ndarray  # (N, N): the mean of an item's group, itself included

    @staticmethod
    def of(
        features: np.ndarray, fold: Sequence[int], trained: np.ndarray | None = None, groups: Sequence[str] | None = None
    ) -> Folds:
        """features (N, P).

        Each fold has its own intercept, since a mean over all items would tell what the others sum up to: their negative.

        Args:
            fold: of each item. Items that belong together have the same one.
            trained: (N,) bool, the items that may be learned from; None: all.
            groups: of each item, each with an intercept of its own: the regression is of deviations from the group's mean.
        """
        number, usable = np.asarray(fold), np.ones(len(features), bool) if trained is None else trained
        named = np.zeros(len(features)) if groups is None else np.asarray(groups)
        kernel = features @ features.T
        hats = np.zeros((len(PENALTIES), *kernel.shape))
        for one in np.unique(number):
            out, kept = np.flatnonzero(number == one), np.flatnonzero((number != one) & usable)
            own, mean = _means(named[kept], named[kept]), _means(named[out], named[kept])
            centre, inner = np.eye(len(kept)) - own, kernel[np.ix_(kept, kept)]
            values, vectors = np.linalg.eigh(centre @ inner @ centre.T)
            across = (kernel[np.ix_(out, kept)] - mean @ inner) @ centre.T @ vectors
            for hat, penalty in zip(hats, PENALTIES, strict=True):
                learned = (across / (values.clip(0) + penalty * values.mean().clip(1e-12))) @ vectors.T
                hat[np.ix_(out, kept)] = learned @ centre
        return Folds(hats, _means(named, named))

    def predict(self, targets: np.ndarray, judged: np.ndarray | None = None) -> np.ndarray:
        """With the penalty whose predictions have the largest correlation with the targets' deviations from their mean.

        Args:
            judged: (N,) bool, the items that choose the penalty; None: all.
        """
        who = np.ones(len(targets), bool) if judged is None else judged
        means = self.means[np.ix_(who, who)]
        wanted = targets[who] - means / means.sum(1, keepdims=True) @ targets[who]
        made = [hat @ targets for hat in self.hats]
        fits = [(one[who] * wanted).sum() / max(np.linalg.norm(one[who]), 1e-12) for one in made]
        return made[int(np.argmax(fits))]


def standardised(features: np.ndarray) -> np.ndarray:
    """(N, P) → zero mean and unit variance in each column; a column without variance becomes 0."""
    centred = features - features.mean(0)
    return centred / np.where((deviation := centred.std(0)) > 1e-12, deviation, np.inf)


def directions(features: np.ndarray) -> np.ndarray:
    """(N, P) → each row standardised by columns, and then of length 1."""
    made = standardised(features)
    return made / np.linalg.norm(made, axis=1, keepdims=True).clip(1e-12)


def _means(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """(n, m): row i takes the mean over the m items that are of the group of item i; over all of them where none is."""
    same = (ours[:, None] == theirs[None]).astype(float)
    same[same.sum(1) == 0] = 1
    return same / same.sum(1, keepdims=True)


@dataclass(frozen=True)
class Whitening:
    """Principal components of standardised columns, each of unit variance over the rows that it was fitted on."""

    components: np.ndarray  # (P, Q)

    @staticmethod
    def of(features: np.ndarray, components: int = COMPONENTS) -> Whitening:
        """Fitted on features (N, P)."""
        _, scale, right = np.linalg.svd(standardised(features), full_matrices=False)
        kept = min(components, len(features) // 4)
        return Whitening(right[:kept].T / scale[:kept].clip(1e-12) * np.sqrt(len(features)))

    def apply(self, features: np.ndarray) -> np.ndarray:
        """(M, P) → (M, Q). The columns are standardised by themselves: a set that is shifted as a whole says nothing by it."""
        return standardised(features) @ self.components


def whitened(features: np.ndarray, components: int = COMPONENTS) -> np.ndarray:
    """(N, P) → (N, Q): the first principal components of the standardised columns, each of unit variance."""
    return Whitening.of(features, components).apply(features)


def ranks(predicted: np.ndarray, targets: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(N,) which share of its candidates fits an item's prediction less than its own target: 1 is best, .5 is chance.

    Args:
        predicted, targets: (N, Q); they fit by their inner product.
        candidates: (N, N) bool, with no item its own candidate. An item without candidates has NaN.
    """
    fit = predicted @ targets.T
    own = np.diagonal(fit)[:, None]
    worse = ((fit < own) & candidates).sum(1) + 0.5 * ((fit == own) & candidates).sum(1)
    count = candidates.sum(1)
    return np.where(count > 0, worse / np.maximum(count, 1), np.nan)


def permuted(groups: Sequence[str], generator: np.random.Generator) -> np.ndarray:
    """(N,) a permutation that moves items within their group only."""
    order, names = np.arange(len(groups)), np.asarray(groups)
    for name in np.unique(names):
        where = np.flatnonzero(names == name)
        order[where] = generator.permutation(where)
    return order


def exchanged(groups: Sequence[str], generator: np.random.Generator) -> np.ndarray:
    """(N,) for each item one of another group, drawn with replacement: every group stands for one other, as a whole."""
    names = np.asarray(groups)
    which = np.unique(names)
    order = np.zeros(len(names), int)
    for ours, theirs in zip(which, generator.permutation(which), strict=True):
        here = np.flatnonzero(names == ours)
        order[here] = generator.choice(np.flatnonzero(names == theirs), len(here))
    return order
