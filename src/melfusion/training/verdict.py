"""What is known of an optimizer step before it is judged: one small vector that the ranks add up, and the samples of the step."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from melfusion.batch import MusicBatch
from melfusion.files import write_json
from melfusion.randomness import KEY, STREAMS

log = logging.getLogger(__name__)

# The vector: two means over ranks; how many ranks have something not finite (`output` is the loss); how many ranks were asked to
# stop; how many of those because the time of the job is up, after which it is to be started again
VECTOR = ("loss", "grad_norm", "input", "output", "gradient", "stop", "time_is_up")
NOT_FINITE = VECTOR[2:5]


@dataclasses.dataclass
class Step:
    """An optimizer step that is computed and not yet judged.

    Args:
        samples: per micro-batch the keys and the positions (B,) of its samples.
        vector: (7,) numbers named by VECTOR, on their way to the host.
        event: recorded after the copy on a GPU; None where the vector may be read at once.
    """

    number: int
    samples: list[dict[str, Any]]
    vector: Tensor
    event: Any = None

    def read(self) -> dict[str, float]:
        """Name → number."""
        if self.event is not None:
            self.event.synchronize()  # this step's backward pass has long ended: the next one's is queued
        return dict(zip(VECTOR, self.vector.tolist(), strict=True))

    def describe(self, folder: Path, rank: int, seed: int, seen: dict[str, float], why: list[str]) -> Path:
        """Write a JSON file of what the step was made of. Its random numbers follow from seed and positions (randomness.py)."""
        file = folder / f"step-{self.number:09d}-rank{rank}.json"
        tree = {
            "step": self.number,
            "why": why,
            "seen": {k: v if abs(v) < float("inf") else str(v) for k, v in seen.items()},
            "micro_batches": [{"keys": s["keys"], "positions": s["positions"].tolist()} for s in self.samples],
            "generator": {"kind": "Philox", "key": [seed, KEY], "streams": STREAMS},
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(file, tree)
        except OSError as error:
            log.warning("%s cannot be written (%s).", file, error.strerror)
        return file


def threshold(usual: deque[float], factor: float) -> float:
    """Median plus `factor` robust standard deviations (1.4826 median absolute deviations) of recent losses."""
    middle = statistics.median(usual)
    return middle + factor * max(1.4826 * statistics.median(abs(x - middle) for x in usual), 1e-3 * abs(middle))


def not_finite(batch: MusicBatch) -> Tensor:
    """() bool: does any floating tensor of the batch hold NaN or infinity? One pass on the device finds least and largest."""
    tensors: list[Tensor] = []
    batch.map_tensors(lambda t: tensors.append(t) if t.is_floating_point() and t.numel() else None)
    return ~torch.stack([end for t in tensors for end in torch.aminmax(t)]).isfinite().all()


def to_host(vector: Tensor) -> tuple[Tensor, Any]:
    """A copy for the host that nobody waits for yet, and the event after which it may be read (None: at once)."""
    if not vector.is_cuda:
        return vector, None
    host = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
    host.copy_(vector, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event
