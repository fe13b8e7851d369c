"""The shard format: the index beside the shards, and reading one member by seeking. Shards are written by writing.py.

A data set is a folder of tar files `<split>-000000.tar` (webdataset's layout) and one `index.json`:
`{"version": 1, "info": {...}, "shards": [{"name", "bytes", "sha256", "samples":
[{"key", "members": {ext: [offset, length]}, "digests": "…"}]}]}`; `digests` has 32 hex digits of each member's SHA-256.
With the index each sample has an address, so the order of samples can be a pure function (`order.py`).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from melfusion.data import tars
from melfusion.data.entries import Entries, Entry
from melfusion.data.index import Index, member_digest, parse_index
from melfusion.data.options import DataConfig
from melfusion.data.storage import Folder, Remote, open_storage
from melfusion.errors import BadSample, DataError, shown

AUDIO_EXTS = ("flac", "wav", "mp3", "ogg")

IMAGE_EXTS = ("png", "jpg", "jpeg", "webp")

CACHE_EXT = "latents.safetensors"

SPLITS = ("train", "val", "test")


def crop_ext(number: int) -> str:
    """Extension of the member that holds the latents of a further crop, from 1 on, of a precomputed sample."""
    return f"crop{number}.{CACHE_EXT}"


def picture_ext(number: int, ext: str) -> str:
    """Extension of a further picture, from 1 on, as webdataset names a second member of a kind; readers that know one skip it."""
    return f"{number}.{ext}"


def pictured_ext(number: int) -> str:
    """Extension of the member that holds what the image encoder reads from a further picture of a precomputed sample."""
    return f"picture{number}.{CACHE_EXT}"


def pictures_in(exts: Collection[str]) -> list[str]:
    """Extensions of a sample's pictures, in order: of the first, then of those with a number."""
    first = next((ext for ext in IMAGE_EXTS if ext in exts), None)
    if first is None:
        return []
    parts = ((ext, *ext.split(".", 1)) for ext in exts if "." in ext)
    further = [(int(number), ext) for ext, number, kind in parts if number.isdecimal() and kind in IMAGE_EXTS]
    return [first, *(ext for _, ext in sorted(further))]


def count_pictures(exts: Collection[str]) -> int:
    """How many pictures there are to draw from, in a sample or in a precomputed one."""
    if CACHE_EXT in exts:
        return 1 + sum(ext.startswith("picture") for ext in exts)
    return len(pictures_in(exts))


@dataclass
class Sample:
    """One ⟨audio, image, text⟩ on its way into a shard. `meta` holds caption, title, source, license, split, labels."""

    key: str
    audio: bytes
    audio_ext: str
    image: bytes | None
    image_ext: str
    meta: dict[str, Any]
    extra: dict[str, bytes] = field(default_factory=dict)  # further members, by extension

    def members(self) -> dict[str, bytes]:
        """Member name after the key → bytes, as a shard stores them."""
        members = {"json": json.dumps(self.meta, ensure_ascii=False).encode()}
        if self.audio:
            members[self.audio_ext] = self.audio
        if self.image is not None:
            members[self.image_ext] = self.image
        return members | self.extra


@lru_cache(maxsize=2)  # a data set and what is precomputed of it: an index of a million samples takes seconds and 100 MB
def _parsed_once(folder: Path, stamp: tuple[int, ...], max_index_mib: float, max_members: int) -> Index:
    """The index of a folder, which is parsed again when its stamp is another one."""
    return _parsed(Folder(folder), f"{folder}/index.json", max_index_mib, max_members)[0]


def _parsed(storage: Folder | Remote, where: str, max_index_mib: float, max_members: int) -> tuple[Index, bytes]:
    """The checked index of a data set, and its text; DataError where there is none, or one that cannot be used."""
    limit, folder = int(max_index_mib * 2**20), where.removesuffix("/index.json")
    text = storage.whole("index.json", limit)
    if text is None:
        local = isinstance(storage, Folder) and any(storage.folder.glob("*.tar"))
        hint = f"index them with `melfusion shards out={folder}`" if local else "build it first"
        raise DataError(f"There is no data set in {folder} (no index.json): {hint}; see data/README.md.")
    if len(text) > limit:
        raise DataError(f"{where} is larger than data.max_index_mib={max_index_mib:g}: raise that limit.")
    return parse_index(text, where, max_members), text


