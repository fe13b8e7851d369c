"""Windows over latents: they cover, their weights are a partition, scenes change at their times, and a seam is none."""

import itertools

import pytest
import torch
from synapse_fixtures import randn

from melfusion.models.diffusion.windows import blended, lay_windows


def total(frames, windows):
    summed = torch.zeros(frames)
    for window in windows:
        summed[window.frames] += window.weights
    return summed


@pytest.mark.parametrize(("frames", "length", "overlap"), itertools.product([1, 16, 17, 50, 333], [1, 16, 40], [0, 1, 8, 15]))
def test_windows_cover_all_frames_and_their_weights_add_up_to_1(frames, length, overlap):
    windows = lay_windows(frames, length, overlap)
    assert all(0 <= w.start <= frames - len(w.weights) and len(w.weights) == min(length, frames) for w in windows)
    assert torch.allclose(total(frames, windows), torch.ones(frames), atol=1e-6)
    starts = [w.start for w in windows]
    if overlap < length:
        assert all(b - a <= length - overlap for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("scenes", [(0, 20, 61), (0, 3, 6), (0, 99), (0, 50, 50)])
def test_each_scene_counts_in_its_own_span_and_changes_at_its_time(scenes):
    windows = lay_windows(100, 16, 8, scenes, fade=4)
    assert torch.allclose(total(100, windows), torch.ones(100), atol=1e-6)
    for scene, (first, last) in enumerate(itertools.pairwise((*scenes, 100))):
        share = total(100, [w for w in windows if w.scene == scene])
        assert (share[: max(0, first - 2)] == 0).all() and (share[last + 2 :] == 0).all()
        if last - first > 4:
            assert (share[first + 2 if first else 0 : last - 2 if last < 100 else 100] > 0.999).all()


def test_windows_that_agree_give_what_one_window_gives():
    windows, latents = lay_windows(50, 16, 8), randn(2, 4, 50, 3, seed=1)

    def run(part, time):
        return part.sin() * time

    groups = [(windows[:2], run), (windows[2:], run)]
    assert torch.allclose(blended(groups)(latents, torch.tensor(3.0)), latents.sin() * 3, atol=1e-5)


def test_windows_that_differ_change_no_faster_at_a_seam_than_the_weights_do():
    windows = lay_windows(96, 32, 16)
    groups = [([w], lambda part, time, n=n: torch.full_like(part, float(n % 2))) for n, w in enumerate(windows)]
    made = blended(groups)(torch.zeros(1, 1, 96), torch.tensor(0.0))
    assert made.diff().abs().max() < 0.11  # 1 over 16 frames as a squared sine: at most π / 32


def test_rows_of_a_group_are_clips_under_a_window_after_clips_under_another():
    windows, seen = lay_windows(24, 16, 8), []

    def run(part, time):
        seen.append(part)
        return part

    latents = randn(2, 1, 24, seed=1)
    blended([(windows, run)])(latents, torch.tensor(0.0))
    assert torch.equal(seen[0], torch.cat([latents[:, :, :16], latents[:, :, 8:]]))
