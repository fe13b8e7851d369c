"""Shards from the user's own files: own manifests, ExtMusicCaps JSON and MeLBench's CSVs; formats: data/README.md.

Three passes: read the manifests (what is malformed stops with file, line and field), find and check every file (what is
missing or unreadable goes to `<out>/missing.csv`), write. Splits and keys hang on names and contents, never on order.
"""

from __future__ import annotations

import csv
import functools
import glob
import hashlib
import io
import json
import math
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from rich.progress import track as progress

from melfusion.audio import BadSample
from melfusion.config import ConfigError
from melfusion.data.corpus import describe
from melfusion.data.shards import AUDIO_EXTS, SPLITS, DataError, Sample, write_index, write_shards
from melfusion.data.splits import components
from melfusion.image import open_image, to_rgb

OPTIONS: dict[str, type] = {"manifest": str, "audio_dir": str, "image_dir": str, "out": str, "split_ratios": str,
                            "seed": int, "duration_s": float, "samples_per_shard": int}  # fmt: skip
# libsndfile cannot read those from m4a on: they are looked for so that missing.csv can say what to convert
AUDIO_SUFFIXES = (*AUDIO_EXTS, "oga", "opus", "aiff", "aif", "au", "caf", "w64", "m4a", "mp4", "webm", "aac", "wma")
IMAGE_KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # Pillow's format → extension in the shard
SPLIT_WORDS = {split: split for split in SPLITS} | {"valid": "val", "validation": "val", "dev": "val"}
VIDEO_ID = r"[A-Za-z0-9_-]{11}"
# what may follow the id in a file's name, start and end in seconds: ID_30.mp3, ID_30_40.flac, [ID]-[30-40].wav
SPAN = re.compile(r"\]?[_-]\[?(\d+(?:\.\d+)?)(?:[_-](\d+(?:\.\d+)?))?\]?")
NO_GENRE = ("image", "images", "img", "imgs", "picture", "pictures", "frame", "frames")  # folders that name none
SLACK = 1.05  # codecs pad: a file at most this much longer than a published excerpt is that excerpt


class Format(NamedTuple):
    """How one kind of manifest names its fields, how long its excerpts are, its ratios of train, val and test."""

    title: str
    audio: str
    image: str
    caption: str
    excerpt_s: float
    ratios: tuple[float, ...]


OWN = Format("own", "audio", "image", "caption", 10.24, (80, 10, 10))
MUSICCAPS = Format("ExtMusicCaps", "location", "img_path", "captions", 10.0, (60, 20, 20))
MELBENCH = Format("MeLBench", "youtube_video_id", "image_path", "Annotation", 10.0, (80, 10, 10))
FORMATS = (OWN, MUSICCAPS, MELBENCH)
FIELDS = {name.lower(): name for kind in FORMATS for name in kind[1:4]}  # found whatever their case


@dataclass
class Row:
    """One row of a manifest; known fields are taken out of `fields`, the rest becomes labels."""

    manifest: Path
    line: int
    fields: dict[str, Any]

    def error(self, name: str, what: str) -> DataError:
        return DataError(f"{self.manifest}, line {self.line}, field {name}: {what}.")

    def texts(self, name: str) -> list[str]:
        """A text or a list of texts, stripped, without the empty ones."""
        value = self.fields.pop(name, None)
        values = value if isinstance(value, list) else [value]
        if bad := [v for v in values if isinstance(v, bool | dict | list)]:
            raise self.error(name, f"{json.dumps(bad[0])[:60]} is not a text: write one in quotes")
        return [text for v in values if v is not None and (text := str(v).strip())]

    def text(self, name: str) -> str:
        """The one text of a field, empty where there is none."""
        texts = self.texts(name)
        if len(texts) > 1:
            raise self.error(name, "holds several texts: give one")
        return "".join(texts)

    def start_s(self) -> float | None:
        text = self.text("start_s")
        try:
            start = float(text) if text else None
        except ValueError:
            start = math.nan
        if start is not None and not 0 <= start < math.inf:
            raise self.error("start_s", f"{text[:60]!r} is no time: give the seconds from the audio's start, 0 or more")
        return start

    def split(self) -> str | None:
        text = self.text("split").lower()
        if text and text not in SPLIT_WORDS:
            raise self.error("split", f"{text[:60]!r} is not {', '.join(SPLITS)}: write one of them or nothing")
        return SPLIT_WORDS.get(text)

    def labels(self) -> dict[str, Any]:
        """All that is left, with what an object `labels` holds; a table's unnamed columns are dropped."""
        inner = self.fields.pop("labels", None)
        rest = self.fields | (inner if isinstance(inner, dict) else {"labels": inner})
        return {k: v for k, v in rest.items() if k and v not in (None, "") and not k.startswith("Unnamed:")}


