"""Shards from the user's own files: own manifests, ExtMusicCaps JSON and MeLBench's CSVs. data/README.md has the formats.

There are three passes: read the manifests (rows.py), find and check every file (files.py; `<out>/missing.csv` lists what cannot be
used), and write. Splits and keys depend on names and contents, never on the order of rows.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import re
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track as progress

from melfusion.data import replacing
from melfusion.data.index import write_index
from melfusion.data.manifest.clips import read_clips
from melfusion.data.manifest.files import Folders, locate
from melfusion.data.manifest.formats import OWN
from melfusion.data.manifest.report import Report
from melfusion.data.manifest.rows import ManifestClip
from melfusion.data.manifest.source import Manifest
from melfusion.data.manifest.storing import samples
from melfusion.data.manifest.tables import read_rows
from melfusion.data.shards import SPLITS
from melfusion.data.sharing import refusals
from melfusion.data.sources import describe
from melfusion.data.splits import components
from melfusion.data.writing import write_shards
from melfusion.errors import ConfigError, DataError


def build_from_manifest(
    manifest: str | None = None,
    out: str | None = None,
    audio_dir: str | None = None,
    image_dir: str | None = None,
    split_ratios: str | None = None,
    seed: int | str = 0,
    duration_s: float | str | None = None,
    samples_per_shard: int | str = 256,
    cut: bool | str = False,
    frames: int | str = 1,
) -> str:
    """Write shards, index.json and missing.csv to `out`; returns the counts in words.

    `manifest` may hold globs and commas; without it the shards that lie in `out` are indexed again. `split_ratios` is
    like "80/10/10", `duration_s` the length of excerpts; `cut` makes such excerpts of every whole track, one after another.
    A film gives so many `frames` of each clip.
    Raises ConfigError for options, DataError for all else.
    """
    target = _target(out)
    if not manifest:
        return _index_again(target)
    seed, per_shard = int(_number("seed", seed, 0, int)), int(_number("samples_per_shard", samples_per_shard, 1, int))
    shown = int(_number("frames", frames, 1, int))
    length_s = None if duration_s is None else _number("duration_s", duration_s, 0.1)
    ratios, folders, report = _ratios(split_ratios), Folders(audio_dir, image_dir), Report(target / "missing.csv")
    if foreign := [p for p in target.glob("*.tar") if not re.fullmatch(r"(train|val|test)-\d{6}", p.stem)]:
        raise DataError(f"{foreign[0]} is not ours, and shards replace every .tar in out: give another out=FOLDER.")
    paths = _manifests(manifest, report.path)
    with contextlib.ExitStack() as stack:
        usable = _usable(manifest, paths, length_s, folders, report, _unpacked(target, paths, stack))
        if str(cut).lower() == "true":
            usable = [piece for clip in usable for piece in pieces(clip, folders)]
        assign_splits(usable, ratios, seed, report.notes)
        keyed = {clip.key(): clip for clip in usable}
        report.notes["samples given twice, kept once"] = len(usable) - len(keyed)
        info = {"source": Manifest.name, "manifests": sorted(path.name for path in paths), "seed": seed}
        write_shards(samples(keyed, shown, report), target, per_shard, info, named_by="out")
    report.write()  # again: some damage shows only in decoding
    return describe(str(target)) + report.words() + "".join(f"\n{line}" for line in refusals(target))


def _unpacked(target: Path, paths: list[Path], stack: contextlib.ExitStack) -> Path | None:
    """A folder within `target` for the files that lie in parquet, which is removed in the end; None where there is no parquet."""
    if not any(path.suffix.lower() == ".parquet" for path in paths):
        return None
    with replacing.explaining(target, "out"):
        target.mkdir(parents=True, exist_ok=True)
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".unpacked-", dir=target)))


def _usable(
    manifest: str, paths: list[Path], length_s: float | None, folders: Folders, report: Report, unpacked: Path | None
) -> list[ManifestClip]:
    """The clips whose files are there and can be read; the others are in the report. DataError where none is left."""
    clips = [clip for path in paths for clip in read_clips(read_rows(path, unpacked), length_s)]
    if not folders.audio_dir and any(clip.kind is not OWN and clip.row.unpacked is None for clip in clips):
        raise ConfigError(f"{manifest} does not say in which folder its audio lies: add audio_dir=FOLDER.")
    usable = [clip for clip in progress(clips, "check files") if locate(clip, folders, report)]
    report.write()
    if not usable:
        raise DataError(
            f"{manifest}: none of {len(clips)} samples can be used; {report.path} says why: "
            "check audio_dir, image_dir and the paths in the manifest."
        )
    return usable


def _target(out: str | None) -> Path:
    if not out:
        raise ConfigError("shards has no folder to write to: add out=FOLDER (with make: OUT=FOLDER).")
    target = Path(out).expanduser()
    if target.exists() and not target.is_dir():
        raise ConfigError(f"out={out} is a file: name a folder.")
    return target


def _number(name: str, value: Any, least: float, kind: type = float) -> float:
    """An option that may be text; ConfigError where it is no number of at least `least`."""
    try:
        number = kind(value)
    except ValueError:
        number = math.nan
    if not least <= number < math.inf:
        raise ConfigError(f"{name}={value!r} is not a number of at least {least}: correct it.")
    return number


def _ratios(text: str | None) -> tuple[float, ...] | None:
    """'80/10/10' → (80, 10, 10)."""
    if not text:
        return None
    found = re.fullmatch("[/,: ]+".join([r"(\d*\.?\d+)"] * 3), text.strip())
    if not found or not any(map(float, found.groups())):
        raise ConfigError(f"split_ratios={text!r} are not shares of train, val and test: write them like 80/10/10.")
    return tuple(map(float, found.groups()))


def _index_again(folder: Path) -> str:
    if not any(folder.glob("*.tar")):
        raise ConfigError(f"shards has no manifest and {folder} no *.tar to index: add manifest=FILE (make: MANIFEST=).")
    with replacing.held(folder, "out"):
        try:
            info = json.loads((folder / "index.json").read_text())["info"]  # provenance must outlive a new index
        except (OSError, ValueError, KeyError, TypeError):
            info = {}
        with replacing.explaining(folder, "out"):
            write_index(folder, info)
    return f"no manifest given: wrote the index of the shards that lie in {describe(str(folder))}"


def _manifests(names: str, skip: Path) -> list[Path]:
    """The files that names and globs, separated by commas, stand for; without our own report `skip`."""
    paths: dict[Path, None] = {}
    for name in [names] if Path(names).is_file() else filter(None, map(str.strip, names.split(","))):
        path = Path(name).expanduser()
        found = [path] if path.is_file() else _globbed(path)
        files = [path for path in found if path.is_file() and path.resolve() != skip.resolve()]
        if not files:
            hint = f"name the files in it, such as {name}/*.csv" if path.is_dir() else "check the path"
            raise DataError(f"manifest={name}: there is no such file: {hint}.")
        paths |= dict.fromkeys(files)
    return list(paths)


def _globbed(pattern: Path) -> list[Path]:
    """What a relative or absolute pattern stands for; as in a shell, a hidden file only where the pattern begins with a dot."""
    try:
        found = sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))) if glob.has_magic(str(pattern)) else []
    except ValueError:  # a pattern such as **.csv
        return []
    return [path for path in found if path.name[:1] != "." or pattern.name[:1] == "."]


def pieces(clip: ManifestClip, folders: Folders) -> list[ManifestClip]:
    """A whole track → excerpts one after another, the last at least half as long as the others.

    An excerpt, or a track too short for two, stays as it is.
    """
    n = int(folders.audio_facts(clip.audio)[1] / clip.excerpt_s + 0.5)
    if clip.start_s is not None or n < 2:
        return [clip]
    starts = [round(i * clip.excerpt_s, 6) for i in range(n)]
    return [replace(clip, start_s=s, meta=clip.meta | {"labels": clip.meta["labels"] | {"start_s": s}}) for s in starts]


def assign_splits(clips: list[ManifestClip], ratios: tuple[float, ...] | None, seed: int, notes: Counter[str]) -> None:
    """Fill in `meta["split"]`: as the manifest says, else by a hash of the smallest track name of the component. Fill in the labels
    `track` and `component`, too, by which evaluation knows which clips belong together.

    Clips that share a track (by name or contents) or a picture (by contents) are one component, and stay in one split. Adding or
    removing other components does not move it, except that a split that would be empty takes the component nearest to it.
    """
    tracks = [clip.track or clip.name for clip in clips]
    links = [(track, f"{i} {digest}") for track, clip in zip(tracks, clips, strict=True) for i, digest in enumerate(clip.digests)]
    names = dict(zip([track for track, _ in links], components(links), strict=True))
    given: dict[str, set[str]] = {}
    for track, clip in zip(tracks, clips, strict=True):
        given.setdefault(names[track], set()).update({clip.meta["split"]} - {None})
    ratios = ratios or (clips[0].kind if len({clip.kind.title for clip in clips}) == 1 else OWN).ratios
    ends = np.cumsum(ratios) / sum(ratios)  # where the share of each split ends, from 0 to 1
    place = {n: int(hashlib.sha256(f"{seed} {n}".encode()).hexdigest()[:12], 16) / 16**12 for n in given}
    drawn = {n: SPLITS[np.searchsorted(ends[:2], place[n], "right")] for n in given}
    chosen = {n: min(said) if said else drawn[n] for n, said in given.items()}
    for i, split in enumerate(SPLITS):
        held = Counter(chosen.values())
        free = [n for n in chosen if not given[n] and held[chosen[n]] > 1]
        if ratios[i] and not held[split] and len(chosen) >= len(SPLITS) and free:
            chosen[min((abs(place[n] - ends[i]), n) for n in free)[1]] = split
    for name, clip in zip(tracks, clips, strict=True):
        clip.meta["split"] = clip.meta["split"] or chosen[names[name]]
        track = hashlib.sha256(name.encode()).hexdigest()[:10]  # the name may be a path of this machine
        clip.meta["labels"] = {"track": track, "component": names[name]} | clip.meta["labels"]
    notes["components with several splits, as the manifest says"] = sum(len(said) > 1 for said in given.values())
