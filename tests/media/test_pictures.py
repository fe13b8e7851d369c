"""Picture bytes → pixels: every mode that files come in, and files that cannot be used."""

import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from data_fixtures import encoded, noise_picture
from PIL import Image

from melfusion.assembly.configuration import load_config
from melfusion.assembly.pipeline import Pipeline
from melfusion.errors import BadSample, ConfigError
from melfusion.media.pictures import open_image, read_image, to_pixels


def flat(mode: str, colour, size=(6, 4), **options) -> bytes:
    return encoded(Image.new(mode, size, colour), **options)


def reason(data: bytes, **limits) -> str:
    with pytest.raises(BadSample) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(data, 8, **limits)
    return str(caught.value)


def corner(data: bytes, size_px: int = 4) -> list[float]:
    """RGB of the first pixel, 0 … 255."""
    pixels = read_image(data, size_px)
    assert pixels.shape == (3, size_px, size_px) and pixels.dtype == np.float32
    return [round(float(v), 1) for v in (pixels[:, 0, 0] + 1) * 127.5]


WHITE, RED = [255, 255, 255], [255, 0, 0]


def palette(transparency=None) -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    return encoded(image, **({} if transparency is None else {"transparency": transparency}))


MODES = {
    "RGB": (flat("RGB", (255, 0, 0)), RED),
    "opaque RGBA": (flat("RGBA", (255, 0, 0, 255)), RED),
    "clear RGBA": (flat("RGBA", (255, 0, 0, 0)), WHITE),
    "thin RGBA": (flat("RGBA", (255, 0, 0, 51)), [255, 204, 204]),
    "RGB with a clear colour": (flat("RGB", (255, 0, 0), transparency=(255, 0, 0)), WHITE),
    "L": (flat("L", 100), [100, 100, 100]),
    "L with a clear grey": (flat("L", 100, transparency=100), WHITE),
    "opaque LA": (flat("LA", (100, 255)), [100, 100, 100]),
    "clear LA": (flat("LA", (100, 0)), WHITE),
    "1-bit white": (flat("1", 1), WHITE),
    "1-bit black": (flat("1", 0), [0, 0, 0]),
    "palette": (palette(), RED),
    "palette with a clear colour": (palette(1), WHITE),
    "palette with opacities": (palette(b"\xff\x33"), [255, 204, 204]),
    "16-bit": (flat("I;16", 0x8080), [128, 128, 128]),
    "32-bit": (encoded(Image.new("I", (4, 4), 0x8080), "TIFF"), [128, 128, 128]),
    "float": (encoded(Image.new("F", (4, 4), 0.5), "TIFF"), [128, 128, 128]),
    "black CMYK": (encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 255)), "JPEG"), [0, 0, 0]),
    "white CMYK": (encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG"), WHITE),
    "WebP": (encoded(Image.new("RGB", (4, 4), "red"), "WEBP", lossless=True), RED),
    "clear WebP": (encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "WEBP", lossless=True, exact=True), WHITE),
    "GIF": (encoded(Image.new("RGB", (4, 4), "red"), "GIF"), RED),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_over_white(mode):
    data, wanted = MODES[mode]
    assert corner(data) == wanted


def test_a_16_bit_gradient_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 16 * 16).round().astype(np.uint16).reshape(16, 16)
    pixels = read_image(encoded(Image.fromarray(ramp)), 16)
    np.testing.assert_allclose(pixels[0], ramp / 65535 * 2 - 1, atol=1.01 / 255)
    assert pixels.min() == -1 and pixels.max() == 1 and len(np.unique(pixels)) > 200


def test_pixels_lie_between_minus_one_and_one_and_use_it():
    """Defect 4 of the release: [-1, 509] in training, 0 … 255 at inference."""
    pixels = read_image(encoded(noise_picture(0, 64, 64)), 64)
    assert pixels.min() == -1 and pixels.max() == 1 and abs(pixels.mean()) < 0.02
    wanted = np.asarray(noise_picture(0, 64, 64)).transpose(2, 0, 1) / np.float32(127.5) - 1
    np.testing.assert_array_equal(pixels, wanted)


