"""index.json: written from the shards of a folder, and read. An index may come from anywhere, so each name, number and nesting
is checked before it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from melfusion.data import tars
from melfusion.errors import DataError
from melfusion.files import write_whole

INDEX_VERSION = 1

# no path, control character or half a code point, since these names are joined to folders, logged and compared
SHARD_NAME = re.compile(r"(?!\.)[^/\\:\x00-\x1f\ud800-\udfff]{1,250}\.tar")

KEY = re.compile(r"[^./\\\x00-\x1f\ud800-\udfff]{1,250}")

EXTENSION = re.compile(r"[^/\\\x00-\x1f\ud800-\udfff]{0,250}")

DIGEST = re.compile(r"[0-9a-f]{64}")

BLOCK = 1 << 20  # bytes read at a time

MEMBER_DIGITS = 32  # of a member's SHA-256: 128 bits, at half the size of an index of a million samples

MEMBER_DIGESTS = re.compile(rf"(?:[0-9a-f]{{{MEMBER_DIGITS}}})*")


def parse_index(text: bytes, where: str, max_shard_members: int) -> dict[str, Any]:
    """The tree of an index, checked; DataError names the place that is wrong."""
    try:
        tree = json.loads(text)
        version = tree["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where} is damaged ({type(error).__name__}): rebuild the index.") from error
    if version != INDEX_VERSION:
        raise DataError(f"{where} has version {str(version)[:40]}, this code reads {INDEX_VERSION}: rebuild it.")
    if wrong := _wrong(tree, max_shard_members):
        raise DataError(f"{where} is damaged ({wrong}): rebuild the index.")
    return tree


def _wrong(tree: dict[str, Any], max_shard_members: int) -> str | None:
    """In words, what is wrong with an index; None for nothing."""
    if not isinstance(tree.get("info"), dict) or not isinstance(tree.get("shards"), list):
        return "info or shards is missing"
    names = set()
    for number, shard in enumerate(tree["shards"]):
        if not isinstance(shard, dict) or not _text(SHARD_NAME, name := shard.get("name")) or name in names:
            return f"shard {number} has no name of its own that ends in .tar"
        names.add(name)
        if not _count(shard.get("bytes")) or not _text(DIGEST, shard.get("sha256")):
            return f"{name} lacks its bytes or its sha256"
        if not isinstance(shard.get("samples"), list):
            return f"{name} lacks its samples"
        total = 0
        for sample in shard["samples"]:
            if wrong := _wrong_sample(sample, shard["bytes"]):
                return f"{name}: {wrong}"
            total += len(sample["members"])
        if total > max_shard_members:
            return f"{name} has {total} members, more than data.max_shard_members={max_shard_members}"
    return None


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
