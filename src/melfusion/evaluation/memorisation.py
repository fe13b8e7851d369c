"""Are generated clips copies of training clips? Their nearest neighbours are compared with those of real held-out clips."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from melfusion.evaluation.scoring import Predictions
from melfusion.metrics.intervals import wilson

SHOWN = 5  # pairs in `closest`


def nearest(clips: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Clips (N, D), others (M, D) → distance to the nearest of the others, and its index, both (N,)."""
    found = torch.cdist(clips, others, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    return found.values, found.indices


def memorisation(
    row: Predictions, real: Predictions, held_out: Predictions, train: Predictions, tracks: list[str]
) -> dict[str, dict[str, Any]]:
    """Embedder → how near the clips of a row are to training clips, compared with real clips that no model was trained on.

    `nearer`: the share of clips that are closer to a training clip than the median real held-out clip is. New music of the
    same kind has about 0.5; far more means copies. The Wilson interval counts each of the `tracks` once, since clips of one
    track may all be alike.
    `ratio`: the median of (distance to the nearest training clip / distance to the nearest `held_out` clip).
    `ratio_real`: the same for the `real` clips of the row's items.
    `closest`: the pairs with the smallest distances, by key.
    """
    found = {}
    for name in train.embeddings:
        known, ours, theirs, others = (h.embeddings[name].double().mean(1) for h in (train, row, real, held_out))
        distance, which = nearest(ours, known)
        real_distance, _ = nearest(theirs, known)
        usual = real_distance.median()
        order = distance.argsort()[:SHOWN].tolist()
        nearer, over = (distance < usual).double().mean().item(), len(set(tracks))
        low, high = wilson(nearer * over, over)
        found[name] = {
            "nearer": {"accuracy": nearer, "low": low, "high": high, "n": over},
            "median_real": usual.item(),
            "ratio": _ratio(distance, ours, others),
            "ratio_real": _ratio(real_distance, theirs, others),
            "closest": [{"clip": row.keys[i], "train": train.keys[which[i]], "distance": distance[i].item()} for i in order],
        }
    return found


def _ratio(distance: Tensor, clips: Tensor, others: Tensor) -> float:
    return (distance / nearest(clips, others)[0].clamp(min=1e-12)).median().item()
