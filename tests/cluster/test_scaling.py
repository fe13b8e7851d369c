"""The prediction for many GPUs: each formula against what it stands for, and the page against the formulas."""

import dataclasses
from pathlib import Path

import pytest

from melfusion.cluster import scaling
from melfusion.cluster.scaling import DIVIDED, WHOLE, Machine, Work

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"

# the page's: a step of configs/melfusion.yaml on one H100 (bf16, batch 32, image model live), latents and text precomputed
WORK = Work(step_s=0.459, batch=32, parameters=865.9e6, sample_bytes=324e3)
NODES = Machine()
SLOW = Machine(network=12.5e9)


def sent_in_a_ring(n, size, passes):
    """Bytes that one member sends: in each pass every chunk but one leaves it, n - 1 of n."""
    return sum(size / n for _ in range(passes) for _ in range(n - 1))


@pytest.mark.parametrize("n", [1, 2, 8, 512])
def test_a_step_sends_what_its_rings_send(n):
    size = WORK.parameters * 4
    assert scaling.step_bytes(WORK, n, WHOLE) == pytest.approx(sent_in_a_ring(n, size, 2))
    assert scaling.step_bytes(WORK, n, DIVIDED) == pytest.approx(sent_in_a_ring(n, size, 3))


def test_one_gpu_needs_nobody():
    for strategy in (WHOLE, DIVIDED):
        assert scaling.samples_per_s(WORK, NODES, 1, strategy) == pytest.approx(32 / 0.459)
        assert scaling.efficiency(WORK, NODES, 1, strategy) == 1 and scaling.network_needed(WORK, NODES, 8, strategy) == 0


def test_what_cannot_hide_lengthens_the_step():
    moved, hidden = scaling.transfer_s(WORK, SLOW, 64), scaling.hidden_s(WORK)
    assert moved > hidden and scaling.total_s(WORK, SLOW, 64) == pytest.approx(0.459 + moved - hidden)
    assert scaling.efficiency(WORK, SLOW, 64) < scaling.efficiency(WORK, NODES, 64) == 1
    assert scaling.efficiency(WORK, SLOW, 8) == 1  # inside a node the network is not used


@pytest.mark.parametrize("strategy", [WHOLE, DIVIDED])
def test_a_network_as_fast_as_is_needed_just_hides_the_transfers(strategy):
    needed = scaling.network_needed(WORK, NODES, 64, strategy)
    just, less = (dataclasses.replace(NODES, network=needed * share) for share in (1.0, 0.9))
    assert scaling.total_s(WORK, just, 64, strategy) == pytest.approx(0.459)
    assert scaling.total_s(WORK, less, 64, strategy) > 0.46


def test_what_is_stored_and_written():
    assert scaling.checkpoint_bytes(WORK) == pytest.approx(13.85e9, rel=1e-3)
    assert scaling.storage_bytes(WORK, 1000, kept=3) == pytest.approx(0.324e9 + 4 * 13.8544e9)
    assert scaling.state_bytes(WORK, 8, DIVIDED) * 8 == scaling.state_bytes(WORK, 8, WHOLE) == pytest.approx(5 * 865.9e6 * 4)
    assert scaling.loader_bytes_per_s(WORK, NODES, 64) == pytest.approx(64 * 32 / 0.459 * 324e3)
    # 13.85 s of writing after 1000 steps of 0.459 s
    assert scaling.checkpoint_share(WORK, NODES, 64, every=1000, disk=1e9) == pytest.approx(13.8544 / (13.8544 + 459))


def test_the_page_shows_what_the_formulas_give():
    page = PAGE.read_text()
    for machine in (NODES, SLOW):
        assert scaling.table(WORK, machine) in page
    share = scaling.checkpoint_share(WORK, NODES, 64, every=1000, disk=1e9)
    kept = scaling.storage_bytes(WORK, 1_000_000, kept=3) / 1e9
    for said in (f"{share:.1%}", f"{scaling.checkpoint_bytes(WORK) / 1e9:.1f} GB", f"{kept:.0f} GB"):
        assert said in page
