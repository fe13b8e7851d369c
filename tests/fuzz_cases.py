"""Seeded hostile files: whole ones of every kind that is read, and what an attacker, a bad disk or a bad copy makes of them."""

import copy
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import torch
from data_fixtures import encoded, noise_picture, sound, tone
from safetensors.torch import save

# Names that a pickle may ask for; none of them may ever be looked up
GLOBALS = [
    ("os", "system"),
    ("builtins", "exec"),
    ("builtins", "eval"),
    ("subprocess", "Popen"),
    ("builtins", "open"),
    ("torch", "load"),
]
NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**62, 2**64 - 1]
ODD = [None, True, -1, 2**70, 1e308, "", "../../evil", "/etc/passwd", "a" * 5000, "\ud800", "\0", [], {}, [[]], {"a": {}}]


def pictures() -> list[bytes]:
    kinds = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
    frames = [noise_picture(i, 12, 12) for i in range(4)]
    moving = [encoded(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in ("GIF", "PNG", "WEBP", "TIFF")]
    return [encoded(noise_picture(1, 24, 18), kind) for kind in kinds] + [encoded(frames[0].convert("P"), "PNG"), *moving]


def sounds() -> list[bytes]:
    wave = tone(1.2, 8000)
    kinds = [("WAV", None), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", None), ("MP3", None)]
    return [sound(wave, 8000, kind, subtype) for kind, subtype in kinds]


def tensors() -> list[bytes]:
    parts = {
        "latent_moments": torch.zeros(8, 16, 4),
        "text_embeds": torch.zeros(12, 16),
        "has_image": torch.tensor(1.0),
        "text_mask": torch.ones(12, dtype=torch.uint8),
    }
    return [save(parts), save({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)})]


def zipped() -> bytes:
    """A zip of 100 MB of zeros in 100 kB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file, file.open("0", "w") as member:
        for _ in range(100):
            member.write(b"\0" * 1_000_000)
    return buffer.getvalue()


def damaged(rng: np.random.Generator, data: bytes, others: list[bytes]) -> bytes:
    """One to three blind mutations."""
    for _ in range(rng.integers(1, 4)):
        out = bytearray(data or b"\0")
        n, at = len(out), int(rng.integers(len(out)))
        stop = min(n, at + int(rng.integers(1, 1 + max(1, n // 2))))
        other = others[rng.integers(len(others))]
        match rng.integers(9):
            case 0:
                for i in rng.integers(0, n, rng.integers(1, 33)):
                    out[i] ^= 1 << int(rng.integers(8))
            case 1:
                del out[at:]
            case 2:
                out[at:] = other[int(rng.integers(len(other) + 1)) :]
            case 3:
                out[at:at] = out[at:stop] * int(rng.integers(1, 4))
            case 4:
                out[at:stop] = rng.bytes(stop - at)
            case 5:
                del out[at:stop]
            case 6:  # numbers that lengths and sizes are made of, mostly in the header
                at = int(rng.integers(min(n, 64)))
                form, size = [("<I", 4), (">I", 4), ("<Q", 8), (">H", 2), ("<H", 2)][rng.integers(5)]
                out[at : at + size] = struct.pack(form, NUMBERS[rng.integers(len(NUMBERS))] & (1 << 8 * size) - 1)
            case 7:
                out[:0] = out[: min(n, 64)] * int(rng.integers(1, 200))
            case _:
                out = bytearray(rng.bytes(int(rng.integers(0, 600))))
        data = bytes(out[:2_000_000])
    return data


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(rng: np.random.Generator) -> bytes:
    """A PNG whose checksums are right and whose chunks lie: sizes, depths, bombs of pixels, text and profiles."""
    width, height = (int([1, 7, 2000, 20_000, 2**31 - 1][i]) for i in rng.integers(0, 5, 2))
    bomb = zlib.compress(b"\0" * 20_000_000)
    bits, kind, interlaced = rng.choice([1, 2, 4, 8, 16, 3]), rng.choice([0, 2, 3, 4, 6, 9]), rng.integers(2)
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    extra = [
        chunk(b"zTXt", b"a\0\0" + bomb),
        chunk(b"iCCP", b"a\0\0" + bomb),
        chunk(b"tEXt", b"a\0" + b"x" * 2_000_000),
        chunk(b"acTL", struct.pack(">II", 2**31, 0)),
        chunk(b"PLTE", rng.bytes(int(rng.integers(1000)))),
    ]
    picked = [extra[i] for i in rng.integers(0, len(extra), rng.integers(3))]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(picked) + chunk(b"IDAT", bomb) + chunk(b"IEND", b"")


def wav(rng: np.random.Generator) -> bytes:
    """A WAV whose header lies about channels, rate, width and length."""
    lies = ([0, 1, 2, 33, 255, 65535], [0, 1, 8000, 192_000, 2**32 - 1], [0, 8, 16, 24, 64, 65535])
    channels, rate, bits = (int(rng.choice(values)) for values in lies)
    form = struct.pack("<HHIIHH", int(rng.choice([1, 3, 6, 85, 65534])), channels, rate, 2**31, 65535, bits)
    claimed = int(rng.choice([0, 100, 2**31 - 1, 2**32 - 1]))
    return (
        b"RIFF"
        + struct.pack("<I", claimed)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", claimed)
        + rng.bytes(int(rng.integers(4000)))
    )


def flac(rng: np.random.Generator) -> bytes:
    """A FLAC whose STREAMINFO promises any rate, number of channels and up to 2³⁶ samples."""
    data = bytearray(sounds()[2])
    fields = int(rng.integers(2**20)) << 44 | int(rng.integers(8)) << 41 | int(rng.integers(32)) << 36 | int(rng.integers(2**36))
    data[18:26] = fields.to_bytes(8, "big")
    return bytes(data)


def text(rng: np.random.Generator) -> bytes:
    """JSON that is deep, wide, long or of the wrong kinds."""
    depth = int(rng.choice([3, 17, 900, 5000, 100_000]))
    return [
        b"[" * depth,
        b'{"a":' * depth + b"1" + b"}" * depth,
        b"[" * depth + b"]" * depth,
        b'{"caption": ' + b"9" * depth + b"}",
        json.dumps({"caption": ODD[rng.integers(len(ODD))], "labels": ODD[rng.integers(len(ODD))]}).encode(),
        b"[" + b"[]," * depth + b"[]]",
        b'{"caption": NaN, "labels": {"a": 1e999}}',
    ][rng.integers(7)]


def header_of(rng: np.random.Generator) -> bytes:
    """A safetensors file with a header of well-formed lies."""
    entry = {
        "dtype": str(rng.choice(["F32", "F64", "BOOL", "F8_E4M3", "X", ""])),
        "shape": ODD[rng.integers(len(ODD))],
        "data_offsets": [int(rng.choice(NUMBERS[:-2])), int(rng.choice(NUMBERS[:-2]))],
    }
    if rng.integers(2):
        entry["shape"] = [int(n) for n in rng.choice([0, 1, 2, 2**31, 2**40], rng.integers(5))]
    body = json.dumps({"latent_moments": entry, "__metadata__": ODD[rng.integers(len(ODD))]}).encode()
    length = [len(body), len(body) + 1, 2**63, 0, 2**31][rng.integers(5)]
    return struct.pack("<Q", length) + body + b"\0" * int(rng.integers(64))


def pickled(rng: np.random.Generator) -> bytes:
    """A pickle, bare or in torch's zip, that asks for something to run."""
    module, name = GLOBALS[rng.integers(len(GLOBALS))]
    call = f"c{module}\n{name}\n".encode() + b"(S'echo evil > evil'\ntR."
    if rng.integers(2):
        return b"\x80\x02" + call
    buffer = io.BytesIO()
    torch.save({"unet.w": torch.zeros(2)}, buffer)
    with zipfile.ZipFile(buffer) as good, zipfile.ZipFile(out := io.BytesIO(), "w") as bad:
        for item in good.namelist():
            bad.writestr(item, b"\x80\x02" + call if item.endswith("data.pkl") else good.read(item))
    return out.getvalue()


def tar(rng: np.random.Generator, data: bytes) -> bytes:
    """A shard whose headers' checksums are right and whose fields lie."""
    out = bytearray(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as whole:
        starts = [member.offset for member in whole]
    for start in rng.choice(starts, min(len(starts), int(rng.integers(1, 3))), replace=False):
        block = out[start : start + 512]
        match rng.integers(4):
            case 0:
                sizes = [b"\xff" * 12, b"\x80" + rng.bytes(11), b"%011o\0" % rng.integers(2**33), b"-0000000001\0"]
                block[124:136] = sizes[rng.integers(4)]
            case 1:
                block[156] = int(rng.choice(np.frombuffer(b"0123456LKSxgXDV\0", np.uint8)))
            case 2:
                name = rng.choice(["../../evil.json", "/etc/evil.wav", "a.pyd", ".json", "a", "\xff.json", "x" * 100])
                block[:100] = name.encode("latin-1")[:100].ljust(100, b"\0")
            case _:
                block[rng.integers(512)] ^= 0xFF
        block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
        out[start : start + 512] = block
    return bytes(out)


def index(rng: np.random.Generator, tree: dict) -> bytes:
    """An index in which some nodes are not what they should be."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.integers(1, 3)):
        node, value = tree, copy.deepcopy(ODD[rng.integers(len(ODD))])
        while True:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            if not keys:
                break
            key = keys[rng.integers(len(keys))]
            if isinstance(node[key], dict | list) and rng.random() < 0.8:
                node = node[key]
                continue
            number = isinstance(node[key], int) and rng.random() < 0.5
            node[key] = int(rng.choice([0, 1, -512, 512, 1024, 2**40])) if number else value
            break
    return json.dumps(tree).encode()


def plain_pickle() -> bytes:
    return pickle.dumps({"a": [1, 2]})


# of the targets of fuzz_run.py, those that must both refuse some of their cases and read others
TARGETS_SEEN_BOTH_WAYS = ("picture", "sound", "meta", "cached", "indexed")
