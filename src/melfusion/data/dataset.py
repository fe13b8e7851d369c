"""MusicDataset: global position → a sample with its own random draws. A bad sample is replaced at its position."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from typing import Any

from torch.utils.data import Dataset

from melfusion import randomness
from melfusion.data import order
from melfusion.data.entries import Entries
from melfusion.data.reading import SampleReader
from melfusion.data.shards import CACHE_EXT, count_pictures, crop_ext
from melfusion.errors import BadSample, DataError

log = logging.getLogger(__name__)

MAX_SUBSTITUTES = 16  # tried at one position before the run stops


class MusicDataset(Dataset):
    """Map-style: global position → sample dict with its own random draws. A bad sample is replaced at its position.

    A data set never changes: `first`, `spread`, `pick`, `only` and `readable` return a new one of some of its entries.

    Args:
        entries: the samples, in their order.
        training: positions run on without end in shuffled epochs; otherwise position p is entry p.
        noise_shapes: shapes of the normal draws of a sample, by stream name.
    """

    def __init__(self, reader: SampleReader, entries: Entries, seed: int, training: bool, noise_shapes: dict[str, tuple[int, ...]]):
        self.reader, self.entries, self.seed = reader, entries, seed
        self.training, self.noise_shapes = training, noise_shapes

    def __len__(self) -> int:
        return len(self.entries)

    def pick(self, places: Iterable[int]) -> MusicDataset:
        """The entries at these places (0 … len - 1), in the order given."""
        return MusicDataset(self.reader, self.entries.pick(places), self.seed, self.training, self.noise_shapes)

    def first(self, n: int) -> MusicDataset:
        """At most the first `n` entries."""
        return self.pick(range(min(n, len(self))))

    def spread(self, n: int) -> MusicDataset:
        """At most `n` entries, evenly over all."""
        return self.pick(order.spread(range(len(self)), n))

    def only(self, keys: Collection[str]) -> MusicDataset:
        """The entries with these keys, in the order that they have here."""
        return self.pick(place for place, entry in enumerate(self.entries) if entry.key in keys)

    def readable(self) -> MusicDataset:
        """The entries that can be read; the others are logged. Training replaces a bad sample, a score must not."""
        kept, bad = [], []
        for place, entry in enumerate(self.entries):
            try:
                self.reader(entry, 0.0)
                kept.append(place)
            except BadSample as error:
                bad.append(f"{entry.shard}:{entry.key}, {error}")
        if bad:
            log.warning(
                "%s: %d of %d items cannot be read and are not scored, the first %s",
                self.reader.shards.folder,
                len(bad),
                len(self.entries),
                bad[0],
            )
        return self.pick(kept)

    def __getitem__(self, position: int) -> dict[str, Any]:
        n = len(self.entries)
        index = order.sample_index(self.seed, position, n) if self.training else position % n
        random_crop = self.training and self.reader.data.crop == "random"
        replaced: list[tuple[str, str]] = []
        for attempt in range(MAX_SUBSTITUTES):
            entry = self.entries[index]
            cropped = random_crop and (CACHE_EXT not in entry.members or crop_ext(1) in entry.members)
            crop = randomness.generator(self.seed, "crop", 0, position).random() if cropped else 0.0
            several = self.training and count_pictures(entry.members) > 1
            picture = randomness.generator(self.seed, "picture", 0, position).random() if several else 0.0
            try:
                item = self.reader(entry, crop, picture)
                draws = randomness.draws(self.seed, position, self.noise_shapes)
                return item | {"position": position, "draws": draws, "replaced": replaced}
            except BadSample as error:
                replaced.append((f"{entry.shard}:{entry.key}", str(error)))
                index = order.substitute_index(self.seed, position, attempt, n)
        raise DataError(
            f"{self.reader.shards.folder}: {MAX_SUBSTITUTES} samples in a row could not be read, the last for "
            f"{replaced[-1][1]!r}; check or rebuild the data set."
        )
