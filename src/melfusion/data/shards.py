"""The shard format: schema, writing, the index beside the shards, and reading one member by seeking.

A data set is a folder of tar files `<split>-000000.tar` (webdataset's layout) and one `index.json`:
`{"version": 1, "info": {...}, "shards": [{"name", "bytes", "sha256", "samples": [{"key", "members": {ext: [offset, length]}}]}]}`.
The index makes a sample addressable, so that its order can be a pure function (`order.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import webdataset as wds

from melfusion.audio import BadSample
from melfusion.data import tars
from melfusion.data.errors import DataError
from melfusion.data.index import EXTENSION, INDEX_VERSION, KEY, parse_index
from melfusion.data.storage import is_url, open_storage
from melfusion.schema import DataConfig

wds.utils.enforce_security = True  # no pickles, no shell from data

AUDIO_EXTS = ("flac", "wav", "mp3", "ogg")
IMAGE_EXTS = ("png", "jpg", "jpeg", "webp")
SHARD_NAME = re.compile(r"[A-Za-z0-9_]+-\d{6}\.tar")
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


@dataclass(frozen=True)
class Entry:
    """Where one sample lies: shard file and its members' (offset, length)."""

    key: str
    shard: str
    members: dict[str, tuple[int, int]]


def write_shards(
    samples: Iterable[Sample], out: str | Path, samples_per_shard: int = 256, info: dict[str, Any] | None = None
) -> dict[str, int]:
    """Write samples to `<split>-NNNNNN.tar` in `out` and the index last; returns how many samples each split got.

    They replace a set that was there only when the new one is whole; the index moves last.
    """
    if is_url(out):
        raise DataError(f"{out}: shards are written to local folders; build them in one and copy it there.")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    halfway = (out / ".building" / "index.json").is_file() and not (out / "index.json").is_file()  # stopped while it moved
    if (foreign := foreign_or_ours(out)[0]) and not (halfway and all(SHARD_NAME.fullmatch(tar.name) for tar in foreign)):
        raise DataError(f"{out} holds {foreign[0].name}, which no index of ours names: choose an empty folder.")
    building = out / ".building"  # what lies in `out` stays until the new set is whole
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    counts: dict[str, int] = {}
    keys: set[str] = set()
    open_shards: dict[str, wds.TarWriter] = {}
    files: dict[str, IO[bytes]] = {}

    def close(split: str) -> None:
        open_shards.pop(split).close()
        files.pop(split).close()

    for sample in samples:
        split = sample.meta.get("split", "train")
        if not isinstance(split, str) or not re.fullmatch(r"[A-Za-z0-9_]+", split):
            raise DataError(f"sample {sample.key}: the split {split!r} must be a word such as train, val or test.")
        if not sample.key or set(sample.key) & set("./\\") or sample.key in keys:
            raise DataError(f"the key {sample.key!r} must be unique in its data set, not empty, and without dot or slash.")
        keys.add(sample.key)
        number, place = divmod(counts.get(split, 0), samples_per_shard)
        if place == 0:
            if split in open_shards:
                close(split)
            # an open file, since with security enforced webdataset itself opens none
            files[split] = (building / f"{split}-{number:06d}.tar").open("wb")
            open_shards[split] = wds.TarWriter(files[split], encoder=False, mtime=0)
        open_shards[split].write({"__key__": sample.key, **sample.members()})
        counts[split] = counts.get(split, 0) + 1
    for split in list(open_shards):
        close(split)
    if not counts:
        building.rmdir()
        raise DataError(f"{out}: no sample could be written; see the reasons above and check the paths of the source.")
    write_index(building, info or {})
    for stale in [*foreign_or_ours(out)[1], out / "index.json"]:
        stale.unlink(missing_ok=True)
    for file in [*sorted(building.glob("*.tar")), building / "index.json"]:
        file.replace(out / file.name)
    building.rmdir()
    return counts


def foreign_or_ours(folder: Path) -> tuple[list[Path], list[Path]]:
    """The *.tar files of a folder: those that its index does not name, and those that it does."""
    index, tars = folder / "index.json", sorted(folder.glob("*.tar"))
    tree = parse_index(index.read_bytes(), str(index), DataConfig().max_shard_members) if index.is_file() else {"shards": []}
    ours = {shard["name"] for shard in tree["shards"]}
    return [tar for tar in tars if tar.name not in ours], [tar for tar in tars if tar.name in ours]


