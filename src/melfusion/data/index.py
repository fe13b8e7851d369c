"""index.json as it comes from anywhere: every name, number and nesting is checked before it is used."""

from __future__ import annotations

import json
import re
from typing import Any

from melfusion.data.errors import DataError

INDEX_VERSION = 1
# never a path, a control character or half a code point: these names are joined to folders, logged and compared
SHARD_NAME = re.compile(r"(?!\.)[^/\\:\x00-\x1f\ud800-\udfff]{1,250}\.tar")
KEY = re.compile(r"[^./\\\x00-\x1f\ud800-\udfff]{1,250}")
EXTENSION = re.compile(r"[^/\\\x00-\x1f\ud800-\udfff]{0,250}")
DIGEST = re.compile(r"[0-9a-f]{64}")


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
    """What of an index is not as it must be, in words."""
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
    return None


def _text(pattern: re.Pattern, value: Any) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62
