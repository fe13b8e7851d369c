"""Sizes, FLOPs and live bytes on the meta device."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from data_fixtures import one_sentence

from melfusion.assembly.conditioner import BUILD
from melfusion.assembly.configuration import load_config
from melfusion.assembly.counting import (
    CAPTION,
    DECODE,
    DENOISE,
    ENCODE,
    LEARN,
    LOOK,
    PICTURE,
    VOCODE,
    clip_flops,
    count,
    on_meta,
    parameters,
)
from melfusion.assembly.tracing import GPUKernels, LiveBytes
from melfusion.errors import WeightsError
from melfusion.training.footprint import generation

# TFLOP for one clip of 10.24 s: what its published parts take by any count; 512 × 512 pixels, 77 tokens. Reading a picture at a
# timestep is Stable Diffusion's .804 without what comes after the last layer that is read.
TFLOP = {CAPTION: 0.048, PICTURE: 1.117, LOOK: 0.768, ENCODE: 0.345, DENOISE: 0.804, LEARN: 2.409, DECODE: 0.670, VOCODE: 1.027}


@pytest.fixture(scope="module")
def full():
    """Full scale, with the picture read at once: its inversion is 19 more passes of what LOOK is one of."""
    config = load_config("melfusion", ["image.reading=noised", "denoiser.gradient_checkpointing=false"])
    system = on_meta(config)
    return config, system, count(config, system)[0]


def test_parameters_of_full_scale_are_the_published_ones(full):
    _, system, _ = full
    millions = {name: parameters(part) / 1e6 for name, part in system.named_children() if parameters(part)}
    wanted = {"denoiser": 865.9, "codec": 110.6, "conditioner": 341.2, "image_encoder": 859.5 + 83.65}
    assert millions == pytest.approx(wanted, rel=2e-3)
    assert parameters(system, True) == parameters(system.denoiser)  # denoiser.trainable=all
    assert all(t.is_meta for t in (*system.parameters(), *system.buffers()))


def test_flops_of_every_stage_of_full_scale(full):
    config, system, stages = full
    assert {name: stages[name].flops / 1e12 for name in TFLOP} == pytest.approx(TFLOP, rel=2e-3)
    once = 2 * 0.048 + 1.117 + 0.670 + 1.027
    assert clip_flops(config, system, stages) / 1e12 == pytest.approx(once + 25 * (0.768 + 2 * 0.804), rel=2e-3)


def test_a_step_with_the_picture_live_is_one_pass_more(full):
    _, _, stages = full
    assert (stages[LEARN].flops + stages[LOOK].flops) / 1e12 == pytest.approx(2.409 + 0.768, rel=1e-3)


def test_a_clip_takes_the_memory_that_the_page_says(full):
    """The reading of the picture does not matter: the image model stands beside the denoiser at every step. All rows of the page:
    tests/verbs/test_memory_docs.py."""
    _, system, stages = full
    page = (Path(__file__).parents[2] / "docs" / "memory.md").read_text()
    said = re.search(r"For `melfusion` ([\d.]+) GiB in place\s+of ([\d.]+) for one clip", page)
    counted = [f"{generation(system, stages, 1, offload) / 2**30:.1f}" for offload in (True, False)]
    assert said and list(said.groups()) == counted


TEXTS = {  # configuration → millions of parameters of its published text networks (encoders alone)
    "stable_audio_open": {"network": 109.6},
    "stable_audio_3": {"network": 281.6},
    "ace_step": {"network": 595.8},
    "audioldm2": {"network": 341.2, "clap": 153.5, "writer": 124.4},
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_networks_of_open_generators_are_counted_at_their_published_sizes(name):
    config = load_config(name)
    with torch.device("meta"):
        conditioner = BUILD[config.conditioner.kind](config)
    found = {part: parameters(getattr(conditioner, part)) / 1e6 for part in TEXTS[name]}
    assert found == pytest.approx(TEXTS[name], rel=2e-3)


def test_weights_on_the_hub_of_unknown_sizes_are_named():
    config = load_config("melfusion", [f"text_encoder.weights=hub:some/one@{'0' * 40}"])
    with pytest.raises(WeightsError, match="text_encoder.weights='hub:some/one@.*sizes are not known") as error:
        on_meta(config)
    assert one_sentence(error.value)


def test_bytes_are_alive_until_they_are_freed_and_views_count_once():
    held = torch.empty(100, 256, device="meta")
    live = LiveBytes().hold([held])
    assert live.now == held.nbytes
    with live:
        a = held + 1
        b = a.view(-1)[3:]
        assert live.now == 2 * held.nbytes
        del a
        assert live.now == 2 * held.nbytes  # the view keeps it
        del b
        c = torch.empty(1, device="meta")
    assert live.now == held.nbytes + live.block and live.peak == 2 * held.nbytes
    del c
    assert live.now == held.nbytes


def test_what_a_backward_pass_needs_is_alive():
    x = torch.empty(64, 128, device="meta", requires_grad=True)
    with LiveBytes() as live:
        y = x.sin().exp()
        assert live.now == x.nbytes and live.peak == 2 * x.nbytes  # exp keeps its result, which is y; sin keeps x
        y.sum().backward()
        del y
        assert live.now == x.grad.nbytes


def test_attention_on_a_gpu_keeps_no_matrix_and_autocast_has_its_types():
    query, key = (torch.empty(2, 4, n, 32, device="meta", requires_grad=True) for n in (4096, 1024))
    mask = torch.empty(2, 1, 1, 1024, device="meta")
    with LiveBytes() as live, GPUKernels(torch.bfloat16):
        out = F.scaled_dot_product_attention(query, key, key, attn_mask=mask)
        assert out.dtype == torch.bfloat16 and F.layer_norm(out, [32]).dtype == torch.float32
        assert live.peak < 2 * 4 * 4096 * 1024 * 2 / 2  # half a matrix of weights in bfloat16
    out.sum().backward()
    assert query.grad.shape == query.shape and query.grad.dtype == torch.float32
