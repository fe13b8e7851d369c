"""Choosing the device is one function."""

from pathlib import Path

import pytest
import torch

import melfusion
from melfusion.models.device import best_device


@pytest.mark.parametrize(
    ("gpus", "mps", "accelerator", "index", "wanted"),
    [
        (2, False, "cuda", None, "cuda"),
        (2, False, "cuda", 3, "cuda:1"),
        (2, True, "auto", None, "cuda"),
        (2, True, "mps", None, "mps"),
        (2, False, "cpu", None, "cpu"),
        (0, True, "auto", None, "mps"),
        (0, True, "cuda", None, "cpu"),
        (0, False, "gpu", 1, "cpu"),
    ],
)
def test_the_device_that_is_there_and_allowed(monkeypatch, gpus, mps, accelerator, index, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device(accelerator, index) == wanted


def test_no_other_file_chooses():
    root = Path(melfusion.__file__).parent
    assert {file.name for file in root.rglob("*.py") if '.is_available() else "cpu"' in file.read_text()} == {"device.py"}