def write_index(folder: str | Path, info: dict[str, Any] | None = None) -> None:
    """Scan every shard in `folder` and write index.json (also for shards that others wrote)."""
    folder = Path(folder)
    shards = [_scan(path) for path in sorted(folder.glob("*.tar"))]
    if not shards:
        raise DataError(f"{folder} holds no *.tar shards: build some with `make shards` (see data/README.md).")
    tree = {"version": INDEX_VERSION, "info": info or {}, "shards": shards}
    part = folder / "index.json.part"
    part.write_text(json.dumps(tree, ensure_ascii=False))
    part.replace(folder / "index.json")


def _scan(path: Path) -> dict[str, Any]:
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
    entries = [{"key": key, "members": members} for key, members in samples.items()]
    return {"name": path.name, "bytes": size, "sha256": digest, "samples": entries}


class ShardSet:
    """An indexed data set: entries by split, members by their place. Safe to use from several processes.

    path: a folder or a URL (storage.py). Every read checks that the tar's own header says what the index says.
    """

    def __init__(self, path: str | Path, data: DataConfig | None = None):
        self.data, self.storage = data or DataConfig(), open_storage(path, data or DataConfig())
        self.folder = path if is_url(path) else self.storage.folder
        self.where = f"{self.folder}/index.json"
        limit = int(self.data.max_index_mib * 2**20)
        text = self.storage.whole("index.json", limit)
        if text is None:
            local = not is_url(path) and any(self.storage.folder.glob("*.tar"))
            hint = f"index them with `melfusion shards out={self.folder}`" if local else "build it first"
            raise DataError(f"There is no data set in {self.folder} (no index.json): {hint}; see data/README.md.")
        if len(text) > limit:
            raise DataError(f"{self.where} is larger than data.max_index_mib={self.data.max_index_mib:g}: raise that limit.")
        tree = parse_index(text, self.where, self.data.max_shard_members)
        self.info, self.shards = tree["info"], tree["shards"]
        if is_url(path):
            self.storage.keep(self.shards, text)
            return  # a shard that has changed is found when it is fetched or read
        for shard in self.shards:
            if shard["samples"] and self.storage.size(shard["name"]) != shard["bytes"]:
                raise DataError(f"{self.folder}/{shard['name']} does not match {self.where}: rebuild the index after changing "
                                "shards.")  # fmt: skip

    def entries(self, split: str) -> list[Entry]:
        """All samples of a split, in index order; DataError where there are none."""
        found = [
            Entry(sample["key"], shard["name"], {e: tuple(v) for e, v in sample["members"].items()})
            for shard in self.shards if shard["name"].startswith(f"{split}-")
            for sample in shard["samples"]
        ]  # fmt: skip
        if not found:
            have = sorted({shard["name"].rsplit("-", 1)[0] for shard in self.shards})
            raise DataError(f"{self.folder} holds no sample of split {split!r} (it has {', '.join(have)}): "
                            f"rebuild it with a {split} split, or point data.path elsewhere.")  # fmt: skip
        return found

    def read(self, entry: Entry, ext: str) -> bytes:
        """The bytes of one member; DataError where the shard holds something else there, BadSample where they are too many."""
        offset, length = entry.members[ext]
        if length > self.data.max_member_mib * 2**20:
            raise BadSample(f"member larger than data.max_member_mib={self.data.max_member_mib:g}")
        lead = min(offset, tars.LEAD_BYTES)
        data = self.storage.read(entry.shard, offset - lead, lead + length)
        if len(data) != lead + length or not tars.names_member(data[:lead], entry.key, ext, length):
            raise DataError(f"{self.where} is stale: {entry.shard} holds no member {entry.key}.{ext} of {length} bytes at "
                            f"{offset}; index the shards again with `melfusion shards out=FOLDER`, or restore them.")  # fmt: skip
        return data[lead:]

    def digest(self) -> str:
        """One hash over all shards' hashes: the source hash of whatever is derived from this data set."""
        return hashlib.sha256("".join(shard["sha256"] for shard in self.shards).encode()).hexdigest()
