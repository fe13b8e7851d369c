"""What a file is by its first bytes, in words, for errors about files that are no pictures. No heavy imports."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from melfusion.errors import BadSample, ConfigError
from melfusion.media.pictures import open_image, read_header, to_pixels, to_rgb

MOST_BYTES = 256 << 20

CONVERT, WANTED = "convert it to PNG", "give a PNG, JPEG or WebP picture"

# first bytes, what that is, what to do
KINDS = (
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?(<!--.*?-->\s*)*<svg[\s>]", "an SVG drawing", CONVERT),
    (rb"....ftyp(heic|heix|hevc|hevx|heim|heis|mif1|msf1)", "a HEIC picture", CONVERT),
    (rb"....ftypavi[fs]", "an AVIF picture", CONVERT),
    (rb"....ftyp", "a film or sound in an MP4 container", WANTED),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL picture", CONVERT),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 picture", CONVERT),
    (rb"%PDF-", "a PDF", CONVERT),
    (rb"%!PS", "a PostScript file", CONVERT),
    (rb"8BPS", "a Photoshop file", CONVERT),
    (rb"RIFF....WAVE|fLaC|OggS|ID3|\xff[\xfb\xf3\xf2\xfa]|FORM....AIF|caff|wvpk", "a sound file", WANTED),
    (rb"\x1aE\xdf\xa3|RIFF....AVI ", "a film", WANTED),
    (rb"\s*(<!doctype html|<html)", "a web page", "save the picture itself"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|ustar", "an archive", "give the picture in it"),
)


def kind_of(data: bytes) -> tuple[str, str] | None:
    """Bytes → (what it is, what to do); None where the first bytes are not known."""
    for pattern, what, cure in KINDS:
        if re.match(pattern, data[:4096], re.DOTALL | re.IGNORECASE if b"<" in pattern else re.DOTALL):
            return what, cure
    return None


def picture_bytes(option: str, path: str | Path) -> bytes:
    """The bytes of a picture that a user named. Only its header is checked; ConfigError says what the file is instead."""
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f"{option}={path} is a folder: give a file, such as {file / 'picture.png'}.")
    if not file.exists():
        raise ConfigError(f"{option}={path}: there is no such file.")
    if not file.is_file():
        raise ConfigError(f"{option}={path} is no regular file: {WANTED}.")
    if (large := file.stat().st_size) > MOST_BYTES:
        raise ConfigError(f"{option}={path} has {large >> 20} MiB, more than {MOST_BYTES >> 20}: give a smaller picture.")
    data = file.read_bytes()
    if not data:
        raise ConfigError(f"{option}={path} is empty (0 bytes): {WANTED}.")
    try:
        read_header(io.BytesIO(data)).close()
    except Exception:  # of hostile bytes Pillow raises anything from OSError to struct.error
        what, cure = kind_of(data) or ("an unreadable image", WANTED)
        raise ConfigError(f"{option}={path} is {what}: {cure}.") from None
    return data


def open_picture(option: str, path: str | Path, max_pixels: int, max_work: int) -> Image.Image:
    """A picture that a user named, decoded and upright, RGB; ConfigError where it cannot be read."""
    try:
        return to_rgb(open_image(picture_bytes(option, path), max_pixels, max_work))
    except BadSample as error:
        raise ConfigError(f"{option}={path}: {error}; {WANTED}.") from error


def read_picture(option: str, path: str | Path, size_px: int, max_pixels: int, max_work: int) -> np.ndarray:
    """The same as float32 (3, size_px, size_px) in [-1, 1]."""
    return to_pixels(open_picture(option, path, max_pixels, max_work), size_px)
