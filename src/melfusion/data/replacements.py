"""How many training samples could not be used, by shard and reason, over all ranks and across resumes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch.distributed

SHOWN = 100  # pairs of shard and reason that are logged, the most frequent ones


class Replacements:
    """Each rank counts its own samples. `gather` adds the ranks up; every rank calls it at validation and at checkpoints.

    After a gather the sums are the same on every rank. So a checkpoint holds those of the whole run, and any number of ranks can go
    on from it.
    """

    def __init__(self) -> None:
        self.gathered: Counter[tuple[str, str]] = Counter()  # of all ranks, up to the last gather
        self.mine: Counter[tuple[str, str]] = Counter()  # of this rank, since then
        self.gathered_seen = self.mine_seen = 0

    def add(self, pairs: list[tuple[str, str]], seen: int) -> None:
        """(`shard:key`, reason) of what was replaced in a batch of `seen` samples."""
        self.mine.update((place.partition(":")[0], reason) for place, reason in pairs)
        self.mine_seen += seen

    def gather(self) -> None:
        """Add up over ranks. Every rank must call it, or the others wait without end."""
        parts: list[Any] = [(self.mine, self.mine_seen)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, (self.mine, self.mine_seen))
        for counts, seen in parts:
            self.gathered.update(counts)
            self.gathered_seen += seen
        self.mine, self.mine_seen = Counter(), 0

    @property
    def by_shard(self) -> Counter[tuple[str, str]]:
        """(shard, reason) → count: of all ranks up to the last gather, of this one since."""
        return self.gathered + self.mine

    @property
    def by_reason(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for (_, reason), count in self.by_shard.items():
            counts[reason] += count
        return counts

    @property
    def bad(self) -> int:
        """How many were replaced."""
        return self.gathered.total() + self.mine.total()

    @property
    def seen(self) -> int:
        """Samples used."""
        return self.gathered_seen + self.mine_seen

    def scalars(self) -> dict[str, int]:
        """What TensorBoard and metrics.jsonl show."""
        shards = self.by_shard.most_common(SHOWN)
        return {f"data/replaced/{reason}": count for reason, count in self.by_reason.items()} | {
            f"data/replaced_by_shard/{shard}/{reason}": count for (shard, reason), count in shards
        }

    def state(self) -> dict[str, Any]:
        """Plain containers for a checkpoint."""
        return {"seen": self.gathered_seen, "counts": [[*pair, count] for pair, count in sorted(self.gathered.items())]}

    def load(self, state: dict[str, Any]) -> None:
        self.mine, self.mine_seen = Counter(), 0
        self.gathered_seen = state["seen"]
        self.gathered = Counter({(shard, reason): count for shard, reason, count in state["counts"]})
