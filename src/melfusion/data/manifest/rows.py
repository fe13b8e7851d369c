"""What a manifest is made of: its format, rows and clips. An error of a malformed row names file, line and field."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from melfusion.data.shards import SPLITS
from melfusion.errors import DataError

SPLIT_WORDS = {split: split for split in SPLITS} | {"valid": "val", "validation": "val", "dev": "val"}


VIDEO_ID = r"[A-Za-z0-9_-]{11}"


@dataclass(frozen=True)
class Format:
    """One kind of manifest.

    audio, images, caption: names of its fields.
    excerpt_s: length of its excerpts.  ratios: of train, val and test.
    named: how its audio is found: by path | name (anywhere below audio_dir) | video (by the id in a file's name).
    cut: when a longer file is cut: asked (a row has start_s) | stated (the row or the file's name says where) | always (else at 0).
    joined: the pictures of a row belong to one sample; otherwise each makes a sample of its own.
    films: where image_dir is given, the film there that is named as the audio is the picture.
    needed: other fields that a row must have, and `layout`, the sentence where one is absent.
    tidy: brings the fields of a row into this form.  labels: further labels, from a row and the audio's name.
    placed: called with a clip whose files were found.
    """

    title: str
    audio: str
    images: tuple[str, ...] = ()
    caption: str = "caption"
    excerpt_s: float = 10.24
    ratios: tuple[float, ...] = (80, 10, 10)
    named: str = "name"
    cut: str = "asked"
    joined: bool = True
    films: bool = False
    needed: tuple[str, ...] = ()
    layout: str = ""
    tidy: Callable[[ManifestRow], None] = field(default=lambda row: None)
    labels: Callable[[ManifestRow, str], dict[str, Any]] = field(default=lambda row, name: {})
    placed: Callable[[ManifestClip], None] = field(default=lambda clip: None)

    @property
    def image(self) -> str:
        """How reports name a picture."""
        return self.images[0] if self.images else "video"


@dataclass
class ManifestRow:
    """One row of a manifest; known fields are taken out of `fields`, the rest becomes labels.

    unpacked: the folder of the files that lay within the manifest itself.
    """

    manifest: Path
    line: int
    fields: dict[str, Any]
    unpacked: Path | None = None

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


@dataclass(frozen=True)
class PictureFile:
    """A file of a clip's pictures. `ext`: what it keeps in a shard, empty where it must be encoded again or is a film.

    top: does it lie in the folder of all pictures, rather than in one below?
    """

    path: Path
    ext: str
    film: bool = False
    top: bool = True


@dataclass
class ManifestClip:
    """One future sample. Its row gives the first fields; `files.locate` adds its files and facts about them."""

    row: ManifestRow
    kind: Format
    name: str  # the audio: a path or a video id
    pictures: tuple[str, ...]
    meta: dict[str, Any]
    start_s: float | None  # where the excerpt starts; from `locate` on, None stores the file as it is
    excerpt_s: float
    audio: Path = Path()
    images: tuple[PictureFile, ...] = ()
    digests: tuple[str, ...] = ()  # of the audio file and the pictures
    track: str = ""  # what clips of one recording share, where that is not the audio's name

    def key(self) -> str:
        """Letters, digits, - and _. It depends on contents, not on where the files lie or on the order of rows."""
        facts = json.dumps([self.digests, self.start_s, self.meta | {"split": None}], sort_keys=True)
        stem = self.name if self.kind.named == "video" else Path(self.name).stem
        slug = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{self.meta['labels'].get('genre', '')}-{stem}")[:80].lstrip("-_")
        return f"{slug}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}".lstrip("-")
