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
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import webdataset as wds

wds.utils.enforce_security = True  # no pickles, no shell from data

INDEX_VERSION = 1
AUDIO_EXTS = ("flac", "wav", "mp3", "ogg")
IMAGE_EXTS = ("png", "jpg", "jpeg", "webp")
CACHE_EXT = "latents.safetensors"
SPLITS = ("train", "val", "test")


class DataError(RuntimeError):
    """A data set that cannot be used: what is wrong, where, what to do."""


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
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if foreign := foreign_or_ours(out)[0]:
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
    ours = {shard["name"] for shard in json.loads(index.read_text())["shards"]} if index.is_file() else set()
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
    try:
        with tarfile.open(path, "r:") as tar:  # offsets into a compressed tar would lead nowhere
            for member in tar:
                if member.isreg():
                    key, _, ext = Path(member.name).name.partition(".")
                    members = samples.setdefault(key, {})
                    if ext.lower() in members:
                        raise DataError(f"{path} holds two members {key}.{ext}: keys must differ up to their first dot.")
                    members[ext.lower()] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        words = " ".join(str(error).split())
        raise DataError(f"{path} is damaged or no plain tar ({words}): build or copy it again.") from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(max(0, path.stat().st_size - 1024))
        if file.read().strip(b"\0"):  # tarfile takes a file cut between two members for a whole one
            raise DataError(f"{path} is cut short: it lacks the two empty blocks that end a tar; copy it again.")
    entries = [{"key": key, "members": members} for key, members in samples.items()]
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest, "samples": entries}


class ShardSet:
    """An indexed data set: entries by split, members by seeking. Safe to use from several processes."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / "index.json"
        if not path.is_file():
            hint = f"index them with `melfusion shards out={self.folder}`" if any(self.folder.glob("*.tar")) else "build it first"
            raise DataError(f"There is no data set in {self.folder} (no index.json): {hint}; see data/README.md.")
        try:
            tree = json.loads(path.read_text())
            version, self.info, self.shards = tree["version"], tree["info"], tree["shards"]
            files = [(self.folder / shard["name"], shard["bytes"]) for shard in self.shards if shard["samples"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged ({type(error).__name__}): rebuild the index.") from error
        if version != INDEX_VERSION:
            raise DataError(f"{path} has version {version}, this code reads {INDEX_VERSION}: rebuild it.")
        for file, size in files:
            if not file.is_file() or file.stat().st_size != size:
                raise DataError(f"{file} does not match {path}: rebuild the index after changing shards.")

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
        """The bytes of one member."""
        offset, length = entry.members[ext]
        with (self.folder / entry.shard).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def digest(self) -> str:
        """One hash over all shards' hashes: the source hash of whatever is derived from this data set."""
        return hashlib.sha256("".join(shard["sha256"] for shard in self.shards).encode()).hexdigest()
