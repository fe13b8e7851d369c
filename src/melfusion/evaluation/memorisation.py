"""Is generated music copied from training clips? Nearest neighbours in an embedder's space, beside those of real held-out clips."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from melfusion.evaluation.scoring import Heard
from melfusion.metrics.intervals import wilson

SHOWN = 5  # closest pairs that are named


def nearest(clips: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D), (M, D) → distance to the nearest of the others and its number, both (N,)."""
    found = torch.cdist(clips, others, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    return found.values, found.indices


def memorisation(row: Heard, real: Heard, held_out: Heard, train: Heard, tracks: list[str]) -> dict[str, dict[str, Any]]:
    """Embedder → how near a row comes to training clips, compared with how near real clips do that were not trained on.

    `nearer`: share of the row's clips that are closer to a training clip than the median real held-out clip is; half is what
    new music of the same kind has, far more is a copy. Its interval (Wilson's) counts each of the `tracks` of the row's items
    once, since clips of one track may all be alike.
    `ratio`: median of the distance to the nearest training clip over that to the nearest of `held_out`; `ratio_real`: the
    same of the `real` clips of the row's items.
    `closest`: the pairs to listen to, by key.
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
