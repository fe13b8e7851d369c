"""Which other picture a validation item is shown beside its own: always the same one, however the set is cut into batches."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from melfusion.data.dataset import MusicDataset


class WithPartners(Dataset):
    """The items of a data set, each with the item half the set away as `other`; a set of one item is its own partner."""

    def __init__(self, dataset: MusicDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> dict[str, Any]:
        n = len(self.dataset)
        return self.dataset[position] | {"other": self.dataset[(position + n // 2) % n]}
