"""Distances of a row of clips to other real clips, by every embedder: each with its interval, or the sentence why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from melfusion.evaluation.scoring import Predictions
from melfusion.metrics import distances
from melfusion.metrics.distances import Projection, TooFewSamples
from melfusion.metrics.intervals import Draws, jackknife, leave_out, redraw
from melfusion.metrics.sets import KernelDistance, SetDistance

NO_LABELS = "these clips have no labels."

MOST_DIMENSIONS = 32  # components of the PCA before a Fréchet distance, where the configuration does not say


@dataclass
class Reference:
    """Reference statistics: predictions of real clips, their classes and tracks, and a PCA fitted on real training clips.

    The number of components is as large as the smallest class of the scored items allows, and the same for all rows. Sets are
    brought to equal size by leaving out clips evenly. Where clips share tracks, intervals are over tracks, and Fréchet
    distances are not computed.
    """

    real: Predictions
    classes: list[dict[str, str]]  # of the reference clips, the attributes that a judge knows
    projections: dict[str, Projection]
    dimensions: dict[str, int | str]  # embedder → components for whole sets, or the sentence why there are none
    class_dimensions: dict[str, int | str]  # the same within a class
    tracks: list[str] | None = None  # of the reference clips; None: each its own

    @classmethod
    def fit(
        cls,
        train: Predictions,
        reference: Predictions,
        reference_classes: list[dict],
        classes: list[dict],
        most: int = MOST_DIMENSIONS,
        tracks: list[str] | None = None,
    ) -> Reference:
        """Fit a PCA of at most `most` components (0: all) on `train`.

        `classes` are the labels of the items that will be scored: the smallest class of both sides limits the components.
        """
        projections, whole, within, few = {}, {}, {}, None
        n = min(len(reference), len(classes))
        counted = [class_sizes(side[:n]) for side in (reference_classes, classes)]
        sizes = [side.get(pair, 0) for pair in counted[0] | counted[1] for side in counted]
        if tracks and len(set(tracks)) < len(tracks):
            few = (
                f"the {len(tracks)} clips to measure against come from {len(set(tracks))} tracks, too few pieces for a covariance: "
                "see KAD, whose interval is over tracks."
            )
        for name, embeddings in train.embeddings.items():
            flat, pieces = embeddings.flatten(0, 1), embeddings.shape[1]
            afford = min(most, flat.shape[1], len(flat) // distances.MIN_PER_DIMENSION) if most else flat.shape[1]
            projections[name] = Projection(flat, afford)
            whole[name] = few or _afford([pieces * n], afford, exact=not most)
            within[name] = few or (_afford([pieces * size for size in sizes], min(afford, MOST_DIMENSIONS)) if sizes else NO_LABELS)
        return cls(reference, reference_classes, projections, whole, within, tracks)

    def score(self, row: Predictions, classes: list[dict[str, str]], tracks: list[str] | None = None) -> dict[str, dict[str, Any]]:
        """Embedder → fad, fad_inf, kad, fad_conditional: each {"mean", "interval", "n", …} or {"why_not"}."""
        return {name: self._score(name, row, classes, tracks or row.keys) for name in self.projections}

    def _score(self, name: str, row: Predictions, classes: list[dict[str, str]], tracks: list[str]) -> dict[str, Any]:
        even = self.even(len(row))
        scores = {"kad": _measured(KernelDistance(self.draws(tracks)), *(h.embeddings[name] for h in (self.real, row)))}
        if isinstance(d := self.dimensions[name], str):
            scores["fad"] = scores["fad_inf"] = {"why_not": d}
        else:
            low = [self._low(name, h)[i][..., :d] for h, i in zip((self.real, row), even, strict=True)]
            for key, distance in (("fad", distances.frechet_distance), ("fad_inf", distances.frechet_infinity)):
                found = _measured(SetDistance(distance, low[0].shape[1]), *low)
                scores[key] = found if "why_not" in found else found | {"dimensions": d}
        return scores | {"fad_conditional": self._conditional_score(name, row, classes)}

    def _conditional_score(self, name: str, row: Predictions, classes: list[dict[str, str]]) -> dict[str, Any]:
        conditional = self.conditional(name, row, classes)
        if conditional is None:
            return {"why_not": self.class_dimensions[name]}
        n = min(len(row), len(self.real))
        try:
            mean = conditional(range(n), check=True)
        except TooFewSamples as error:
            return {"why_not": str(error)}
        return {"mean": mean, "interval": jackknife(conditional, n), "n": n, "dimensions": self.class_dimensions[name]}

    def even(self, n: int) -> tuple[Tensor, Tensor]:
        """Indices of reference clips and of n scored clips, equally many and evenly spread over the larger set."""
        equal = min(n, len(self.real))
        return torch.arange(equal) * len(self.real) // equal, torch.arange(equal) * n // equal

    def draws(self, tracks: list[str]) -> Draws:
        """The resampling of an interval: over tracks where clips share tracks, else over clips."""
        reference = self.tracks or self.real.keys
        shared = any(len(set(names)) < len(names) for names in (reference, tracks))
        return redraw(reference, tracks) if shared else leave_out(len(reference), len(tracks))

    def conditional(self, name: str, row: Predictions, classes: list[dict[str, str]]) -> Callable[..., float] | None:
        """Class-conditional Fréchet distance by one embedder, as a function of item indices; None where it is not computed.

        With `check` the function raises TooFewSamples where a class is too small for the components. A jackknife calls it
        without, on parts of sets that were checked. Of sets of unequal size the first clips count, since evenly spread ones
        might be of one class only.
        """
        if isinstance(d := self.class_dimensions[name], str):
            return None
        low = [self._low(name, h)[..., :d] for h in (self.real, row)]
        k = low[0].shape[1]

        def score(items: Any, check: bool = False) -> float:
            real, ours = ([c[j] for j in items for _ in range(k)] for c in (self.classes, classes))
            reference, scored = (x[list(items)].flatten(0, 1) for x in low)
            return distances.conditional_frechet(reference, scored, real, ours, check)

        return score

    def gains(
        self,
        base: Predictions,
        row: Predictions,
        classes: list[dict],
        tracks: list[str] | None = None,
        seeds: list[int] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Embedder → how much nearer to the reference a row is than the row `base`, paired, with its interval.

        Both rows hold clips of the same items in the same order. `of` says what is compared: with fad_conditional `mean` is
        the share by which that distance is smaller; where it is not computed, with kad `mean` is the difference. Rows too
        small for either have `why_not`. `seeds`, the training seed of each clip's model, adds `over_seeds`: the interval over
        whole seeds in place of clips.
        """
        return {name: self._gain(name, base, row, classes, tracks or row.keys, seeds or []) for name in self.projections}

    def _gain(
        self, name: str, base: Predictions, row: Predictions, classes: list[dict], tracks: list[str], seeds: list[int]
    ) -> dict[str, Any]:
        ours, theirs = (self.conditional(name, side, classes) for side in (row, base))
        n = min(len(row), len(self.real))
        try:
            if ours and theirs:

                def gain(items: Any, check: bool = False) -> float:
                    return 1 - ours(items, check) / theirs(items, check)

                found = {"of": "fad_conditional", "mean": gain(range(n), check=True), "interval": jackknife(gain, n)}
                return found | ({"over_seeds": jackknife(gain, n, seeds[:n])} if len(set(seeds[:n])) > 1 else {})
        except TooFewSamples as error:
            return {"why_not": str(error)}
        draws = self.draws(tracks)
        real, *sets = (h.embeddings[name].double().mean(1) for h in (self.real, base, row))
        if min(map(len, (real, *sets))) < 3 or not math.isfinite(draws.point):
            return {"why_not": f"{len(row)} clips against {len(real)}, {draws.over}, are too few for an interval."}
        (before, before_again), (after, again) = (distances.kernel_distances(real, x, draws) for x in sets)
        return {"of": "kad", "mean": before - after, "interval": draws.half_width(before_again - again), "over": draws.over}

    def _low(self, name: str, row: Predictions) -> Tensor:
        """(N, K, components): the principal components of a row."""
        x = row.embeddings[name]
        return self.projections[name].apply(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _measured(metric: SetDistance, real: Tensor, generated: Tensor) -> dict[str, Any]:
    metric.update(real, real=True)
    metric.update(generated, real=False)
    return metric.result()


def class_sizes(classes: list[dict[str, str]]) -> dict[tuple[str, str], int]:
    """(attribute, class) → how many clips have it."""
    counts: dict[tuple[str, str], int] = {}
    for labels in classes:
        for pair in labels.items():
            counts[pair] = counts.get(pair, 0) + 1
    return counts


def _afford(counts: list[int], most: int, exact: bool = False) -> int | str:
    """As many components as the smallest count allows, at most `most`, with `exact` just as many; or the sentence why not."""
    try:
        if exact:
            distances.check_counts(min(counts), min(counts), most)
        return distances.affordable_dimensions(counts, most)
    except TooFewSamples as error:
        return str(error)