@dataclass
class Clip:
    """One sample to be: what its row says; `locate` adds its files and what is known of them."""

    row: Row
    kind: Format
    name: str  # the audio: a path or a video id
    picture: str | None
    meta: dict[str, Any]
    start_s: float | None  # where the excerpt starts; from `locate` on, None stores the file as it is
    excerpt_s: float
    audio: Path = Path()
    image: Path | None = None
    image_ext: str = ""
    digests: tuple[str, ...] = ()  # of the audio file and the picture

    def key(self) -> str:
        """Letters, digits, - and _; hangs on contents, not on where the files lie or on the order of rows."""
        facts = json.dumps([self.digests, self.start_s, self.meta | {"split": None}], sort_keys=True)
        stem = self.name if self.kind is MELBENCH else Path(self.name).stem
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{self.meta['labels'].get('genre', '')}-{stem}")[:80].lstrip("-_")
        return f"{slug}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}".lstrip("-")


class Report:
    """What could not be used, row by row, and what else is worth a word."""

    def __init__(self) -> None:
        self.misses: dict[tuple[str, int, str, str], str] = {}  # (manifest, line, field, value) → reason
        self.notes: Counter[str] = Counter()

    def miss(self, row: Row, name: str, value: str, error: Exception) -> None:
        reason = f"cannot be opened ({error.strerror})" if isinstance(error, OSError) else str(error)
        self.misses[(str(row.manifest), row.line, name, value)] = reason

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["manifest", "line", "field", "value", "reason"])
            table.writerows([*where, reason] for where, reason in self.misses.items())

    def words(self, path: Path) -> str:
        lines = [f"{what}: {n}" for what, n in sorted(self.notes.items()) if n]
        if self.misses:
            rows = len({where[:2] for where in self.misses})
            lines.append(f"rows with missing or unreadable files: {rows}, listed in {path}")
            reasons = Counter(f"{name}: {reason}" for (_, _, name, _), reason in self.misses.items())
            lines += [f"  {reason}: {n}" for reason, n in reasons.most_common()]
        return "".join(f"\n{line}" for line in lines)


