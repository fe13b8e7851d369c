"""The samples of an index as arrays: a million take 100 MB and no Python object each, and loader processes share them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np

MEMBER_DIGITS = 32  # of a member's SHA-256: 128 bits, at half the size of an index of a million samples


@dataclass(frozen=True)
class Entry:
    """Where one sample lies: shard file, its members' (offset, length), and their digests one after another."""

    key: str
    shard: str
    members: dict[str, tuple[int, int]]
    digests: str = ""

    def digest(self, ext: str) -> str:
        """The digest of one member (index.member_digest); empty where the index has none."""
        first = list(self.members).index(ext) * MEMBER_DIGITS
        return self.digests[first : first + MEMBER_DIGITS]


class Columns(NamedTuple):
    """Some samples, N of them with M members in all, which lie one sample's after another's."""

    keys: bytes  # UTF-8, without anything between them
    key_bytes: np.ndarray  # (N,) int64
    layout: np.ndarray  # (N,) int32: number of the extensions of its members
    known: np.ndarray  # (N,) bool: has it digests?
    members: np.ndarray  # (N,) int64: how many
    places: np.ndarray  # (M, 2) int64: offset, length
    digests: np.ndarray  # (M, 16) uint8; zeros where they are not known


INTEGERS = np.zeros(0, np.int64)

NOTHING = Columns(
    b"",
    INTEGERS,
    np.zeros(0, np.int32),
    np.zeros(0, bool),
    INTEGERS,
    INTEGERS.reshape(0, 2),
    np.zeros((0, MEMBER_DIGITS // 2), np.uint8),
)


class Table:
    """All samples of an index.

    Args:
        names: of the shards.
        layouts: the extensions of a sample's members, by number.
        parts: each shard's samples.
    """

    def __init__(self, names: list[str], layouts: Iterable[tuple[str, ...]], parts: list[Columns]):
        self.names, self.layouts = names, list(layouts)
        self.keys = b"".join(part.keys for part in parts)
        self.sizes = [len(part.layout) for part in parts]
        self.shard = np.repeat(np.arange(len(parts), dtype=np.int32), self.sizes)
        key_bytes, self.layout, self.known, members, self.places, self.digests = (
            np.concatenate(column) for column in list(zip(*(parts or [NOTHING]), strict=True))[1:]
        )
        self.key_ends, self.member_ends = np.cumsum(key_bytes), np.cumsum(members)

    def entry(self, row: int) -> Entry:
        exts = self.layouts[self.layout[row]]
        start = self.key_ends[row - 1] if row else 0
        end = int(self.member_ends[row])
        here = slice(end - len(exts), end)
        places = ((offset, length) for offset, length in self.places[here].tolist())
        digests = self.digests[here].tobytes().hex() if self.known[row] else ""
        key = self.keys[start : self.key_ends[row]].decode()
        return Entry(key, self.names[self.shard[row]], dict(zip(exts, places, strict=True)), digests)

    def of_shards(self, numbers: list[int]) -> Entries:
        """All samples of these shards, in index order."""
        return Entries(self, np.flatnonzero(np.isin(self.shard, numbers)))


class Entries(Sequence[Entry]):
    """Some samples of an index, in an order of their own. An Entry is made when it is asked for."""

    def __init__(self, table: Table, rows: np.ndarray):
        self.table, self.rows = table, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> Entries: ...
    def __getitem__(self, place: int | slice) -> Entry | Entries:
        if isinstance(place, slice):
            return Entries(self.table, self.rows[place])
        return self.table.entry(int(self.rows[place]))

    def __iter__(self) -> Iterator[Entry]:
        return map(self.table.entry, map(int, self.rows))

    def pick(self, places: Iterable[int]) -> Entries:
        """The entries at these places, in the order given."""
        return Entries(self.table, self.rows[np.fromiter(places, np.int64)])

    def having(self, exts: Iterable[str]) -> Entries:
        """Those with a member of any of these extensions."""
        wanted = np.array([not set(exts).isdisjoint(layout) for layout in self.table.layouts], bool)
        return Entries(self.table, self.rows[wanted[self.table.layout[self.rows]]])
