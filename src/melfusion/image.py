"""Picture bytes → pixels in [-1, 1], RGB: the one function that training, generation and the tools share."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from melfusion.audio import BadSample


def read_image(data: bytes, size_px: int, max_pixels: int = 50_000_000) -> np.ndarray:
    """Encoded bytes → float32 (3, size_px, size_px) in [-1, 1].

    The picture is resized so that its short side is `size_px` and the centre is cropped. Transparency lies on
    white, grey becomes RGB, 16-bit values are scaled to 8 bits. Raises BadSample with the reason.
    """
    return to_pixels(open_image(data, max_pixels), size_px)


def open_image(data: bytes, max_pixels: int = 50_000_000) -> Image.Image:
    """Encoded bytes → a decoded PIL image; its size is checked before a pixel is decoded."""
    if not data:
        raise BadSample("empty image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > max_pixels:
                raise BadSample(f"image larger than data.max_image_pixels={max_pixels}")
            image.load()
    except BadSample:
        raise
    except Exception as error:  # Pillow's decoders raise anything from OSError to struct.error on hostile bytes
        raise BadSample("unreadable image") from error
    return image


def to_pixels(image: Image.Image, size_px: int) -> np.ndarray:
    """PIL image of any mode → float32 (3, size_px, size_px) in [-1, 1]."""
    image = to_rgb(image)
    scale = size_px / min(image.size)
    image = image.resize([max(size_px, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (image.width - size_px) // 2, (image.height - size_px) // 2
    image = image.crop((left, top, left + size_px, top + size_px))
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1.0


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
