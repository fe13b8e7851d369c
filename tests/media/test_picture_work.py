"""What a picture would cost is counted before it is decoded; ordinary ones of every kind pass."""

import struct
import zlib

import pytest
from data_fixtures import data_set, encoded, make_sample, noise_picture
from PIL import Image, ImageFile

from melfusion.data.datamodule import MusicDataModule
from melfusion.errors import BadSample
from melfusion.media import picture_work
from melfusion.media.pictures import open_image


def chunk(name, data=b""):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def progressive(extra=0, size=16, **options):
    """A progressive JPEG whose last scan is sent `extra` times more."""
    data = encoded(noise_picture(0, size, size), "JPEG", progressive=True, **options)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last * extra + b"\xff\xd9"


def tiff(tags, tail=b"", order="<"):
    """A TIFF of (tag, type, values), where the value "tail" is the offset of the bytes `tail`."""
    head, rest, width = 8 + 2 + 12 * len(tags) + 4, b"", {3: "H", 4: "L"}
    body = struct.pack(f"{order}H", len(tags))
    for tag, kind, values in sorted(tags):
        packed = struct.pack(f"{order}{len(values)}{width[kind]}", *(head if v == "tail" else v for v in values))
        body += struct.pack(f"{order}HHL", tag, kind, len(values))
        body += packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}L", head + len(tail) + len(rest))
        rest += packed if len(packed) > 4 else b""
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    return start + body + b"\0" * 4 + tail + rest


GREY = [(256, 4, [16]), (257, 4, [16]), (258, 3, [8]), (262, 3, [1]), (277, 3, [1])]
FLOODS = {
    "jpeg": lambda d: d[:2] + b"\xff\xfe\x00\x02" * 100_001 + d[2:],
    "png": lambda d: d[:33] + chunk(b"tEXt") * 100_001 + d[33:],
    "idat": lambda d: d[:33] + chunk(b"IDAT") * 100_001 + d[33:],
    "gif": lambda d: d[: d.rfind(b"\x2c\0\0\0\0")] + b"\x21\xfe" + b"\x01a" * 100_001 + b"\0" + d[d.rfind(b"\x2c\0\0\0\0") :],
    "gif junk": lambda d: d[: d.rfind(b"\x2c\0\0\0\0")] + b"a" * 100_001 + d[d.rfind(b"\x2c\0\0\0\0") :],
}


@pytest.fixture
def no_decoding(monkeypatch):
    def decoded(self):
        raise AssertionError("it is decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)


def test_scans_are_counted_in_their_own_picture_alone():
    assert picture_work.scans(progressive()) == 10 and picture_work.scans(progressive(25)) == 35
    assert picture_work.scans(encoded(noise_picture(), "JPEG")) == 1
    thumbnail = b"\xff\xe1\x00\x0c" + b"\xff\xda" * 5  # 10 bytes of a segment, as an EXIF thumbnail holds them
    plain = encoded(noise_picture(), "JPEG", restart_marker_blocks=1)
    assert picture_work.scans(plain[:2] + thumbnail + plain[2:] + progressive()) == 1


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(no_decoding):
    with pytest.raises(BadSample, match="more pixels × scans than data.max_image_work=8960"):
        open_image(progressive(26), max_work=35 * 256)
    with pytest.raises(BadSample) as caught:
        open_image(progressive(25), max_work=35 * 256)
    assert str(caught.value.__cause__) == "it is decoded"
    picture = bytearray(progressive(1000))
    at = picture.find(b"\xff\xc2") + 5
    picture[at : at + 4] = struct.pack(">2H", 7000, 7000)
    with pytest.raises(BadSample, match="data.max_image_work=1000000000"):
        open_image(bytes(picture))


@pytest.mark.parametrize("flood", FLOODS)
def test_pieces_without_end_are_refused_before_anything_is_read(flood, monkeypatch):
    kind = {"idat": "PNG"}.get(flood, flood.split()[0].upper())
    data = FLOODS[flood](encoded(noise_picture(), kind))
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(BadSample, match="more than 100000 markers, chunks or strips"):
        open_image(data)


@pytest.mark.parametrize("order", "<>")
def test_strips_and_tiles_of_a_tiff_are_counted(order, no_decoding):
    strips = tiff([*GREY, (259, 3, [1]), (278, 3, [1]), (273, 4, [8] * 100_001), (279, 4, [8] * 100_001)], order=order)
    with pytest.raises(BadSample, match="more than 100000"):
        open_image(strips)
    packed = zlib.compress(bytes(1 << 20))
    tile = [*GREY, (259, 3, [8]), (322, 4, [40_000]), (323, 4, [40_000]), (324, 4, ["tail"]), (325, 4, [len(packed)])]
    with pytest.raises(BadSample, match="data.max_image_work"):
        open_image(tiff(tile, packed, order))


def test_a_run_length_encoded_bmp_costs_what_its_bytes_do(no_decoding):
    pixels = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 1078) + struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, 0, 0, 0, 256, 0)
    with pytest.raises(BadSample, match="data.max_image_work"):
        open_image(pixels + bytes(1024) + b"\0\0" * 2_000_000 + b"\0\1")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ordinary_pictures_pass_and_damaged_ones_are_only_unreadable(kind):
    many = [noise_picture(i) for i in range(3)]
    for options in ({}, {"save_all": True, "append_images": many[1:]} if kind in ("GIF", "WEBP", "TIFF", "PNG") else {}):
        assert open_image(encoded(many[0], kind, **options)).size == (20, 16)
    whole = encoded(many[0], kind)
    for size in range(2, min(len(whole), 200)):
        with pytest.raises(BadSample, match="unreadable image"):
            open_image(whole[:size])


def test_a_sample_whose_picture_costs_too_much_is_replaced(tiny, tmp_path):
    samples = [make_sample("a", image=progressive(50), image_ext="jpg"), *(make_sample(key, image=progressive()) for key in "bcd")]
    config = tiny(f"data.path={data_set(tmp_path / 'set', samples)}", f"data.max_image_work={20 * 256}")
    batch = next(iter(MusicDataModule(config.data, config.audio).train_dataloader()))
    assert batch.replaced == [("train-000000.tar:a", f"image of more pixels × scans than data.max_image_work={20 * 256}")]
