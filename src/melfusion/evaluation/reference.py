"""Distances of a row of clips to other real clips, by every embedder: each with its interval, or the sentence why not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from melfusion.evaluation.scoring import Heard
from melfusion.metrics import distances
from melfusion.metrics.distances import Projection, TooFewSamples
from melfusion.metrics.intervals import Draws, jackknife, leave_out, redraw
from melfusion.metrics.sets import KernelDistance, SetDistance

NO_LABELS = "these clips have no labels."

MOST_DIMENSIONS = 32  # of the PCA before a Fréchet distance, unless the configuration says otherwise


@dataclass
class Yardstick:
    """What rows are measured against: heard real clips, their classes and tracks, and a PCA fitted on real train clips.

    The number of components is what every class of the scored items affords, the same for all rows. Sets are brought to
    equal size, evenly. Where several clips are of one track, intervals are over tracks and Fréchet distances are refused.
    """

    reference: Heard
    classes: list[dict[str, str]]  # of the reference clips, the attributes that a judge knows
    projections: dict[str, Projection]
    dimensions: dict[str, int | str]  # embedder → components for sets, or the sentence why there are none
    class_dimensions: dict[str, int | str]  # likewise within a class
    tracks: list[str] | None = None  # of the reference clips; None: each its own

    @classmethod
    def fit(
        cls,
        train: Heard,
        reference: Heard,
        reference_classes: list[dict],
        classes: list[dict],
        most: int = MOST_DIMENSIONS,
        tracks: list[str] | None = None,
    ) -> Yardstick:
        """PCA from `train` of at most `most` components (0: all there are); class sizes from the reference and the scored items."""
        projections, whole, within, few = {}, {}, {}, None
        n = min(len(reference), len(classes))
        counted = [class_sizes(side[:n]) for side in (reference_classes, classes)]
        sizes = [side.get(pair, 0) for pair in counted[0] | counted[1] for side in counted]
        if tracks and len(set(tracks)) < len(tracks):
            few = (
                f"the {len(tracks)} clips to measure against come from {len(set(tracks))} tracks, so their covariance tells of "
                "too few pieces: KAD with its interval over tracks stands in."
            )
        for name, embeddings in train.embeddings.items():
            flat, pieces = embeddings.flatten(0, 1), embeddings.shape[1]
            afford = min(most, flat.shape[1], len(flat) // distances.MIN_PER_DIMENSION) if most else flat.shape[1]
            projections[name] = Projection(flat, afford)
            whole[name] = few or _afford([pieces * n], afford, exact=not most)
            within[name] = few or (_afford([pieces * size for size in sizes], min(afford, MOST_DIMENSIONS)) if sizes else NO_LABELS)
        return cls(reference, reference_classes, projections, whole, within, tracks)

    def score(self, heard: Heard, classes: list[dict[str, str]], tracks: list[str] | None = None) -> dict[str, dict[str, Any]]:
        """Embedder → fad, fad_inf, kad, fad_conditional: each {"mean", "interval", "n", …} or {"why_not"}."""
        return {name: self._score(name, heard, classes, tracks or heard.keys) for name in self.projections}

    def _score(self, name: str, heard: Heard, classes: list[dict[str, str]], tracks: list[str]) -> dict[str, Any]:
        even = self.even(len(heard))
        scores = {"kad": _measured(KernelDistance(self.draws(tracks)), *(h.embeddings[name] for h in (self.reference, heard)))}
        if isinstance(d := self.dimensions[name], str):
            scores["fad"] = scores["fad_inf"] = {"why_not": d}
        else:
            low = [self._low(name, h)[i][..., :d] for h, i in zip((self.reference, heard), even, strict=True)]
            for key, distance in (("fad", distances.frechet_distance), ("fad_inf", distances.frechet_infinity)):
                found = _measured(SetDistance(distance, low[0].shape[1]), *low)
                scores[key] = found if "why_not" in found else found | {"dimensions": d}
        return scores | {"fad_conditional": self._conditional_score(name, heard, classes)}

    def _conditional_score(self, name: str, heard: Heard, classes: list[dict[str, str]]) -> dict[str, Any]:
        conditional = self.conditional(name, heard, classes)
        if conditional is None:
            return {"why_not": self.class_dimensions[name]}
        n = min(len(heard), len(self.reference))
        try:
            mean = conditional(range(n), check=True)
        except TooFewSamples as error:
            return {"why_not": str(error)}
        return {"mean": mean, "interval": jackknife(conditional, n), "n": n, "dimensions": self.class_dimensions[name]}

    def even(self, n: int) -> tuple[Tensor, Tensor]:
        """Numbers of as many reference clips as of n scored ones, evenly spread over the larger set."""
        equal = min(n, len(self.reference))
        return tuple(torch.arange(equal) * size // equal for size in (len(self.reference), n))

    def draws(self, tracks: list[str]) -> Draws:
        """How the two sets are drawn again for an interval: over tracks where clips share them, else over clips."""
        reference = self.tracks or self.reference.keys
        shared = any(len(set(names)) < len(names) for names in (reference, tracks))
        return redraw(reference, tracks) if shared else leave_out(len(reference), len(tracks))

    def conditional(self, name: str, heard: Heard, classes: list[dict[str, str]]) -> Callable[..., float] | None:
        """Class-conditional Fréchet distance by one embedder as a function of item numbers; None where it cannot be had.

        With `check` it refuses classes too small for the components; what a jackknife leaves of larger ones is not refused.

        Of sets of unequal size the first clips count: every other one might be of one class.
        """
        if isinstance(d := self.class_dimensions[name], str):
            return None
        low = [self._low(name, h)[..., :d] for h in (self.reference, heard)]
        k = low[0].shape[1]

        def score(items: Any, check: bool = False) -> float:
            real, ours = ([c[j] for j in items for _ in range(k)] for c in (self.classes, classes))
            return distances.conditional_frechet(*(x[list(items)].flatten(0, 1) for x in low), real, ours, check)

        return score

    def gains(
        self, base: Heard, row: Heard, classes: list[dict], tracks: list[str] | None = None, seeds: list[int] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Embedder → how much nearer than the baseline a row is, paired, with its interval; `seeds` of the clips' models add
        `over_seeds`, the interval over whole training seeds instead of clips.

        `of` fad_conditional: the share by which that distance is smaller; where it cannot be had, kad: the difference.
        Both rows hold clips for the same items in the same order. Rows too small for either have `why_not`.
        """
        return {name: self._gain(name, base, row, classes, tracks or row.keys, seeds or []) for name in self.projections}

    def _gain(self, name: str, base: Heard, row: Heard, classes: list[dict], tracks: list[str], seeds: list[int]) -> dict[str, Any]:
        ours, theirs = (self.conditional(name, heard, classes) for heard in (row, base))
        n = min(len(row), len(self.reference))
        try:
            if ours and theirs:

                def gain(items: Any, check: bool = False) -> float:
                    return 1 - ours(items, check) / theirs(items, check)

                found = {"of": "fad_conditional", "mean": gain(range(n), check=True), "interval": jackknife(gain, n)}
                return found | ({"over_seeds": jackknife(gain, n, seeds[:n])} if len(set(seeds[:n])) > 1 else {})
        except TooFewSamples as error:
            return {"why_not": str(error)}
        draws = self.draws(tracks)
        real, *sets = (h.embeddings[name].double().mean(1) for h in (self.reference, base, row))
        if min(map(len, (real, *sets))) < 3 or not math.isfinite(draws.point):
            return {"why_not": f"{len(row)} clips against {len(real)}, {draws.over}, are too few for an interval."}
        (before, before_again), (after, again) = (distances.kernel_distances(real, x, draws) for x in sets)
        return {"of": "kad", "mean": before - after, "interval": draws.half_width(before_again - again), "over": draws.over}

    def _low(self, name: str, heard: Heard) -> Tensor:
        """(N, K, most) principal components of a row."""
        x = heard.embeddings[name]
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
    """As many components as the smallest count affords, `exact`ly `most` where wanted, or the sentence why not."""
    try:
        if exact:
            distances.check_counts(min(counts), min(counts), most)
        return distances.affordable_dimensions(counts, most)
    except TooFewSamples as error:
        return str(error)