def build_from_manifest(
    manifest: str | None = None, out: str | None = None, audio_dir: str | None = None, image_dir: str | None = None,
    split_ratios: str | None = None, seed: int | str = 0, duration_s: float | str | None = None,
    samples_per_shard: int | str = 256,
) -> str:  # fmt: skip
    """Write shards, index.json and missing.csv to `out`; returns the counts in words.

    `manifest` may hold globs and commas; without it the shards that lie in `out` are indexed again. `split_ratios` is
    like "80/10/10", `duration_s` the length of excerpts. Raises ConfigError for options, DataError for all else.
    """
    if not out:
        raise ConfigError("shards has no folder to write to: add out=FOLDER (with make: OUT=FOLDER).")
    target = Path(out).expanduser()
    if target.exists() and not target.is_dir():
        raise ConfigError(f"out={out} is a file: name a folder.")
    if not manifest:
        return _index_again(target)
    seed, per_shard = int(_number("seed", seed, 0)), int(_number("samples_per_shard", samples_per_shard, 1))
    length_s = None if duration_s is None else _number("duration_s", duration_s, 0.1)
    ratios, folders, report = _ratios(split_ratios), Folders(audio_dir, image_dir), Report()
    if foreign := [p for p in target.glob("*.tar") if not re.fullmatch(r"(train|val|test)-\d{6}", p.stem)]:
        raise DataError(f"{foreign[0]} is not ours, and shards replace every .tar in out: give another out=FOLDER.")
    paths = _manifests(manifest, target / "missing.csv")
    clips = [clip for path in paths for row in _rows(path) for clip in _clips(row, length_s)]
    if not audio_dir and any(clip.kind is not OWN for clip in clips):
        raise ConfigError(f"{manifest} does not say in which folder its audio lies: add audio_dir=FOLDER.")
    usable = [clip for clip in progress(clips, "check files") if locate(clip, folders, report)]
    report.write(target / "missing.csv")
    if not usable:
        raise DataError(f"{manifest}: none of {len(clips)} samples can be used; {target / 'missing.csv'} says why: "
                        "check audio_dir, image_dir and the paths in the manifest.")  # fmt: skip
    assign_splits(usable, ratios, seed, report.notes)
    keyed = {clip.key(): clip for clip in usable}
    report.notes["samples given twice, kept once"] = len(usable) - len(keyed)
    order = sorted(keyed, key=lambda key: hashlib.sha256(key.encode()).digest())  # mixed, for readers without an index
    info = {"source": "manifest", "manifests": sorted(path.name for path in paths), "seed": seed}
    samples = _samples(progress([(key, keyed[key]) for key in order], "write shards"), report)
    write_shards(samples, target, per_shard, info)
    report.write(target / "missing.csv")  # again: some damage shows only in decoding
    return describe(str(target)) + report.words(target / "missing.csv")


def _number(name: str, value: Any, least: float) -> float:
    """An option that may be text from the environment."""
    try:
        number = OPTIONS[name](value)
    except ValueError:
        number = math.nan
    if not least <= number < math.inf:
        raise ConfigError(f"{name}={value!r} is not a number of at least {least}: correct it.")
    return number


def _ratios(text: str | None) -> tuple[float, ...] | None:
    """'80/10/10' → (80, 10, 10)."""
    parts = re.split(r"[/,: ]+", text.strip()) if text else []
    if text and not (len(parts) == 3 and all(re.fullmatch(r"\d*\.?\d+", p) for p in parts) and any(map(float, parts))):
        raise ConfigError(f"split_ratios={text!r} are not shares of train, val and test: write them like 80/10/10.")
    return tuple(map(float, parts)) or None


def _index_again(folder: Path) -> str:
    if not any(folder.glob("*.tar")):
        raise ConfigError(
            f"shards has no manifest and {folder} no *.tar to index: add manifest=FILE (make: MANIFEST=)."
        )
    try:
        info = json.loads((folder / "index.json").read_text())["info"]  # provenance must outlive a new index
    except (OSError, ValueError, KeyError, TypeError):
        info = {}
    try:
        write_index(folder, info)
    except tarfile.TarError as error:
        raise DataError(f"{folder} holds a .tar that cannot be read ({error}): remove it or write it again.") from error
    return f"no manifest given: wrote the index of the shards that lie in {describe(str(folder))}"


def _manifests(names: str, skip: Path) -> list[Path]:
    """The files that names and globs, separated by commas, stand for; our own report `skip` is none of them."""
    paths: dict[Path, None] = {}
    for name in [names] if Path(names).is_file() else [part.strip() for part in names.split(",") if part.strip()]:
        pattern = str(Path(name).expanduser())
        globbed = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207, since Path.glob takes no absolute pattern
        found = [pattern] if Path(pattern).is_file() else globbed
        files = [path for path in map(Path, found) if path.is_file() and path.resolve() != skip.resolve()]
        if not files:
            hint = f"name the files in it, such as {name}/*.csv" if Path(pattern).is_dir() else "check the path"
            raise DataError(f"manifest={name}: there is no such file: {hint}.")
        paths |= dict.fromkeys(files)
    return list(paths)


