"""What it costs to decode an encoded picture, counted in its bytes before anything is decoded.

A few hundred kilobytes may need hours: a progressive JPEG may have a thousand scans over all of its pixels, a PNG a million chunks.
The counts do not depend on the machine, so the same pictures are refused everywhere.
"""

from __future__ import annotations

import re
import struct
from itertools import islice
from typing import Any

from melfusion.errors import BadSample

MAX_PIECES = 100_000  # markers, chunks, blocks or strips: Pillow reads each of them in Python, some microseconds apiece

RLE_WORK = 256  # pixels × scans that take as long as one byte of a run-length encoded BMP, which Pillow decodes in Python

MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd8])")  # without those that have no length, which may be within a scan

START_OF_SCAN, END_OF_IMAGE = b"\xda", b"\xd9"

STRIP_TAGS = (273, 324)  # TIFF: where strips and tiles lie

TILE_WIDTH, TILE_LENGTH = 322, 323


def scans(data: bytes) -> int:
    """How often decoding passes over all pixels; BadSample for more than MAX_PIECES pieces.

    Bytes that are no picture, or a damaged one, are left for the decoder to refuse.
    """
    for start, count in ((b"\xff\xd8", _jpeg), (b"\x89PNG", _png), (b"GIF8", _gif), (b"II", _tiff), (b"MM", _tiff)):
        if data.startswith(start):
            try:
                return count(data)
            except (struct.error, IndexError):  # it ends within a header
                return 1
    return 1


def work(image: Any, data: bytes, passes: int) -> int:
    """Pixels × scans of a picture that Pillow has opened and not decoded."""
    pixels = image.width * image.height
    if image.format == "TIFF" and TILE_WIDTH in image.tag_v2:  # one tile may be larger than the picture
        pixels = max(pixels, _one(image.tag_v2[TILE_WIDTH]) * _one(image.tag_v2.get(TILE_LENGTH, 0)))
    if image.format == "BMP" and any(tile[0] == "bmp_rle" for tile in image.tile):
        return max(pixels, RLE_WORK * len(data))
    return pixels * passes


def _one(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _many(pieces: int) -> None:
    if pieces > MAX_PIECES:
        raise BadSample(f"image of more than {MAX_PIECES} markers, chunks or strips")


def _jpeg(data: bytes) -> int:
    """Scans of the first picture; what follows its end is another's."""
    position, found = 2, 0
    for piece in range(MAX_PIECES + 2):
        _many(piece)
        marker = MARKER.search(data, position)
        if not marker or marker[1] == END_OF_IMAGE:
            break
        found += marker[1] == START_OF_SCAN
        position = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))
    return max(1, found)


def _png(data: bytes) -> int:
    position, pieces = 8, 0
    while position < len(data) and data[position + 4 : position + 8] != b"IEND":
        position += 12 + int.from_bytes(data[position : position + 4], "big")
        _many(pieces := pieces + 1)
    return 1


def _gif(data: bytes) -> int:
    """Blocks before the first frame."""
    position, pieces = 13 + (3 << (data[10] & 7) + 1 if data[10] & 128 else 0), 0
    while position < len(data) and data[position : position + 1] not in (b",", b";"):
        _many(pieces := pieces + 1)
        if data[position] != 0x21:  # no extension: Pillow goes on with the next byte
            position += 1
            continue
        position += 2
        while data[position]:
            position += 1 + data[position]
            _many(pieces := pieces + 1)
        position += 1
    return 1


def _tiff(data: bytes) -> int:
    """Strips and tiles of the first picture."""
    order = "<" if data.startswith(b"II") else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    (start,) = struct.unpack_from(f"{order}Q", data, 8) if big else struct.unpack_from(f"{order}L", data, 4)
    (entries,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, start)
    entry = struct.Struct(f"{order}HHQ8x" if big else f"{order}HHL4x")
    body = memoryview(data)[start + (8 if big else 2) :]
    for tag, _, count in islice(entry.iter_unpack(body[: len(body) // entry.size * entry.size]), min(entries, 1 << 16)):
        if tag in STRIP_TAGS and 2 * count <= len(data):  # more are damage, which Pillow sees
            _many(count)
    return 1
