"""MusicDataset: a global position → a sample with its own random draws; bad samples are replaced in place."""

from __future__ import annotations

import logging
from typing import Any

from torch.utils.data import Dataset

from melfusion.data import order
from melfusion.data.reading import SampleReader
from melfusion.errors import BadSample, DataError
from melfusion.randomness import draws, generator

log = logging.getLogger(__name__)

MAX_SUBSTITUTES = 16  # stand-ins tried at one position before the run stops


class MusicDataset(Dataset):
    """Map-style: global position → sample dict with its own random draws; bad samples are replaced in place."""

    def __init__(self, reader: SampleReader, split: str, seed: int, training: bool, noise_shapes: dict[str, tuple]):
        self.reader, self.seed, self.training, self.noise_shapes = reader, seed, training, noise_shapes
        self.entries = reader.entries = reader.shards.entries(split)

    def __len__(self) -> int:
        return len(self.entries)

    def spread(self, n: int) -> MusicDataset:
        """Keep at most `n` entries, evenly over the split."""
        self.entries = order.spread(self.entries, n)
        return self

    def first(self, n: int) -> MusicDataset:
        """Keep the first `n` entries."""
        self.entries = self.entries[:n]
        return self

    def readable(self) -> MusicDataset:
        """Keep what can be read, and say what is left out: in training another sample may stand in, in a score none may."""
        kept, bad = [], []
        for entry in self.entries:
            try:
                self.reader(entry, 0.0)
                kept.append(entry)
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
        self.entries = kept
        return self

    def __getitem__(self, position: int) -> dict[str, Any]:
        n = len(self.entries)
        index = order.sample_index(self.seed, position, n) if self.training else position % n
        random_crop = self.training and self.reader.data.crop == "random"
        crop = generator(self.seed, "crop", 0, position).random() if random_crop else 0.0
        replaced = []
        for attempt in range(MAX_SUBSTITUTES):
            entry = self.entries[index]
            try:
                item = self.reader(entry, crop)
                own = draws(self.seed, position, self.noise_shapes)
                return item | {"position": position, "draws": own, "replaced": replaced}
            except BadSample as error:
                replaced.append((f"{entry.shard}:{entry.key}", str(error)))
                index = order.substitute_index(self.seed, position, attempt, n)
        raise DataError(
            f"{self.reader.shards.folder}: {MAX_SUBSTITUTES} samples in a row could not be read, the last for "
            f"{replaced[-1][1]!r}; check or rebuild the data set."
        )
