"""index.json: written from the shards of a folder, and read. An index may come from anywhere, so each name, number and nesting
is checked before it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import numpy as np

from melfusion.data import tars
from melfusion.data.entries import MEMBER_DIGITS, Columns, Table
from melfusion.data.json_parts import parts
from melfusion.errors import DataError
from melfusion.files import write_whole

INDEX_VERSION = 1

# no path, control character or half a code point, since these names are joined to folders, logged and compared
SHARD_NAME = re.compile(r"(?!\.)[^/\\:\x00-\x1f\ud800-\udfff]{1,250}\.tar")

KEY = re.compile(r"[^./\\\x00-\x1f\ud800-\udfff]{1,250}")

KEYS = re.compile(rf"{KEY.pattern}(?:\n{KEY.pattern})*")

EXTENSION = re.compile(r"[^/\\\x00-\x1f\ud800-\udfff]{0,250}")

DIGEST = re.compile(r"[0-9a-f]{64}")

BLOCK = 1 << 20  # bytes read at a time

MEMBER_DIGESTS = re.compile(rf"(?:[0-9a-f]{{{MEMBER_DIGITS}}})*")


@dataclass
class Index:
    """A checked index: its shards as `{"name", "bytes", "sha256", "samples": how many}`, and their samples."""

    info: dict[str, Any]
    shards: list[dict[str, Any]]
    table: Table


def parse_index(text: bytes, where: str, max_shard_members: int) -> Index:
    """The index of these bytes, checked; DataError names the place that is wrong.

    It is read shard by shard, since a million samples as Python objects take more than a gigabyte.
    """
    found, shards = {}, Shards(max_shard_members)
    try:
        for name, value in parts(text, "shards"):
            if name == "version" and value != INDEX_VERSION:
                raise DataError(f"{where} has version {str(value)[:40]}, this code reads {INDEX_VERSION}: rebuild it.")
            found[name] = value
            for shard in value if isinstance(value, Iterator) else ():
                if wrong := shards.add(shard):
                    raise DataError(f"{where} is damaged ({wrong}): rebuild the index.")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is damaged ({type(error).__name__}): rebuild the index.") from error
    info = found.get("info")
    if "version" not in found or not isinstance(info, dict) or not isinstance(found.get("shards"), Iterator):
        raise DataError(f"{where} is damaged (version, info or shards is missing): rebuild the index.")
    return Index(info, shards.heads, Table([head["name"] for head in shards.heads], shards.layouts, shards.columns))


class Shards:
    """The shards of an index that is being read."""

    def __init__(self, max_members: int):
        self.max_members = max_members
        self.names: set[str] = set()
        self.heads: list[dict[str, Any]] = []
        self.layouts: dict[tuple[str, ...], int] = {}  # extensions of a sample's members → number
        self.columns: list[Columns] = []

    def add(self, shard: Any) -> str | None:
        """Take one more shard; in words, what is wrong with it, or None."""
        head: Any = shard if isinstance(shard, dict) else {}
        name, size, sha256, samples = (head.get(part) for part in ("name", "bytes", "sha256", "samples"))
        if not _text(SHARD_NAME, name) or name in self.names:
            return f"shard {len(self.heads)} has no name of its own that ends in .tar"
        if not _count(size) or not _text(DIGEST, sha256):
            return f"{name} lacks its bytes or its sha256"
        if not isinstance(samples, list):
            return f"{name} lacks its samples"
        if (columns := columns_of(samples, size, self.layouts)) is None:
            wrong = next(filter(None, (_wrong_sample(sample, size) for sample in samples)), "its samples cannot be read")
            return f"{name}: {wrong}"
        if len(columns.places) > self.max_members:
            return f"{name} has {len(columns.places)} members, more than data.max_shard_members={self.max_members}"
        self.names.add(name)
        self.heads.append({"name": name, "bytes": size, "sha256": sha256, "samples": len(samples)})
        self.columns.append(columns)
        return None


def columns_of(samples: list[Any], size: int, layouts: dict[tuple[str, ...], int]) -> Columns | None:
    """Samples of a shard of `size` bytes as arrays, all checked at once; None if `_wrong_sample` finds one of them wrong."""
    if not _all(samples, dict):
        return None
    try:
        keys, members = (list(map(itemgetter(name), samples)) for name in ("key", "members"))
    except KeyError:
        return None
    if not (_all(keys, str) and _all(members, dict)):
        return None
    joined = "\n".join(keys)
    if samples and not (KEYS.fullmatch(joined) and joined.count("\n") == len(keys) - 1):
        return None
    exts, counts = list(map(tuple, members)), list(map(len, members))
    new = [layout for layout in dict.fromkeys(exts) if layout not in layouts]
    places, digests = _places(members, size), _digests(samples, counts)
    if places is None or digests is None or not all(EXTENSION.fullmatch(ext) for layout in new for ext in layout):
        return None
    layouts.update(zip(new, count(len(layouts)), strict=False))
    return Columns(
        keys="".join(keys).encode(),
        key_bytes=np.array(list(map(len, keys if joined.isascii() else map(str.encode, keys))), np.int64),
        layout=np.array(list(map(layouts.__getitem__, exts)), np.int32),
        members=np.array(counts, np.int64),
        places=places,
        known=np.array(digests[0], bool),
        digests=digests[1],
    )


def _places(members: list[dict[str, Any]], size: int) -> np.ndarray | None:
    """(M, 2) offsets and lengths; None where one is no such pair, or leads out of the shard."""
    pairs = list(chain.from_iterable(map(dict.values, members)))
    if not _all(pairs, list) or set(map(len, pairs)) - {2}:
        return None
    numbers = list(chain.from_iterable(pairs))
    if not _all(numbers, int) or not 0 <= min(numbers, default=0) <= max(numbers, default=0) < 1 << 62:
        return None
    places = np.array(numbers, np.int64).reshape(-1, 2)
    return places if (places[:, 0] >= 512).all() and (places.sum(1) <= size).all() else None


def _digests(samples: list[dict[str, Any]], counts: list[int]) -> tuple[list[bool], np.ndarray] | None:
    """By sample: has it digests? And (M, 16) bytes; None where there are others than one for each member."""
    digests: list[Any] = [sample.get("digests") for sample in samples]  # older indexes have none
    known = [digest is not None for digest in digests]
    if not _all(digests, str, type(None)):
        return None
    lengths = [MEMBER_DIGITS * n for n in counts]
    whole = digests if all(known) else ["0" * n if digest is None else digest for digest, n in zip(digests, lengths, strict=True)]
    if list(map(len, whole)) != lengths or not MEMBER_DIGESTS.fullmatch(joined := "".join(whole)):
        return None
    return known, np.frombuffer(bytes.fromhex(joined), np.uint8).reshape(-1, MEMBER_DIGITS // 2)


def _all(values: list[Any], *types: type) -> bool:
    """Is each value of just one of these types? A bool is no int."""
    return set(map(type, values)) <= set(types)


def _wrong_sample(sample: Any, size: int) -> str | None:
    if not isinstance(sample, dict) or not _text(KEY, sample.get("key")) or not isinstance(sample.get("members"), dict):
        return "a sample lacks a key without dot and slash, or its members"
    for ext, place in sample["members"].items():
        pair = isinstance(place, list) and len(place) == 2 and all(map(_count, place))
        if not pair or place[0] < 512 or place[0] + place[1] > size or not _text(EXTENSION, ext):
            return f"sample {sample['key']!r:.60} has a member that cannot lie where it says"
    digests = sample.get("digests")  # older indexes have none
    if digests is not None and not (_text(MEMBER_DIGESTS, digests) and len(digests) == MEMBER_DIGITS * len(sample["members"])):
        return f"sample {sample['key']!r:.60} has other digests than one for each member"
    return None


def _text(pattern: re.Pattern, value: Any) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def write_index(folder: str | Path, info: dict[str, Any] | None = None) -> None:
    """Scan every shard in `folder` and write index.json (also for shards that others wrote)."""
    folder = Path(folder)
    shards = [_scan(path) for path in sorted(folder.glob("*.tar"))]
    if not shards:
        raise DataError(f"{folder} holds no *.tar shards: build some with `make shards` (see data/README.md).")
    tree = {"version": INDEX_VERSION, "info": info or {}, "shards": shards}
    write_whole(folder / "index.json", json.dumps(tree, ensure_ascii=False), lasting=True)


def member_digest(blocks: Iterable[bytes]) -> str:
    """The digest that an index has of a member's bytes: the first half of their SHA-256."""
    found = hashlib.sha256()
    for block in blocks:
        found.update(block)
    return found.hexdigest()[:MEMBER_DIGITS]


