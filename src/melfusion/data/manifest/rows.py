"""Manifests → rows → clips: the three formats and their fields. An error of a malformed row names file, line and field."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from melfusion.data.shards import SPLITS
from melfusion.errors import DataError

SPLIT_WORDS = {split: split for split in SPLITS} | {"valid": "val", "validation": "val", "dev": "val"}

VIDEO_ID = r"[A-Za-z0-9_-]{11}"


class Format(NamedTuple):
    """One kind of manifest: the names of its fields, the length of its excerpts, its ratios of train, val and test."""

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

FIELDS = {name.lower(): name for kind in FORMATS for name in kind[1:4]}  # in any case of letters


@dataclass
class ManifestRow:
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
        """All other fields, and the contents of an object `labels`; unnamed columns of a table are dropped."""
        inner = self.fields.pop("labels", None)
        rest = self.fields | (inner if isinstance(inner, dict) else {"labels": inner})
        return {k: v for k, v in rest.items() if k and v not in (None, "") and not k.startswith("Unnamed:")}


@dataclass
class ManifestClip:
    """One future sample. Its row gives the first fields; `files.locate` adds its files and facts about them."""

    row: ManifestRow
    kind: Format
    name: str  # the audio: a path or a video id
    picture: str | None
    meta: dict[str, Any]
    start_s: float | None  # where the excerpt starts; from `locate` on, None stores the file as it is
    excerpt_s: float
    audio: Path = Path()
    image: Path | None = None
    image_ext: str = ""  # empty where the picture must be encoded again
    digests: tuple[str, ...] = ()  # of the audio file and the picture

    def key(self) -> str:
        """Letters, digits, - and _. It depends on contents, not on where the files lie or on the order of rows."""
        facts = json.dumps([self.digests, self.start_s, self.meta | {"split": None}], sort_keys=True)
        stem = self.name if self.kind is MELBENCH else Path(self.name).stem
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{self.meta['labels'].get('genre', '')}-{stem}")[:80].lstrip("-_")
        return f"{slug}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}".lstrip("-")


def read_clips(path: Path, length_s: float | None) -> Iterator[ManifestClip]:
    """The clips of one manifest, read by its ending; DataError names the line of what cannot be parsed."""
    data, suffix = path.read_bytes(), path.suffix.lower()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: this is not UTF-8: save the file as UTF-8.") from None
    if suffix in (".json", ".jsonl"):
        rows = _json_rows(path, text)
    elif suffix in (".csv", ".tsv"):
        rows = _csv_rows(path, text, "," if suffix == ".csv" else "\t")
    else:
        raise DataError(f"{path}: a manifest ends in .csv, .tsv, .json or .jsonl: rename or convert it.")
    for row in rows:
        yield from _clips(row, length_s)


def _csv_rows(path: Path, text: str, delimiter: str) -> Iterator[ManifestRow]:
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    line = 1  # a quoted text may hold newlines: a row is named by its first line
    try:
        for cells in table:
            if not header:
                header = [_known(name.strip()) for name in cells]
            elif len(cells) > len(header):
                raise DataError(
                    f"{path}, line {line}, field {header[-1]}: the row has {len(cells)} cells, the header "
                    f"{len(header)}: put texts that hold a {delimiter!r} into quotes."
                )
            elif 0 < len(cells) < len(header):
                short = header[len(cells)]
                raise DataError(f"{path}, line {line}, field {short}: the row ends before it: complete it.")
            elif cells:
                yield ManifestRow(path, line, dict(zip(header, cells, strict=True)))
            line = table.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: not valid CSV ({error}): check its quotes.") from None


def _known(name: str) -> str:
    """A field's name as this code spells it, whatever its case; an unknown one stays as it is."""
    return FIELDS.get(name.strip().lower(), name)


def _json_rows(path: Path, text: str) -> Iterator[ManifestRow]:
    """The objects of an array, or one after another as in JSON-lines."""
    array = text.lstrip().startswith("[")
    gap, decoder = re.compile(r"[\s,]*" if array else r"\s*"), json.JSONDecoder()
    at, counted, line = text.index("[") + 1 if array else 0, 0, 1

    def next_value(at: int) -> int:
        space = gap.match(text, at)
        return space.end() if space else at

    while (start := next_value(at)) < len(text) and not (array and text[start] == "]"):
        line, counted = line + text.count("\n", counted, start), start
        try:
            value, at = decoder.raw_decode(text, start)
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair could not be stored
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {line}: not valid JSON ({error}): correct this entry.") from None
        if not isinstance(value, dict):
            raise DataError(f'{path}, line {line}: {str(value)[:40]!r} is no object: write {{"audio": "a.wav"}}.')
        yield ManifestRow(path, line, {_known(name): content for name, content in value.items()})
    if array and start == len(text):
        raise DataError(f"{path}, line {text.count(chr(10)) + 1}: the array ends without ]: the file is cut short.")


def _clips(row: ManifestRow, length_s: float | None) -> list[ManifestClip]:
    """One clip for each picture of a row, or one without a picture."""
    kind = _kind(row)
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
    no_picture: list[str | None] = [None]
    return [
        ManifestClip(row, kind, name, picture, meta | {"labels": dict(labels)}, start_s, length_s or kind.excerpt_s)
        for picture in pictures or no_picture
    ]


def _kind(row: ManifestRow) -> Format:
    """The format is known by the field that names the audio."""
    kind = next((kind for kind in FORMATS if kind.audio in row.fields), None)
    if kind is None:
        raise row.error(
            "audio",
            "absent, as are location (ExtMusicCaps) and youtube_video_id (MeLBench), among "
            f"{', '.join(row.fields)[:200]}: name the audio's column so, and separate columns by "
            "commas (tabs in a .tsv)",
        )
    if kind is MELBENCH and (absent := [n for n in (kind.image, kind.caption) if n not in row.fields]):
        raise row.error(absent[0], "absent: MeLBench's columns are image_path, youtube_video_id and Annotation")
    return kind
