"""Which sample comes when, and every random number that belongs to it: pure functions of (seed, position).

A training run is one endless sequence of positions 0, 1, 2, …. Position p belongs to epoch p // n and holds sample
permutation(seed, epoch)[p % n]. So each epoch holds each sample once, nothing depends on processes, workers or devices, and the
whole state of the order is the number of samples consumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from melfusion.errors import DataError
from melfusion.randomness import generator


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """(n,) order of the samples in one epoch."""
    return generator(seed, "order", epoch).permutation(n)


def sample_index(seed: int, position: int, n: int) -> int:
    """Global position → index of its sample."""
    epoch, place = divmod(position, n)
    return int(permutation(seed, epoch, n)[place])


def substitute_index(seed: int, position: int, attempt: int, n: int) -> int:
    """Index of the sample that replaces one that cannot be read at this position."""
    return int(generator(seed, "substitute", attempt, position).integers(n))


def spread(all_of: Sequence[Any], n: int) -> list[Any]:
    """At most n of them, evenly, since neighbours may all come from one track."""
    total, n = len(all_of), min(n, len(all_of))
    return [all_of[i * total // n] for i in range(n)]  # none for n = 0


class TrainBatches:
    """Batch sampler of one rank: yields lists of global positions, from `consumed` on, without end.

    Step k holds the positions [k·G, (k+1)·G) over all ranks, with G = micro · world · accumulate, however G is divided.
    """

    def __init__(self, micro_batch_size: int, rank: int, world_size: int, consumed: int = 0):
        self.micro, self.rank, self.world, self.consumed = micro_batch_size, rank, world_size, consumed

    def __iter__(self) -> Iterator[list[int]]:
        start = self.consumed + self.rank * self.micro
        while True:
            yield list(range(start, start + self.micro))
            start += self.world * self.micro


class EvalBatches:
    """Batch sampler of one rank over items 0 … n-1, each once over all ranks: in order, striding over ranks.

    Every rank has the same number of batches, and none of them is empty, since a step may hold a collective operation. So n must
    be at least world_size, and a batch may hold one item more than batch_size where another rank would otherwise have none.
    """

    def __init__(self, n: int, batch_size: int, rank: int = 0, world_size: int = 1):
        if n < world_size and n > 0:
            raise DataError(
                f"{n} samples cannot be shared by {world_size} ranks: give at least one to each (data.val_items, "
                "data.splits) or use fewer devices."
            )
        self.items = range(rank, n, world_size)
        self.batch_size = batch_size
        self.batches = min(-(-n // (batch_size * world_size)), n // world_size)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        n, m = len(self.items), self.batches
        cuts = [min(i * self.batch_size, n) for i in range(m + 1)]
        if -(-n // self.batch_size) != m:  # full batches would be one fewer, or one more, than another rank's
            cuts = [i * n // m for i in range(m + 1)]
        for start, stop in pairwise(cuts):
            yield list(self.items[start:stop])
