"""Several processes that build one data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from melfusion.errors import DataError


@dataclass(frozen=True)
class Ranks:
    """Which of them this process is. By default it is alone.

    Args:
        meet: called by all ranks with a plain value; gives those of all, by rank.
    """

    number: int = 0
    world: int = 1
    meet: Callable[[Any], list[Any]] = lambda value: [value]

    @property
    def first(self) -> bool:
        return self.number == 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """All ranks meet at its end. Where one failed, each leaves with an error: its own, or a DataError that says the other's."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        said = self.meet(failure and (str(failure) or type(failure).__name__))
        if failure:
            raise failure
        if other := next((sentence for sentence in said if sentence), None):
            raise DataError(other)
