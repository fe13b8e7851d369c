"""Rows → clips, by the format of each row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from melfusion.data.manifest.formats import FORMATS, OWN
from melfusion.data.manifest.rows import VIDEO_ID, Format, ManifestClip, ManifestRow


def read_clips(rows: Iterable[ManifestRow], length_s: float | None) -> Iterator[ManifestClip]:
    """The clips of some rows. `length_s`: of excerpts; None: that of the format."""
    for row in rows:
        yield from _clips(row, length_s)


def _clips(row: ManifestRow, length_s: float | None) -> list[ManifestClip]:
    """The clip of a row with all its pictures, or where the format does not join them, one for each."""
    kind = _kind(row)
    kind.tidy(row)
    name, captions = row.text(kind.audio), row.texts(kind.caption)
    pictures = tuple(text for column in kind.images for text in row.texts(column))
    if not name:
        raise row.error(kind.audio, "empty: name the audio, or remove the row")
    if kind.named == "video" and not re.fullmatch(VIDEO_ID, name):
        raise row.error(kind.audio, f"{name[:60]!r} is not the 11-character id of a video: correct it")
    about = {n: row.text(n) for n in ("title", "source", "license")}
    about["source"] = about["source"] or ("" if kind is OWN else kind.title)
    start_s, split, labels = row.start_s(), row.split(), row.labels()
    labels = kind.labels(row, name) | labels
    if len(captions) > 1:
        labels["captions"] = captions
    meta = {"caption": captions[0] if captions else "", **about, "split": split}
    samples = [pictures] if kind.joined or not pictures else [(picture,) for picture in pictures]
    return [
        ManifestClip(row, kind, name, shown, meta | {"labels": dict(labels)}, start_s, length_s or kind.excerpt_s)
        for shown in samples
    ]


def _kind(row: ManifestRow) -> Format:
    """The format is known by the field that names the audio."""
    kind = next((kind for kind in FORMATS if kind.audio in row.fields), None)
    if kind is None:
        others = ", ".join(f"{kind.audio} ({kind.title})" for kind in FORMATS if kind is not OWN)
        raise row.error(
            "audio",
            f"absent, as are {others}, among {', '.join(row.fields)[:200]}: name the audio's column so, and separate columns by "
            "commas (tabs in a .tsv)",
        )
    if absent := [name for name in kind.needed if name not in row.fields]:
        raise row.error(absent[0], f"absent: {kind.layout}")
    return kind
