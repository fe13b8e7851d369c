"""Where the parts of a system are while it generates: all on one device, or each there only while it is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class Placement:
    """Parts stay where they are. Base of all placements."""

    @contextlib.contextmanager
    def needed(self, *parts: nn.Module | None) -> Iterator[None]:
        """Within it these parts are where the computation is; None stands for a part that the system does not have."""
        yield


class Offload(Placement):
    """Parts wait on the CPU and are moved to the device for as long as they are needed: less memory, at the price of the copies."""

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)

    @contextlib.contextmanager
    def needed(self, *parts: nn.Module | None) -> Iterator[None]:
        there = [part for part in parts if part is not None]
        try:
            for part in there:
                part.to(self.device)
            yield
        finally:
            for part in there:
                part.to("cpu")