def _scan(path: Path) -> dict[str, Any]:
    """One shard's part of the index: where its members lie, and their digests."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            for tar, member, key, ext in tars.members(file):  # offsets into a compressed tar would lead nowhere
                found = samples.setdefault(key, {})
                if ext in found:
                    raise DataError(f"{path} holds two members {key}.{ext}: keys must differ up to their first dot.")
                if not (KEY.fullmatch(key) and EXTENSION.fullmatch(ext)) or tar.offset > size:
                    raise DataError(f"{path} is damaged or hostile (the member {member.name!r:.80}): build or copy it again.")
                found[ext] = (member.offset_data, member.size)
        except DataError:
            raise
        except Exception as error:  # hostile headers provoke anything from TarError to RecursionError
            words = " ".join(str(error).split())[:200]
            raise DataError(f"{path} is damaged or no plain tar ({words}): build or copy it again.") from error
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(max(0, size - 1024))
        if file.read().strip(b"\0"):  # tarfile takes a file cut between two members for a whole one
            raise DataError(f"{path} is cut short: it lacks the two empty blocks that end a tar; copy it again.")
        entries = [
            {"key": key, "members": members, "digests": "".join(_blocks_digest(file, *place) for place in members.values())}
            for key, members in samples.items()
        ]
    return {"name": path.name, "bytes": size, "sha256": digest, "samples": entries}


def _blocks_digest(file: IO[bytes], offset: int, length: int) -> str:
    file.seek(offset)
    ends = range(0, length, BLOCK)
    return member_digest(file.read(min(BLOCK, length - start)) for start in ends)
