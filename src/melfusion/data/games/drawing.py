"""Pictures of scenes: opening a game's art, tiling and scaling it; the size of the result, and how much it must show."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from melfusion.data.games.scene import Skip
from melfusion.media.pictures import read_header

SIZE = (256, 192)  # pixels, width and height of every picture

MAX_PIXELS = 1 << 24


def open_rgba(path: Path, scale: float = 1) -> Image.Image:
    """A picture file as RGBA."""
    try:
        with read_header(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Skip("picture too large")
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            return image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    except Skip:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on broken files
        raise Skip("unreadable picture") from error


def cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled to fill `size` (width, height), centre-cropped; a picture much narrower than that is stretched."""
    scale = max(size[0] / image.width, size[1] / image.height)
    wide, high = size[0] / scale, size[1] / scale
    if high < image.height / 2:
        wide, high = image.size
    left, top = max(0, (image.width - wide) / 2), max(0, (image.height - high) / 2)  # rounding may end just below 0
    return image.resize(size, Image.Resampling.LANCZOS, box=(left, top, image.width - left, image.height - top))


def finish(canvas: Image.Image) -> Image.Image:
    """The picture of a scene; Skip where nothing changes from left to right (a plain sky, or a gradient)."""
    picture = cover(canvas.convert("RGB"), SIZE)
    if np.asarray(picture, np.float32).std(axis=1).mean() < 3:
        raise Skip("picture nearly empty")
    return picture


def tile(canvas: Image.Image, image: Image.Image, x: float, y: float, rows: Callable[[int], Image.Image] | None = None) -> None:
    """Repeat `image` sideways through (x, y); with `rows` also up and down, `rows(n)` being the n-th row's image."""
    width, height = image.size
    numbers = range(math.floor(-y / height), math.ceil((canvas.height - y) / height)) if rows else (0,)
    for number in numbers:
        piece = rows(number) if rows else image
        for left in range(round(x) % width - width, canvas.width, width):
            canvas.paste(piece, (left, round(y) + number * height), piece)
