"""Picture bytes → pixels in [-1, 1], RGB: the one function that training, generation and the tools share."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from melfusion.errors import BadSample
from melfusion.media import picture_work

MAX_PIXELS, MAX_WORK = 50_000_000, 1_000_000_000  # data.max_image_pixels and data.max_image_work, unless given

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # no format whose decoder starts another program


@dataclass(frozen=True)
class OpenedPicture:
    """A picture file that is decoded already: what it shows, and the file that a record names."""

    path: str | Path
    image: Image.Image


def read_image(data: bytes, size_px: int, max_pixels: int = MAX_PIXELS, max_work: int = MAX_WORK) -> np.ndarray:
    """Encoded bytes → float32 (3, size_px, size_px) in [-1, 1].

    The central square is resized to `size_px`. Transparency lies on white, grey becomes RGB, 16-bit values are
    scaled to 8 bits, and EXIF orientation is obeyed. Raises BadSample with the reason.
    """
    return to_pixels(open_image(data, max_pixels, max_work), size_px)


def open_image(data: bytes, max_pixels: int = MAX_PIXELS, max_work: int = MAX_WORK) -> Image.Image:
    """Encoded bytes → a decoded PIL image. Its size, and pixels × scans, are checked before a pixel is decoded."""
    if not data:
        raise BadSample("empty image")
    try:
        passes = picture_work.scans(data)
        image = read_header(io.BytesIO(data))
        if image.width * image.height > max_pixels:
            raise BadSample(f"image larger than data.max_image_pixels={max_pixels}")
        if picture_work.work(image, data, passes) > max_work:
            raise BadSample(f"image of more pixels × scans than data.max_image_work={max_work}")
        image.load()
        image = ImageOps.exif_transpose(image)  # a phone's picture stands upright
    except BadSample:
        raise
    except Exception as error:  # Pillow's decoders raise anything from OSError to struct.error on hostile bytes
        raise BadSample("unreadable image") from error
    return image


def read_header(file: IO[bytes] | Path) -> Image.Image:
    """A picture of which no pixel is decoded yet.

    Every caller has a limit of its own. Pillow's, which holds for the whole process, is switched off.
    """
    Image.MAX_IMAGE_PIXELS = None
    return Image.open(file, formats=FORMATS)


def to_pixels(image: Image.Image, size_px: int) -> np.ndarray:
    """PIL image of any mode → float32 (3, size_px, size_px) in [-1, 1]."""
    image = to_rgb(image)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # cropped before it is resized: a 1 × 10,000 picture must not become 512 × 5,120,000
    square = image.crop((left, top, left + side, top + side)).resize((size_px, size_px), Image.Resampling.BICUBIC)
    planes = np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))  # as bytes, of which there are a quarter
    pixels = planes.astype(np.float32)
    pixels /= np.float32(127.5)
    pixels -= np.float32(1.0)
    return pixels


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode → RGB: 16-bit scaled (Pillow would clip it), transparency composed over white."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, dtype=np.float32)
        top = 65535.0 if image.mode != "F" or grey.max(initial=0) > 255 else (255.0 if grey.max(initial=0) > 1 else 1.0)
        return Image.fromarray((np.clip(grey / top, 0, 1) * 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
