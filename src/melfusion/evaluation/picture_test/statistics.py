"""The statistics of the picture test: pure functions of numbers by item. Intervals are of 99 %, over items or pieces of music."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from melfusion.metrics.intervals import mean_interval, share

Z_99 = 2.5758293035489004  # the normal distribution's 99.5 % point

LEVEL = 0.01  # of a test

FLIPS = 9999  # random assignments of signs, or permutations

FOLDS = 8

RIDGE = 1.0  # in units of the mean square of a standardised feature vector


def grouped(values: Mapping[int, float], groups: Sequence[str]) -> list[float]:
    """Item → value as the means of groups, since items of one piece of music are not independent."""
    found: dict[str, list[float]] = {}
    for i, value in values.items():
        found.setdefault(groups[i], []).append(value)
    return [sum(some) / len(some) for some in found.values()]


def paired(a: Mapping[int, float], b: Mapping[int, float], groups: Sequence[str]) -> dict[str, Any] | None:
    """a - b over the items that have both: mean, half width, p of the signs, number of groups; None below two of these."""
    differences = grouped({i: a[i] - b[i] for i in a if i in b}, groups)
    if len(differences) < 2:
        return None
    mean, interval = mean_interval(differences, Z_99)
    return {"mean": mean, "interval": interval, "p": sign_flips(differences), "n": len(differences)}


def sign_flips(differences: Sequence[float], seed: int = 0) -> float:
    """One-sided p of paired differences: how often random signs give a mean at least as large (Fisher's randomisation test)."""
    values = torch.tensor(list(differences), dtype=torch.float64)
    signs = torch.randint(2, (FLIPS, len(values)), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
    observed = values.sum()
    least = observed - 1e-12 * values.abs().sum()  # the same sum in another order is as large
    return (1 + int((signs @ values >= least).sum())) / (FLIPS + 1)


def hits(predicted: Mapping[int, str], wanted: Mapping[int, str]) -> dict[int, float]:
    """Item → 1.0 where the predicted class is the wanted one, else 0.0; of the items that have both."""
    return {i: float(predicted[i] == wanted[i]) for i in predicted if i in wanted}


def accuracy(found: Mapping[int, float]) -> dict[str, float] | None:
    """Share of hits with its Wilson interval; None for none."""
    return share(int(sum(found.values())), len(found), Z_99) if found else None


def permuted(predicted: Mapping[int, str], wanted: Mapping[int, str]) -> float:
    """The accuracy that is expected with the pictures permuted: over all pairs of a sound and another item's class."""
    both = [i for i in predicted if i in wanted]
    pairs = len(both) * (len(both) - 1)
    return sum(predicted[i] == wanted[j] for i in both for j in both if i != j) / pairs if pairs else 0.0


def followed(
    right: Mapping[int, str],
    bright: Mapping[int, str],
    none: Mapping[int, str],
    wanted: Mapping[int, str],
    comparable: Sequence[int],
    classes: int,
    groups: Sequence[str],
) -> dict[str, Any] | None:
    """Is the class of the right picture predicted from the sound, and not with a picture that is as bright and of another class?

    Args:
        right, bright, none: predicted classes with the right picture, one that is as bright, and none.
        wanted: class of the right picture.  comparable: the items whose other picture is of another class.
        classes: how many there are.
    Returns None without a sound; `follows` is the rule, `brightness` says that brightness explains what is right.
    """
    own = hits(right, wanted)
    if (found := accuracy(own)) is None:
        return None
    other = {i: hit for i, hit in hits(bright, wanted).items() if i in set(comparable)}
    gain = paired(own, other, groups)
    chance = {"chance": 1 / classes, "permuted": permuted(right, wanted)}
    above = found["low"] > max(chance.values())
    gained = gain is not None and gain["mean"] > gain["interval"]
    return {
        "right": found,
        "as bright": accuracy(other),
        "none": accuracy(hits(none, wanted)),
        **chance,
        "gain": gain,
        "follows": above and gained,
        "brightness": above and not gained,
    }


def probe(features: Mapping[int, Tensor], others: Mapping[int, Tensor], wanted: Mapping[int, str]) -> tuple[dict[int, str], ...]:
    """Classes predicted by ridge regression that was fitted on the sounds of other items, with their right pictures.

    Args:
        features: item → (D,) of its sound with the right picture.  others: the same of another row, which is only predicted.
    Returns (item → class, item → class) of the two. No item is predicted by a fit that has seen it.
    """
    items = [i for i in sorted(features) if i in wanted]
    classes = sorted({wanted[i] for i in items})
    found: tuple[dict[int, str], dict[int, str]] = ({}, {})
    for fold in range(min(FOLDS, len(items))):
        held = items[fold::FOLDS]
        fitted = [i for i in items if i not in set(held)]
        if not fitted:
            continue
        weights = ridge(torch.stack([features[i] for i in fitted]), [classes.index(wanted[i]) for i in fitted], len(classes))
        for row, into in zip((features, others), found, strict=True):
            into.update({i: classes[int(weights(row[i]).argmax())] for i in held if i in row})
    return found


def ridge(features: Tensor, classes: list[int], count: int) -> Any:
    """(N, D) and the class of each → a function of (D,): `count` scores, by least squares on indicators with a penalty."""
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
    x = (features - mean) / deviation / features.shape[1] ** 0.5  # so that |x|² is about 1
    y = torch.nn.functional.one_hot(torch.tensor(classes), count).double()
    kernel = x @ x.T + RIDGE * torch.eye(len(x), dtype=x.dtype)
    weights = x.T @ torch.linalg.solve(kernel, y - y.mean(0))
    return lambda one: ((one - mean) / deviation / features.shape[1] ** 0.5) @ weights + y.mean(0)