def _rows(path: Path) -> Iterator[Row]:
    """The rows of one file, by its ending; DataError names the line of what cannot be parsed."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: this is not UTF-8: save the file as UTF-8.") from None
    suffix = path.suffix.lower()
    if suffix in (".json", ".jsonl"):
        return _json_rows(path, text)
    if suffix in (".csv", ".tsv"):
        return _csv_rows(path, text, "," if suffix == ".csv" else "\t")
    raise DataError(f"{path}: a manifest ends in .csv, .tsv, .json or .jsonl: rename or convert it.")


def _csv_rows(path: Path, text: str, delimiter: str) -> Iterator[Row]:
    table, header, line = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [], 0
    while True:
        first = line + 1  # a quoted text may hold newlines: a row is named by its first line
        try:
            cells = next(table, None)
        except csv.Error as error:
            raise DataError(f"{path}, line {first}: not valid CSV ({error}): check its quotes.") from None
        if cells is None:
            return
        line = table.line_num
        if not header:
            header = [FIELDS.get(name.strip().lower(), name.strip()) for name in cells]
        elif len(cells) > len(header):
            raise DataError(f"{path}, line {first}, field {header[-1]}: the row has {len(cells)} cells, the header "
                            f"{len(header)}: put texts that hold a {delimiter!r} into quotes.")  # fmt: skip
        elif cells and len(cells) < len(header):
            raise DataError(f"{path}, line {first}, field {header[len(cells)]}: the row ends before it: complete it.")
        elif cells:
            yield Row(path, first, dict(zip(header, cells, strict=True)))


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    """The objects of an array, or one after another as in JSON-lines."""
    array = text.lstrip().startswith("[")
    gap, decoder = re.compile(r"[\s,]*" if array else r"\s*"), json.JSONDecoder()
    at, counted, line = text.index("[") + 1 if array else 0, 0, 1
    while (start := gap.match(text, at).end()) < len(text) and not (array and text[start] == "]"):
        line, counted = line + text.count("\n", counted, start), start
        try:
            value, at = decoder.raw_decode(text, start)
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair could not be stored
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {line}: not valid JSON ({error}): mend this entry.") from None
        if not isinstance(value, dict):
            raise DataError(f'{path}, line {line}: {str(value)[:40]!r} is no object: write {{"audio": "a.wav"}}.')
        yield Row(path, line, {FIELDS.get(name.strip().lower(), name): value for name, value in value.items()})
    if array and start == len(text):
        raise DataError(f"{path}, line {text.count(chr(10)) + 1}: the array ends without ]: the file is cut short.")


def _clips(row: Row, length_s: float | None) -> list[Clip]:
    """One clip for each picture of a row, or one without a picture."""
    kind = next((kind for kind in FORMATS if kind.audio in row.fields), None)
    if kind is None:
        raise row.error("audio", "absent, as are location (ExtMusicCaps) and youtube_video_id (MeLBench), among "
                                 f"{', '.join(row.fields)[:200]}: name the audio's column so, and separate columns by "
                                 "commas (tabs in a .tsv)")  # fmt: skip
    if kind is MELBENCH and (absent := [n for n in (kind.image, kind.caption) if n not in row.fields]):
        raise row.error(absent[0], "absent: MeLBench's columns are image_path, youtube_video_id and Annotation")
    name, captions, pictures = row.text(kind.audio), row.texts(kind.caption), row.texts(kind.image)
    if not name:
        raise row.error(kind.audio, "empty: name the audio, or remove the row")
    if kind is MELBENCH and not re.fullmatch(VIDEO_ID, name):
        raise row.error(kind.audio, f"{name[:60]!r} is not the 11-character id of a video: correct it")
    about = {n: row.text(n) for n in ("title", "source", "license")}
    about["source"] = about["source"] or ("" if kind is OWN else kind.title)
    start_s, split, labels = row.start_s(), row.split(), row.labels()
    if kind is MELBENCH:
        labels = {"genre": row.manifest.stem, "youtube_video_id": name} | labels
    if len(captions) > 1:
        labels["captions"] = captions
    meta = {"caption": captions[0] if captions else "", **about, "split": split}
    return [Clip(row, kind, name, picture, meta | {"labels": dict(labels)}, start_s, length_s or kind.excerpt_s)
            for picture in pictures or [None]]  # fmt: skip


class Folders:
    """The folders that files are taken from, each indexed once; links that lie in them are followed."""

    def __init__(self, audio_dir: str | None, image_dir: str | None):
        self.audio_dir, self.image_dir = (Path(d).expanduser() if d else None for d in (audio_dir, image_dir))
        for name, folder in (("audio_dir", self.audio_dir), ("image_dir", self.image_dir)):
            if folder and not folder.is_dir():
                raise ConfigError(f"{name}={folder} is not a folder: check the path.")
        self.files = functools.cache(_by_name)
        self.audio_facts, self.image_facts = functools.cache(_audio_facts), functools.cache(_image_facts)

    @functools.cached_property
    def videos(self) -> dict[str, list[Path]]:
        """Audio files by each 11 characters of their names that could be a video id."""
        ids: dict[str, list[Path]] = {}
        for path in (path for paths in self.files(self.audio_dir).values() for path in paths):
            if path.suffix[1:].lower() in AUDIO_SUFFIXES:
                for found in re.finditer(rf"(?<![A-Za-z0-9])(?=({VIDEO_ID})(?![A-Za-z0-9]))", path.stem):
                    ids.setdefault(found[1], []).append(path)
        return ids

    def audio(self, clip: Clip) -> Path:
        """The file of a clip's audio; BadSample says why there is none."""
        if clip.kind is OWN:
            return _own_file(clip.name, self.audio_dir, clip.row.manifest.parent)
        if clip.kind is MUSICCAPS:
            path, files = Path(clip.name.replace("\\", "/")), self.files(self.audio_dir)
            names = [path.name, *(f"{path.stem}.{suffix}" for suffix in AUDIO_SUFFIXES)]
            return _nearest(next((files[name] for name in names if name in files), []), path.name)
        found = [(_span(path.stem, clip.name), path) for path in self.videos.get(clip.name, [])]
        if clip.start_s is not None:  # a file that says it starts elsewhere is another excerpt
            found = [(span, path) for span, path in found if not span or abs(span[0] - clip.start_s) < 1]
        if not found:
            raise BadSample("no audio file of this video" + ("" if clip.start_s is None else " with this start"))
        rank = AUDIO_SUFFIXES.index
        return min(found, key=lambda f: (f[0] is None, rank(f[1].suffix[1:].lower()), len(f[1].name), f[1]))[1]

    def image(self, clip: Clip) -> Path:
        """The file of a clip's picture; in the published formats a base name is enough, its path only a hint."""
        if clip.kind is OWN:
            return _own_file(clip.picture, self.image_dir, clip.row.manifest.parent)
        wanted = clip.picture.replace("\\", "/")
        for root in filter(None, (self.image_dir, clip.row.manifest.parent)):
            if path := _below(root, wanted):
                return path
        named = self.files(self.image_dir).get(Path(wanted).name, []) if self.image_dir else []
        return _nearest(named, f"{clip.meta['labels'].get('genre', '')}/{wanted}")


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Every regular file below `folder`, by its base name."""
    files: dict[str, list[Path]] = {}
    for place, _, names in os.walk(folder):
        for path in (Path(place) / name for name in sorted(names)):
            if path.is_file():
                files.setdefault(path.name, []).append(path)
    return files


def _below(root: Path, name: str) -> Path | None:
    """The file `root`/`name`, unless the name leads out of `root`."""
    inside = Path(os.path.normpath(name))
    outside = inside.is_absolute() or inside.parts[:1] == ("..",)
    return root / inside if not outside and (root / inside).is_file() else None


def _own_file(name: str, *roots: Path | None) -> Path:
    """A file that the user's own manifest names: by an absolute path, or below one of the roots."""
    if Path(name).is_absolute():
        paths = [Path(name)] if Path(name).is_file() else []
    else:
        paths = [path for root in roots if root and (path := _below(root, name))]
    if not paths:
        outside = Path(os.path.normpath(name)).parts[:1] == ("..",)
        raise BadSample("path leads out of the manifest's folder and the given ones" if outside else "file not found")
    return paths[0]