def test_generation_and_training_read_a_picture_alike(tmp_path):
    """Defect 4: one function for both sides."""
    config = load_config("tiny")
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(noise_picture(1).convert("RGBA")))
    pipe = Pipeline(torch.nn.Linear(1, 1), config)
    pipe.system.device = "cpu"
    given = pipe.pixels(str(path))
    np.testing.assert_array_equal(given.numpy()[0], read_image(path.read_bytes(), 16))
    path.write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="photo.png is an unreadable image: give a PNG"):
        pipe.pixels(path)
    with pytest.raises(ConfigError, match="no such file"):
        pipe.pixels(tmp_path / "none.png")


def test_pixels_are_the_bits_of_the_formula():
    every = Image.fromarray(np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3))
    wanted = np.asarray(every, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1.0
    assert to_pixels(every, 16).tobytes() == wanted.tobytes()


def test_the_centre_is_kept():
    bars = np.zeros((8, 24, 3), np.uint8)
    bars[:, 8:16] = (0, 255, 0)
    for picture in (bars, bars.transpose(1, 0, 2)):
        pixels = (read_image(encoded(Image.fromarray(picture)), 8) + 1) * 127.5
        np.testing.assert_allclose(pixels[:, 1:-1, 1:-1].mean((1, 2)), [0, 255, 0], atol=1)


def test_shrinking_averages():
    checks = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    np.testing.assert_allclose(read_image(encoded(checks), 8), 0.0, atol=0.02)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (300, 2), (33, 31)])
def test_odd_sizes_are_filled(size):
    assert corner(flat("RGB", (255, 0, 0), size), 16) == RED


def test_a_very_wide_picture_costs_no_more_memory_than_itself(monkeypatch):
    """60000 × 1 at 512 px: 30.7 million × 512 pixels if resized whole."""
    resize = Image.Image.resize

    def small(self, size, *args, **kwargs):
        assert size[0] * size[1] <= 4 * 512 * 512, size
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", small)
    assert read_image(flat("RGB", (255, 0, 0), (60000, 1)), 512).shape == (3, 512, 512)


def test_a_photo_taken_upright_stands_upright():
    halves = np.zeros((16, 16, 3), np.uint8)
    halves[:, :8] = 255  # the camera's left is the photo's top
    image = Image.fromarray(halves)
    exif = image.getexif()
    exif[0x0112] = 6
    pixels = read_image(encoded(image, "JPEG", exif=exif, quality=95), 16)
    assert pixels[:, :7].mean() > 0.9 and pixels[:, 9:].mean() < -0.9


# --- files that cannot be used --------------------------------------------------------------------------------------


def test_an_empty_file_says_so():
    assert reason(b"") == "empty image"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_and_foreign_files_are_unreadable(kind):
    whole = encoded(noise_picture(2, 64, 64), kind)
    for data in (whole[: len(whole) // 2], whole[:30], b"\0" * 64 + whole, b"<svg/>"):
        assert reason(data) == "unreadable image"


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    data = flat("L", 0, (200, 100))
    assert read_image(data, 8, max_pixels=20_000).shape == (3, 8, 8)

    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    assert reason(data, max_pixels=19_999) == "image larger than data.max_image_pixels=19999"


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few dozen bytes that says it has width × height pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 12_000, 30_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused(side):
    assert "image" in reason(bomb(side, side))


@pytest.mark.parametrize("side", [12_000, 30_000])
def test_a_bomb_is_counted_as_too_large_not_as_unreadable(side):
    assert reason(bomb(side, side)) == "image larger than data.max_image_pixels=50000000"


def test_the_limit_can_be_raised():
    assert open_image(encoded(Image.new("1", (10_000, 9_000))), max_pixels=100_000_000).size == (10_000, 9_000)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_hostile_bytes_never_raise_anything_else():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = bytearray(encoded(noise_picture(3, 12, 12), kind))
        for _ in range(60):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 4):
                data[at] = rng.integers(256)
            try:
                pixels = to_pixels(open_image(bytes(data), 10_000), 8)
            except BadSample as error:
                assert str(error) in ("unreadable image", "image larger than data.max_image_pixels=10000")
            else:
                assert np.isfinite(pixels).all() and np.abs(pixels).max() <= 1
