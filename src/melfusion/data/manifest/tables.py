"""Files → rows: CSV, JSON, lists of ids and parquet, by the file's ending. An error of a malformed file names its line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from melfusion.data.manifest.formats import FIELDS, OSSL, V2M
from melfusion.data.manifest.rows import SPLIT_WORDS, ManifestRow
from melfusion.errors import ConfigError, DataError

ENDINGS = "a manifest ends in .csv, .tsv, .json, .jsonl, .txt or .parquet"

AT_ONCE = 16  # rows of parquet in memory


def read_rows(path: Path, unpacked: Path | None = None) -> Iterator[ManifestRow]:
    """The rows of one manifest, read by its ending.

    unpacked: a folder for the files that lie within parquet. DataError names the line of what cannot be parsed.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        assert unpacked is not None, "parquet is unpacked"
        yield from _parquet_rows(path, unpacked)
    elif suffix in TEXTS:
        yield from TEXTS[suffix](path, _text(path))
    else:
        raise DataError(f"{path}: {ENDINGS}: rename or convert it.")


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: this is not UTF-8: save the file as UTF-8.") from None


def _csv_rows(path: Path, text: str, delimiter: str = ",") -> Iterator[ManifestRow]:
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


def _listed_rows(path: Path, text: str) -> Iterator[ManifestRow]:
    """One id a line: a list of OSSL-v2, named as a split in a folder `splits`, or one of V2M, named so."""
    split = SPLIT_WORDS.get(path.stem.lower())
    ossl = split is not None and path.parent.name == "splits"
    if not ossl and not path.stem.lower().startswith("v2m"):
        raise DataError(f"{path}: {ENDINGS}; of lists, V2M's (V2M*.txt) and OSSL-v2's (splits/train.txt) are known: rename it.")
    for line, name in enumerate(text.splitlines(), 1):
        if name.strip():
            fields = {OSSL.audio: name.strip(), "split": split} if ossl else {V2M.audio: name.strip()}
            yield ManifestRow(path, line, fields)


TEXTS: dict[str, Callable[[Path, str], Iterator[ManifestRow]]] = {
    ".csv": _csv_rows,
    ".tsv": lambda path, text: _csv_rows(path, text, "\t"),
    ".json": _json_rows,
    ".jsonl": _json_rows,
    ".txt": _listed_rows,
}


def _parquet_rows(path: Path, unpacked: Path) -> Iterator[ManifestRow]:
    """Rows whose embedded files, as Hugging Face's Audio and Image features store them, are written to `unpacked`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"manifest={path}: parquet needs the package pyarrow: run `pip install 'melfusion[parquet]'`.") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(batch_size=AT_ONCE) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                fields = {_known(name): _unpacked(value, name, unpacked) for name, value in row.items()}
                yield ManifestRow(path, number, fields, unpacked)
    except (pyarrow.ArrowInvalid, OSError) as error:
        words = str(error).splitlines()[0].partition(". ")[0][:100]
        raise DataError(f"{path}: this parquet cannot be read ({words}): fetch it again, or make room on the disk.") from None


def _unpacked(value: Any, column: str, folder: Path) -> Any:
    """A value as JSON has it. Bytes, alone or with a path, become a file, and the value its name below the folder."""
    if isinstance(value, list):
        return [_unpacked(one, column, folder) for one in value]
    data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) and "bytes" in value else (value, None)
    if isinstance(data, bytes):
        place = Path(hashlib.sha256(data).hexdigest()[:16], Path(str(name or column).replace("\\", "/")).name)
        if not (folder / place).is_file():
            (folder / place).parent.mkdir(exist_ok=True)
            (folder / place).write_bytes(data)
        return str(place)
    if data is not value:  # a file beside the parquet
        return name
    return value if value is None or isinstance(value, str | int | float | bool | dict) else str(value)
