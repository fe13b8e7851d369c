"""Precomputed tensors and tar headers are checked fast, and no less strictly than by the libraries."""

import io
import tarfile

import numpy as np
import pytest
import torch

from melfusion.data import tars
from melfusion.data.collate import stacked
from melfusion.data.reading import finite

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float8_e5m2])
def test_nan_and_infinity_are_seen_in_every_float_type(dtype):
    limits = torch.finfo(dtype)
    usual = torch.tensor([0.0, -0.0, 1.0, -2.5, limits.max, limits.min, limits.tiny], dtype=torch.float64).to(dtype)
    assert finite(usual)
    for bad in (torch.nan, -torch.nan, torch.inf, -torch.inf):
        assert not finite(torch.cat([usual, torch.tensor([bad]).to(dtype)])) and not finite(torch.tensor(bad).to(dtype))


def test_all_half_precision_numbers_are_judged_as_torch_does():
    numbers = torch.from_numpy(np.arange(1 << 16, dtype=np.uint16).view(np.int16))
    for dtype in (torch.float16, torch.bfloat16):
        wanted = torch.isfinite(numbers.view(dtype)).tolist()
        assert [finite(number) for number in numbers.view(dtype)[::7]] == wanted[::7]


def test_integers_and_empty_tensors_are_finite():
    assert finite(torch.full((3,), 2**31 - 1, dtype=torch.int32)) and finite(torch.ones(2, dtype=torch.bool))
    assert finite(torch.empty(0)) and finite(torch.empty(2, 0, dtype=torch.float16))


@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8])
def test_rows_are_stacked_as_float32(dtype):
    rows = [torch.arange(6).reshape(2, 3).to(dtype) * n for n in range(3)]
    wanted = torch.stack(rows)
    assert torch.equal(got := stacked(rows), wanted.float() if wanted.is_floating_point() else wanted)
    assert got.dtype == (torch.float32 if wanted.is_floating_point() else dtype)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_plain_header_is_one_that_tarfile_reads_alike(form, monkeypatch):
    """Every header with one byte changed: where the fast check says yes, tarfile does, too."""
    info = tarfile.TarInfo("a.json")
    info.size = 1234
    head, rng = info.tobuf(form), np.random.default_rng(0)
    assert tars._plainly(head, "a", "json", 1234)
    assert not tars._plainly(head, "a", "json", 1233) and not tars._plainly(head, "b", "json", 1234)
    changed = []
    for place in range(512):
        for byte in rng.integers(0, 256, 4).tolist():
            other = bytearray(head)
            other[place] = byte
            mended = b"%06o\0 " % (sum(other) - sum(other[148:156]) + 256)
            changed += [bytes(other), bytes(other[:148] + mended + other[156:])]
    plain = [tars._plainly(one, "a", "json", 1234) for one in changed]
    monkeypatch.setattr(tars, "_plainly", lambda *_: False)
    slow = [tars.names_member(one, "a", "json", 1234) for one in changed]
    assert not [one for one, fast, slowly in zip(changed, plain, slow, strict=True) if fast and not slowly]
    assert sum(plain) > 500 and sum(slow) < len(slow)


def test_what_tarfile_writes_is_plain_unless_its_name_is_long(monkeypatch):
    seen = []
    plainly = tars._plainly
    monkeypatch.setattr(tars, "_plainly", lambda *args: seen.append(plainly(*args)) or seen[-1])
    for name in ("a.json", "ü" * 40 + ".latents.safetensors", "l" * 150 + ".json"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            info = tarfile.TarInfo(name)
            info.size = 7
            tar.addfile(info, io.BytesIO(b"1234567"))
        lead = file.getvalue()[: file.getvalue().index(b"1234567")]
        assert tars.names_member(lead, *tars.key_and_extension(name), 7)
    assert seen[0] and not seen[2]
