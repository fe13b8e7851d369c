"""Memory as it is counted on the meta device, against what a step really allocates."""

import building as build
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from melfusion.assembly.counting import count, on_meta, repeated
from melfusion.training.footprint import generation, sharded, size, training

SIZES = ("denoiser.block_out_channels=[32,64]", "image.block_out_channels=[32,64]")
N = 8


def peak_bytes(step):
    """The most bytes that PyTorch's allocator held at once in a call, beside what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    found, events = [], list(profiler.profiler.kineto_results.experimental_event_tree())
    for event in events:
        events += event.children
        if event.tag.name == "Allocation":
            found.append((event.start_time_ns, event.extra_fields.alloc_size))
    now = peak = 0
    for _, change in sorted(found):
        now += change
        peak = max(peak, now)
    return peak


def measured(config, batch, accumulates):
    """Bytes that a real training step on the CPU takes beside weights and gradients of before, the batch included."""
    system = build.system(config).train()
    real = batch.map_tensors(lambda t: torch.zeros(t.shape, dtype=t.dtype))
    held = []
    real.map_tensors(held.append)

    def step():
        system.training_step(real, 0)["loss"].backward()

    step()
    if not accumulates:
        system.zero_grad(set_to_none=True)
    return peak_bytes(step) + sum(t.nbytes for t in held)


@pytest.mark.filterwarnings("ignore:You are trying to")
@pytest.mark.parametrize(
    ("mode", "again", "accumulates"),
    [
        pytest.param("all", False, False, marks=pytest.mark.slow),  # each more is one more count beside the one that has all
        ("all", True, True),
        pytest.param("decoder", False, True, marks=pytest.mark.slow),  # likewise
        pytest.param("synapse", False, False, marks=pytest.mark.slow),  # likewise
    ],
)
def test_the_count_is_what_a_real_step_takes(tiny, mode, again, accumulates):
    config = tiny(*SIZES, f"denoiser.trainable={mode}", f"denoiser.gradient_checkpointing={again}".lower())
    module = on_meta(config)
    batch = repeated(count(config, module)[1], N)
    counted = training(config, module, batch, "32-true", accumulates)
    assert counted.work == pytest.approx(measured(config, batch, accumulates), rel=0.12)
    own = sum(p.nbytes for p in module.parameters() if p.requires_grad)
    assert (counted.gradients, counted.moments, counted.average) == (own * accumulates, 2 * own, own)


@pytest.mark.slow  # counts several twins; their counts are tested above
def test_what_saves_memory_is_counted_as_less(tiny):
    config = tiny(*SIZES)
    module = on_meta(config)
    ready = count(config, module)[1]
    full = training(config, module, repeated(ready, 4), "32-true", True)
    assert training(config, module, repeated(ready, 8), "32-true", True).work > 1.5 * full.work
    assert training(config, module, repeated(ready, 4), "bf16-mixed", True).work < full.work
    assert training(tiny(*SIZES, "optim.ema_decay=0"), module, repeated(ready, 4), "32-true", True).average == 0
    parts = sharded(full, module, 4)
    assert parts.moments == full.moments // 4 and parts.total < full.total
    assert sharded(full, module, 1) == full


def test_generation_with_parts_that_wait_takes_less(tiny):
    config = tiny(*SIZES)
    module = on_meta(config)
    stages = count(config, module)[0]
    whole, parts = generation(module, stages, 1), generation(module, stages, 1, offload=True)
    assert size(module) < whole < generation(module, stages, 8)
    assert parts < whole and parts >= size(module.denoiser)
