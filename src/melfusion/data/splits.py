"""Train, val and test for paired data: samples that share a track or a picture stay in one split."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from melfusion.data.shards import SPLITS
from melfusion.errors import ConfigError


def components(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The name of the connected component of each (track, picture) pair: pairs that share a track or a picture are linked."""
    parent: dict[tuple[int, str], tuple[int, str]] = {}

    def root(node: tuple[int, str]) -> tuple[int, str]:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for track, picture in pairs:
        low, high = sorted((root((0, track)), root((1, picture))))
        parent[high] = low  # the smallest member names the component, so the order of pairs does not matter
    return [hashlib.sha256(root((0, track))[1].encode()).hexdigest()[:10] for track, _ in pairs]


def split_components(
    pairs: Sequence[tuple[str, str]],
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    weights: Sequence[float] | None = None,
) -> list[str]:
    """'train', 'val' or 'test' for every (track, picture) pair; a connected component is never split.

    In an order given by a hash, each component goes to val or test while its weight (of its pairs; 1 each by default)
    fits into their share, else to train. From three components on, no split is empty.
    """
    if len(ratios) != 3 or min(ratios) < 0 or sum(ratios) <= 0:
        raise ConfigError(f"split ratios {tuple(ratios)} are not three shares, of train, val and test: give e.g. 8 1 1.")
    names = components(pairs)
    weight: dict[str, float] = defaultdict(float)
    for name, amount in zip(names, weights if weights is not None else [1.0] * len(pairs), strict=True):
        weight[name] += amount
    room = {split: sum(weight.values()) * ratios[i] / sum(ratios) for i, split in enumerate(SPLITS) if i}
    chosen: dict[str, str] = {}
    for name in sorted(weight, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()):
        roomy = max(room, key=lambda split: room[split])
        fits = weight[name] <= room[roomy] + 1e-9
        chosen[name] = roomy if fits else "train"
        room[roomy] -= weight[name] if fits else 0
    for split in SPLITS if len(chosen) >= 3 else ():
        if split not in chosen.values():
            held = Counter(chosen.values())
            chosen[min((n for n in chosen if held[chosen[n]] > 1), key=lambda n: (weight[n], n))] = split
    return [chosen[name] for name in names]