def _nearest(files: list[Path], wanted: str) -> Path:
    """The file whose last folders agree longest with those of `wanted`; BadSample where two agree equally."""

    def agreement(path: Path) -> int:
        pairs = list(zip(path.parts[::-1], wanted.split("/")[::-1], strict=False))
        return next((i for i, (a, b) in enumerate(pairs) if a.lower() != b.lower()), len(pairs))

    best = sorted(files, key=agreement, reverse=True)
    if not best:
        raise BadSample("file not found")
    if len(best) > 1 and agreement(best[0]) == agreement(best[1]):
        raise BadSample("several files have this name: give its folder too")
    return best[0]


def _span(stem: str, video_id: str) -> tuple[float, float | None] | None:
    """Start and end in seconds that a file's name states after the video id."""
    found = SPAN.fullmatch(stem.partition(video_id)[2])
    return (float(found[1]), float(found[2]) if found[2] else None) if found else None


def _audio_facts(path: Path) -> tuple[str, float]:
    """Digest and length in seconds."""
    if not path.stat().st_size:
        raise BadSample("empty audio")
    try:
        with path.open("rb") as file, soundfile.SoundFile(file) as sound:
            seconds = sound.frames / sound.samplerate
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        known = path.suffix[1:].lower() in AUDIO_EXTS
        raise BadSample("unreadable audio" + ("" if known else ": convert it to flac, wav, mp3 or ogg")) from error
    if not seconds:
        raise BadSample("empty audio")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), seconds