class ShardSet:
    """An indexed data set: entries by split, members by their place. Safe to use from several processes.

    path: a folder or a URL (storage.py). Every read checks that the tar's own header agrees with the index. A read by byte range
    from a URL also checks the digest of its bytes.
    """

    def __init__(self, path: str | Path, data: DataConfig | None = None):
        self.data = data or DataConfig()
        self.storage = open_storage(path, self.data)
        self.folder = self.storage.folder if isinstance(self.storage, Folder) else shown(path)
        self.where = f"{self.folder}/index.json"
        given = self.data.max_index_mib, self.data.max_shard_members
        if isinstance(self.storage, Folder) and (stamp := self.storage.stamp("index.json")):
            index = _parsed_once(self.storage.folder, stamp, *given)
        else:
            index, text = _parsed(self.storage, self.where, *given)
        self.info, self.shards, self.table = copy.deepcopy(index.info), index.shards, index.table
        if isinstance(self.storage, Remote):
            self.storage.keep(self.shards, text)
            return  # a shard that has changed is found when it is fetched or read
        for shard in self.shards:
            if shard["samples"] and self.storage.size(shard["name"]) != shard["bytes"]:
                raise DataError(
                    f"{self.folder}/{shard['name']} does not match {self.where}: rebuild the index after changing shards."
                )

    def entries(self, split: str) -> Entries:
        """All samples of a split, in index order; DataError where there are none."""
        found = self.table.of_shards([i for i, shard in enumerate(self.shards) if shard["name"].startswith(f"{split}-")])
        if not found:
            have = sorted({shard["name"].rsplit("-", 1)[0] for shard in self.shards})
            raise DataError(
                f"{self.folder} holds no sample of split {split!r} (it has {', '.join(have)}): "
                f"rebuild it with a {split} split, or point data.path elsewhere."
            )
        return found

    def counts(self) -> dict[str, int]:
        """Split → how many samples it has."""
        found: dict[str, int] = {}
        for shard in self.shards:
            split = shard["name"].rsplit("-", 1)[0]
            found[split] = found.get(split, 0) + shard["samples"]
        return found

    def read(self, entry: Entry, ext: str) -> bytes:
        """The bytes of one member; DataError where the shard holds something else there, BadSample for too large a member."""
        offset, length = entry.members[ext]
        if length > self.data.max_member_mib * 2**20:
            raise BadSample(f"member larger than data.max_member_mib={self.data.max_member_mib:g}")
        lead = min(offset, tars.LEAD_BYTES)
        data = self.storage.read(entry.shard, offset - lead, lead + length, partial(self._check, entry, ext, lead))
        self._check_header(entry, ext, lead, data)
        return data[lead:]

    def _check_header(self, entry: Entry, ext: str, lead: int, data: bytes) -> None:
        offset, length = entry.members[ext]
        if len(data) != lead + length or not tars.names_member(data[:lead], entry.key, ext, length):
            raise DataError(
                f"{self.where} is stale: {entry.shard} holds no member {entry.key}.{ext} of {length} bytes at "
                f"{offset}; index the shards again with `melfusion shards out=FOLDER`, or restore them."
            )

    def _check(self, entry: Entry, ext: str, lead: int, data: bytes) -> None:
        """Check bytes that came by byte range. Another digest is a ConnectionError, after which they are read again."""
        self._check_header(entry, ext, lead, data)
        if not entry.digests:
            raise DataError(
                f"{self.where} has no digests of members, so what is read by byte range cannot be checked: index the "
                "shards again where they lie with `melfusion shards out=FOLDER`, or raise data.cache_gib until whole "
                "shards fit."
            )
        if member_digest([data[lead:]]) != entry.digest(ext):
            raise ConnectionError(f"the SHA-256 of {entry.key}.{ext} is not that of the index: the shard or its index has changed")

    def digest(self) -> str:
        """One hash over the hashes of all shards: the provenance of data derived from this set names it."""
        return hashlib.sha256("".join(shard["sha256"] for shard in self.shards).encode()).hexdigest()
