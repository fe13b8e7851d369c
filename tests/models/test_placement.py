"""Parts that wait on the CPU while another one works: the same music, and only what is needed is on the device."""

import building as build
import pytest
import torch

from melfusion.models.placement import Offload

PARTS = ("conditioner", "image_encoder", "denoiser", "codec")


@pytest.fixture
def moves(monkeypatch):
    """moves(system) → a list that fills with (part, device) of every move; nothing moves for real, since there is no GPU."""

    def watch(system):
        seen = []
        for name in PARTS:
            part = getattr(system, name)
            monkeypatch.setattr(part, "to", lambda device, name=name: seen.append((name, torch.device(device).type)))
        return seen

    return watch


def clip(system, placement, image=True):
    picture = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16) if image else None
    return system.vocode(system.generate(["rain"], picture, [3], num_inference_steps=2, placement=placement), placement)


@pytest.mark.parametrize("reading", ["inverted", "fixed"])
def test_parts_are_moved_when_they_are_needed_and_back(tiny, moves, reading):
    system = build.system(tiny(f"image.reading={reading}")).eval()
    expected = clip(system, None)
    seen = moves(system)
    assert torch.equal(clip(system, Offload("cuda")), expected)
    working = ["denoiser", "image_encoder"] if reading == "inverted" else ["denoiser"]  # a picture that is read once has been
    phases = [["conditioner"], ["image_encoder"], working, ["codec"], ["codec"]]
    assert seen == [(part, where) for phase in phases for where in ("cuda", "cpu") for part in phase]


def test_parts_go_back_when_the_work_fails(tiny, moves, monkeypatch):
    system = build.system(tiny()).eval()
    seen = moves(system)
    monkeypatch.setattr(system.codec, "decode", lambda latents: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        clip(system, Offload("cuda"))
    assert seen[-2:] == [("codec", "cuda"), ("codec", "cpu")]


def test_without_a_placement_nothing_moves(tiny, moves):
    system = build.system(tiny()).eval()
    seen = moves(system)
    clip(system, None, image=False)
    assert seen == []
