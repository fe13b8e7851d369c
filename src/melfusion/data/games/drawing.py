"""Pictures of scenes: opening a game's art, tiling and scaling it; the size of the result, and how much it must show."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from melfusion.data.games.scene import Skip
from melfusion.media.pictures import read_header

SIZE = (256, 192)  # pixels, width and height of a drawn level, and the least of a picture that is a file

MAX_PIXELS = 1 << 24

MAX_SCENE_PIXELS = 1 << 26  # of a picture that is only scaled down


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


def open_scene(path: Path, crop: tuple[int, int] | None = None) -> Image.Image:
    """A scene that the game ships as a file, RGB, in its own shape, its short side scaled to 256 px; Skip where it is none.

    It must be at least 256 px wide and 192 px high, at most four times as long as high, opaque, and change from left to right.
    What is more than twice as long as high, or higher than long by more than 3:2, is cropped to that at its centre. `crop` is the
    width and height of the part, from the top left, that is looked at.
    """
    try:
        with open_picture(path) as image:
            if image.width < SIZE[0] or image.height < SIZE[1]:
                raise Skip("picture smaller than 256 x 192 px")
            if image.width * image.height > MAX_SCENE_PIXELS or not 1 / 2 <= image.width / image.height <= 4:
                raise Skip("picture too large, too long or too high")
            image.draft("RGB", (512, 512))  # a JPEG is decoded at about the size that is needed
            picture = image.convert("RGBA").crop((0, 0, *crop)) if crop else image.convert("RGBA")
    except Skip:
        raise
    except Exception as error:  # as above
        raise Skip("unreadable picture") from error
    if np.asarray(picture.getchannel("A").reduce(8)).mean() < 0.9 * 255:
        raise Skip("picture with holes: a sprite or an overlay")
    width, height = min(picture.width, 2 * picture.height), min(picture.height, 3 * picture.width // 2)
    short = min(width, height)
    size = (round(256 * width / short), round(256 * height / short))
    canvas = Image.new("RGBA", picture.size, "black")
    canvas.alpha_composite(picture)
    picture = cover(canvas.convert("RGB"), size)
    if np.asarray(picture, np.float32).std(axis=1).mean() < 3:
        raise Skip("picture nearly empty")
    return picture


def open_picture(path: Path) -> Image.Image:
    """A picture of which no pixel is decoded yet; games also ship older formats, which Pillow decodes by itself."""
    kind = path.suffix.lower()
    return Image.open(path, formats=(kind[1:].upper(),)) if kind in (".tga", ".dds", ".pcx") else read_header(path)