def _image_facts(path: Path) -> tuple[str, str]:
    """Digest and the extension it keeps in a shard, empty where it must be re-encoded; BadSample without pixels."""
    data = path.read_bytes()
    return hashlib.sha256(data).hexdigest(), IMAGE_KEPT.get(open_image(data).format or "", "")


def locate(clip: Clip, folders: Folders, report: Report) -> bool:
    """Find and check the clip's files; False, with every reason in the report, where one cannot be used."""
    usable = True
    for name, value, find in ((clip.kind.audio, clip.name, _find_audio), (clip.kind.image, clip.picture, _find_image)):
        try:
            if value is not None:
                find(clip, folders)
        except (BadSample, OSError) as error:
            report.miss(clip.row, name, value, error)
            usable = False
    report.notes["samples without a caption"] += usable and not clip.meta["caption"]
    report.notes["samples without a picture"] += usable and clip.picture is None
    return usable


def _find_audio(clip: Clip, folders: Folders) -> None:
    clip.audio = folders.audio(clip)
    digest, seconds = folders.audio_facts(clip.audio)
    clip.digests, clip.start_s = (digest,), _excerpt_start(clip, seconds)
    if clip.start_s is not None:
        clip.meta["labels"]["start_s"] = clip.start_s


def _find_image(clip: Clip, folders: Folders) -> None:
    clip.image = folders.image(clip)
    digest, clip.image_ext = folders.image_facts(clip.image)
    clip.digests = (*clip.digests, digest)
    labels, folder = clip.meta["labels"], clip.image.parent
    plain, genre = (re.sub(r"[\W_]", "", text).lower() for text in (folder.name, str(labels.get("genre", ""))))
    top = folder in (folders.image_dir, clip.row.manifest.parent)
    if clip.kind is MELBENCH and not top and plain not in (*NO_GENRE, genre):
        labels.setdefault("sub_genre", folder.name)


def _excerpt_start(clip: Clip, seconds: float) -> float | None:
    """Where to cut a file of this length, in seconds; None where it is stored as it is."""
    start, stem = clip.start_s, clip.audio.stem
    if clip.kind is OWN:
        if start is None or (start == 0 and seconds <= clip.excerpt_s):
            return None
    elif seconds <= clip.excerpt_s * SLACK:
        return None
    elif start is None:
        video = re.match(rf"\[?({VIDEO_ID})", stem)
        span = _span(stem, clip.name if clip.kind is MELBENCH else video[1] if video else stem)
        if not span and clip.kind is MUSICCAPS:
            return None
        # a file about as long as the span it names holds that span and nothing before it
        whole = not span or span[0] >= seconds or (span[1] and seconds <= (span[1] - span[0]) * SLACK)
        start = 0.0 if whole else span[0]
    if start >= seconds:
        raise BadSample(f"start_s lies behind the end of the audio ({seconds:.1f} s)")
    return start


