"""The shard format: writing shards, the index beside them, and reading one member by seeking.

A data set is a folder of tar files `<split>-000000.tar` (webdataset's layout) and one `index.json`:
`{"version": 1, "info": {...}, "shards": [{"name", "bytes", "sha256", "samples":
[{"key", "members": {ext: [offset, length]}, "digests": "…"}]}]}`; `digests` has 32 hex digits of each member's SHA-256.
With the index each sample has an address, so the order of samples can be a pure function (`order.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from melfusion.data import replacing, tars
from melfusion.data.entries import Entries, Entry
from melfusion.data.index import member_digest, parse_index, write_index
from melfusion.data.options import DataConfig
from melfusion.data.ranks import Ranks
from melfusion.data.storage import Folder, Remote, is_url, open_storage
from melfusion.errors import BadSample, DataError, shown

AUDIO_EXTS = ("flac", "wav", "mp3", "ogg")

IMAGE_EXTS = ("png", "jpg", "jpeg", "webp")

CACHE_EXT = "latents.safetensors"

SPLITS = ("train", "val", "test")


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


def write_shards(
    samples: Iterable[Sample],
    out: str | Path,
    samples_per_shard: int = 256,
    info: dict[str, Any] | None = None,
    unless: Callable[[], bool] = lambda: False,
    named_by: str = "",
    ranks: Ranks | None = None,
) -> dict[str, int]:
    """Write samples to `<split>-NNNNNN.tar` in `out` and the index last; returns how many samples this process gave each split.

    They replace an older set only when the new one is whole (replacing.py). One process builds there at a time; the others wait.

    Args:
        info: what the index says of the whole set.
        unless: asked when no other process builds there any more. Where it says True, nothing is written and {} is returned.
        named_by: the key that names `out`, for errors.
        ranks: processes that build the set together. All call this, each with samples of its own, which go into its own shards.
    Raises DataError where the folder holds shards of others, cannot be written, or no sample came.
    """
    if is_url(out):
        raise DataError(f"{out}: shards are written to local folders; build them in one and copy it there.")
    out, ranks = Path(out), ranks or Ranks()
    explaining = partial(replacing.explaining, out, named_by)
    with ExitStack() as stack:
        with ranks.together():
            wanted = ranks.first and _begin(stack, out, unless, named_by)
        if not ranks.meet(wanted)[0]:
            return {}
        building = Building(out / replacing.BUILDING, samples_per_shard, ranks)
        try:
            with ranks.together():
                _write(samples, building, explaining)
            if not any(ranks.meet(building.counts)):
                raise DataError(f"{out}: no sample could be written; see the reasons above and check the paths of the source.")
            with ranks.together(), explaining():
                if ranks.first:
                    write_index(building.folder, info or {})
        except Exception:
            building.abandon()
            if ranks.first:
                replacing.drop(out)
            raise
        with ranks.together(), explaining():
            if ranks.first:
                replacing.move(out)
    return building.counts


def _begin(stack: ExitStack, out: Path, unless: Callable[[], bool], named_by: str) -> bool:
    """Hold the folder, and make room in it for a new set; False where none is wanted."""
    stack.enter_context(replacing.held(out, named_by))
    if unless():
        return False
    if foreign := replacing.foreign_or_ours(out)[0]:
        raise DataError(f"{out} holds {foreign[0].name}, which no index of ours names: choose an empty folder.")
    with replacing.explaining(out, named_by):
        replacing.begin(out)
    return True


def _write(samples: Iterable[Sample], building: Building, explaining: Callable[[], AbstractContextManager]) -> None:
    """All shards of a process. `explaining` is for errors of writing; errors of a source that reads pass as they are."""
    for sample in samples:
        with explaining():
            building.add(sample)
    with explaining():
        building.close()


class Building:
    """Shards that are being written: samples go into one open tar for each split."""

    def __init__(self, folder: Path, samples_per_shard: int, ranks: Ranks):
        self.folder, self.samples_per_shard, self.ranks = folder, samples_per_shard, ranks
        self.counts: dict[str, int] = {}
        self.keys: set[str] = set()
        self.tars: dict[str, tuple[Any, IO[bytes]]] = {}  # webdataset's writer and its file
        self.writer = tars.webdataset_secured().TarWriter

    def add(self, sample: Sample) -> None:
        split = sample.meta.get("split", "train")
        if not isinstance(split, str) or not re.fullmatch(r"[A-Za-z0-9_]+", split):
            raise DataError(f"sample {sample.key}: the split {split!r} must be a word such as train, val or test.")
        if not sample.key or set(sample.key) & set("./\\") or sample.key in self.keys:
            raise DataError(f"the key {sample.key!r} must be unique in its data set, not empty, and without dot or slash.")
        self.keys.add(sample.key)
        number, place = divmod(self.counts.get(split, 0), self.samples_per_shard)
        if place == 0:
            if split in self.tars:
                self._close(split)
            # an open file, since with security enforced webdataset itself opens none
            number = number * self.ranks.world + self.ranks.number
            file = (self.folder / f"{split}-{number:06d}.tar").open("wb")
            self.tars[split] = self.writer(file, encoder=False, mtime=0), file
        self.tars[split][0].write({"__key__": sample.key, **sample.members()})
        self.counts[split] = self.counts.get(split, 0) + 1

    def _close(self, split: str) -> None:
        tar, file = self.tars.pop(split)
        tar.close()
        file.flush()
        os.fsync(file.fileno())  # on the disk before the index that says so
        file.close()

    def close(self) -> None:
        """End all tars."""
        for split in list(self.tars):
            self._close(split)

    def abandon(self) -> None:
        """Close all files, also where that fails."""
        for tar, file in self.tars.values():
            for one in (tar, file):
                with suppress(Exception):
                    one.close()


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
        limit = int(self.data.max_index_mib * 2**20)
        text = self.storage.whole("index.json", limit)
        if text is None:
            local = isinstance(self.storage, Folder) and any(self.storage.folder.glob("*.tar"))
            hint = f"index them with `melfusion shards out={self.folder}`" if local else "build it first"
            raise DataError(f"There is no data set in {self.folder} (no index.json): {hint}; see data/README.md.")
        if len(text) > limit:
            raise DataError(f"{self.where} is larger than data.max_index_mib={self.data.max_index_mib:g}: raise that limit.")
        index = parse_index(text, self.where, self.data.max_shard_members)
        self.info, self.shards, self.table = index.info, index.shards, index.table
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