def assign_splits(clips: list[Clip], ratios: tuple[float, ...] | None, seed: int, notes: Counter[str]) -> None:
    """Fill in `meta["split"]`: as the manifest says, else by a hash of the smallest track name of the component.

    A component is what shares a track (by name or contents) or a picture (by contents): it stays together, and other
    components, added or missing, do not move it. Only a split that would be empty takes the component nearest to it.
    """
    links = [(clip.name, f"{i} {digest}") for clip in clips for i, digest in enumerate(clip.digests)]
    names = dict(zip([track for track, _ in links], components(links), strict=True))
    given: dict[str, set[str]] = {}
    for clip in clips:
        given.setdefault(names[clip.name], set()).update({clip.meta["split"]} - {None})
    ratios = ratios or (MUSICCAPS if all(clip.kind is MUSICCAPS for clip in clips) else OWN).ratios
    ends = np.cumsum(ratios) / sum(ratios)  # where the share of each split ends, from 0 to 1
    place = {n: int(hashlib.sha256(f"{seed} {n}".encode()).hexdigest()[:12], 16) / 16**12 for n in given}
    drawn = {n: SPLITS[np.searchsorted(ends[:2], place[n], "right")] for n in given}
    chosen = {n: min(said) if said else drawn[n] for n, said in given.items()}
    for i, split in enumerate(SPLITS):
        held = Counter(chosen.values())
        free = [n for n in chosen if not given[n] and held[chosen[n]] > 1]
        if ratios[i] and not held[split] and len(chosen) >= len(SPLITS) and free:
            chosen[min(free, key=lambda n, i=i: (abs(place[n] - ends[i]), n))] = split
    for clip in clips:
        clip.meta["split"] = clip.meta["split"] or chosen[names[clip.name]]
    notes["components with several splits, as the manifest says"] = sum(len(said) > 1 for said in given.values())


def _samples(clips: Iterable[tuple[str, Clip]], report: Report) -> Iterator[Sample]:
    for key, clip in clips:
        name, value, image = clip.kind.audio, clip.name, None
        try:
            audio_ext = clip.audio.suffix[1:].lower()
            if clip.start_s is None and audio_ext in AUDIO_EXTS:
                audio = clip.audio.read_bytes()
            else:
                audio_ext, audio = "flac", _flac(clip)
            name, value = clip.kind.image, clip.picture or ""
            if clip.image:
                image = clip.image.read_bytes() if clip.image_ext else _png(clip.image)
        except (BadSample, OSError) as error:
            report.miss(clip.row, name, value, error)
            continue
        yield Sample(key, audio, audio_ext, image, clip.image_ext or "png", clip.meta)


def _flac(clip: Clip) -> bytes:
    """The excerpt, or the whole file, at its own rate and channels; integers keep their values up to 24 bits."""
    buffer = io.BytesIO()
    try:
        with clip.audio.open("rb") as file, soundfile.SoundFile(file) as sound:
            rate, kind = sound.samplerate, sound.subtype
            sound.seek(round((clip.start_s or 0) * rate))
            dtype = {"PCM_16": "int16", "PCM_24": "int32", "PCM_32": "int32"}.get(kind, "float32")
            length = -1 if clip.start_s is None else round(clip.excerpt_s * rate)
            frames = sound.read(length, dtype=dtype, always_2d=True)
        if not len(frames) or not np.isfinite(frames).all():
            raise BadSample("audio holds NaN or infinity, or ends before the excerpt")
        frames = frames.clip(-1, 1) if dtype == "float32" else frames
        depth = "PCM_24" if kind in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE") else "PCM_16"
        soundfile.write(buffer, frames, rate, format="FLAC", subtype=depth)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise BadSample("audio cannot be decoded or stored as flac") from error
    return buffer.getvalue()


def _png(path: Path) -> bytes:
    buffer = io.BytesIO()
    to_rgb(open_image(path.read_bytes())).save(buffer, "PNG")
    return buffer.getvalue()
