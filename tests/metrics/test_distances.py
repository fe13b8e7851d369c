"""Distances of sets with known moments, and intervals of numbers small enough for the hand."""

import math

import numpy as np
import pytest
import torch
from data_fixtures import one_sentence
from metric_fixtures import with_moments

from melfusion.metrics import distances
from melfusion.metrics.distances import (
    Projection,
    TooFewSamples,
    affordable_dimensions,
    conditional_frechet,
    frechet,
    frechet_distance,
    frechet_infinity,
    kernel_distance,
    kernel_distances,
    kernel_matrices,
    mmd,
)
from melfusion.metrics.intervals import jackknife, leave_out, redraw, students, t_975


def normal(n, d, seed=0, mean=0.0, std=1.0):
    return torch.from_numpy(mean + std * np.random.default_rng(seed).standard_normal((n, d)))


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def covariance(values, seed):
    q = rotation(len(values), seed)
    return q * np.asarray(values) @ q.T


# --- Fréchet ----------------------------------------------------------------------------------------------------------

VALUES_A, VALUES_B = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0), (2.0, 0.7, 1.1, 3.0, 0.9, 1.0)
MEAN_A, MEAN_B = np.linspace(-1, 1, 6), np.linspace(2, 0, 6)


def test_sets_have_the_moments_they_were_made_with():
    mean, cov = distances.moments(with_moments(MEAN_A, covariance(VALUES_A, 1), 100))
    assert mean.tolist() == pytest.approx(MEAN_A.tolist(), abs=1e-12)
    np.testing.assert_allclose(cov, covariance(VALUES_A, 1), rtol=1e-11, atol=1e-12)
    assert cov.dtype == torch.float64


@pytest.mark.parametrize("n", [60, 500])
def test_commuting_gaussians_have_the_closed_form(n):
    real = with_moments(MEAN_A, covariance(VALUES_A, 3), n, seed=1)
    generated = with_moments(MEAN_B, covariance(VALUES_B, 3), n, seed=2)
    roots = sum((math.sqrt(a) - math.sqrt(b)) ** 2 for a, b in zip(VALUES_A, VALUES_B, strict=True))
    assert frechet_distance(real, generated) == pytest.approx(((MEAN_A - MEAN_B) ** 2).sum() + roots, rel=1e-9)


def test_other_gaussians_agree_with_the_eigenvalues_of_the_product():
    """tr (AB)^½ by numpy's unsymmetric eigenvalues, which is another way to it."""
    a, b = covariance(VALUES_A, 4), covariance(VALUES_B, 5)
    assert not np.allclose(a @ b, b @ a, atol=0.1)
    expected = ((MEAN_A - MEAN_B) ** 2).sum() + np.trace(a + b) - 2 * np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    real, generated = with_moments(MEAN_A, a, 200, seed=1), with_moments(MEAN_B, b, 200, seed=2)
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(generated, real) == pytest.approx(expected, rel=1e-9)


def test_frechet_keeps_its_accuracy_whatever_the_type_of_its_input():
    """Moments of float32 embeddings far from 0 are taken in float64."""
    real, generated = (normal(400, 3, seed, 1000 + seed).float() for seed in (0, 1))
    exact = [np.cov(x.double().numpy().T) for x in (real, generated)]
    difference = real.double().mean(0) - generated.double().mean(0)
    cross = np.sqrt(np.linalg.eigvals(exact[0] @ exact[1]).real).sum()
    expected = (difference**2).sum().item() + np.trace(exact[0] + exact[1]) - 2 * cross
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-9)
    in_float32 = frechet(*(t.float() for x in (real, generated) for t in distances.moments(x)))
    assert in_float32 == pytest.approx(expected, rel=1e-3)


def test_a_covariance_without_full_rank_is_measured_too():
    flat = torch.cat([normal(50, 1), torch.zeros(50, 1)], 1)
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(flat, flat + torch.tensor([3.0, 4.0])) == pytest.approx(25, rel=1e-9)


def words(call, *args, **kwargs):
    with pytest.raises(TooFewSamples) as caught:
        call(*args, **kwargs)
    return one_sentence(caught.value)


def test_too_few_or_unequal_sets_are_refused_in_words():
    assert frechet_distance(normal(40, 4), normal(40, 4, 1)) > 0
    assert "39 clips" in words(frechet_distance, normal(39, 4), normal(39, 4, 1))
    assert "equal size" in words(frechet_distance, normal(41, 4), normal(40, 4))
    assert "equal size" in words(frechet_infinity, normal(81, 4), normal(80, 4))
    assert "39 clips, half of 79" in words(frechet_infinity, normal(79, 4), normal(79, 4))
    assert frechet_infinity(normal(80, 4), normal(80, 4, 1)) < 1
    assert frechet_distance(normal(39, 4), normal(39, 4, 1), check=False) > 0
    assert "two" in words(frechet_distance, normal(1, 4), normal(1, 4), check=False)
    assert "two" in words(kernel_distance, normal(1, 4), normal(9, 4))
    assert "two" in words(kernel_distance, normal(9, 4), torch.zeros(0, 4))


@pytest.mark.parametrize(("n", "d", "shift"), [(80, 4, 0.5), (160, 8, 0.0)])
def test_fad_inf_is_nearer_to_the_infinite_sample_than_fad(n, d, shift):
    """Gaussians N(0, 1) and N(shift, σ²): means over draws lose nearly all bias, single scores err less."""
    std = torch.linspace(0.7, 1.4, d, dtype=torch.float64)
    truth = d * shift**2 + ((std - 1) ** 2).sum().item()
    plain, infinite = [], []
    for seed in range(100):
        sets = normal(n, d, seed), shift + std * normal(n, d, 1000 + seed)
        plain.append(frechet_distance(*sets) - truth)
        infinite.append(frechet_infinity(*sets) - truth)
    assert abs(np.mean(infinite)) < 0.3 * np.mean(plain)  # a bias left in the reference alone would be half
    assert np.mean(np.square(infinite)) < np.mean(np.square(plain))


def test_fad_inf_does_not_depend_on_the_order_of_the_clips():
    real, generated = normal(80, 4).round(decimals=1), normal(80, 4, 1).round(decimals=1)  # with ties
    order = torch.from_numpy(np.random.default_rng(2).permutation(80))
    assert frechet_infinity(real[order], generated.flip(0)) == pytest.approx(frechet_infinity(real, generated), rel=1e-12)
    assert frechet_infinity(real, generated, seed=1) != frechet_infinity(real, generated)


# --- KAD --------------------------------------------------------------------------------------------------------------


def naive_kad(real, generated):
    """The sums as they are written, over plain numbers."""
    x, y = real.tolist(), generated.tolist()

    def squared(a, b):
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    between = sorted(math.sqrt(squared(x[i], x[j])) for i in range(len(x)) for j in range(i))
    width = between[(len(between) - 1) // 2]

    def kernel(a, b):
        return math.exp(-squared(a, b) / (2 * width * width))

    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(kernel(a, b) for a in x for b in y) / (n * m)
    return 100 * (xx + yy - 2 * xy)


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_kad_is_the_double_loop(shift):
    real, generated = normal(31, 5), normal(27, 5, 1, shift)
    assert kernel_distance(real, generated) == pytest.approx(naive_kad(real, generated), rel=1e-9)


def test_kad_is_unbiased_and_falls_below_0_where_sets_are_alike():
    scores = np.array([kernel_distance(normal(30, 3, 2 * s), normal(30, 3, 2 * s + 1)) for s in range(300)])
    assert abs(scores.mean()) < 2.5 * scores.std(ddof=1) / math.sqrt(300)
    assert 0.2 < (scores < 0).mean() < 0.8


def test_the_squared_mmd_has_the_expectation_of_gaussians_at_any_size():
    """E k(x, y) for x ~ N(0, 1), y ~ N(δ, 1) and a kernel of width 1 is 3^(-d/2) exp(-d δ² / 6)."""
    d, delta, scores = 2, 0.8, []
    expected = 2 / 3 - 2 / 3 * math.exp(-d * delta**2 / 6)
    for s in range(1500):
        x, y = normal(5, d, 2 * s), normal(4, d, 2 * s + 1, delta)
        scores.append(mmd(*(torch.exp(-torch.cdist(a, b).square() / 2) for a, b in ((x, x), (x, y), (y, y)))).item())
    assert abs(np.mean(scores) - expected) < 2.5 * np.std(scores, ddof=1) / math.sqrt(1500)


def test_kad_does_not_see_where_the_origin_is():
    real, generated = normal(64, 6), normal(64, 6, 1, 0.3)
    assert kernel_distance(real + 1e6, generated + 1e6) == pytest.approx(kernel_distance(real, generated), rel=1e-6)


def test_kad_of_the_kernels_parts_is_that_of_the_parts():
    """What a jackknife does: the kernel of all clips once, then rows and columns of it."""
    real, generated, kept = normal(20, 3), normal(20, 3, 1, 1), torch.arange(20)[::2]
    rr, rg, gg = kernel_matrices(real, generated)
    part = mmd(*(k[kept][:, kept] for k in (rr, rg, gg)))
    width = torch.pdist(real).median()
    direct = [
        torch.exp(-torch.cdist(a, b).square() / (2 * width**2))
        for a, b in ((real[kept], real[kept]), (real[kept], generated[kept]), (generated[kept], generated[kept]))
    ]
    assert part.item() == pytest.approx(mmd(*direct).item(), rel=1e-9)


def test_kad_of_sets_drawn_again_is_that_of_the_clips_as_often_as_they_are_drawn():
    real, generated = normal(14, 3), normal(9, 3, 1, 1)
    draws = leave_out(14, 9, groups=3)
    mean, again = kernel_distances(real, generated, draws)
    assert mean == kernel_distance(real, generated) and again.shape == (3,)
    rr, rg, gg = kernel_matrices(real, generated)
    kept, ours = torch.arange(14) % 3 != 1, torch.arange(9) % 3 != 1
    part = mmd(rr[kept][:, kept], rg[kept][:, ours], gg[ours][:, ours])
    assert again[1].item() == pytest.approx(100 * part.item(), rel=1e-9)
    twice = torch.ones(14, dtype=torch.float64)
    twice[4] = 2
    pairs = sum(rr[i, j] * twice[i] * twice[j] for i in range(14) for j in range(14) if i != j)
    number = sum(twice[i] * twice[j] for i in range(14) for j in range(14) if i != j)
    expected = pairs / number + mmd(rr, rg, gg) - (rr.sum() - 14) / (14 * 13) + 2 * rg.mean() - 2 * (twice @ rg).sum() / (15 * 9)
    assert mmd(rr, rg, gg, twice).item() == pytest.approx(expected.item(), rel=1e-9)  # a clip never meets its own copy


def test_kad_over_tracks_is_unbiased_where_clips_of_a_track_resemble_each_other():
    """Two sets of the same kind of music, six tracks of five clips each: 0 on average, and more where clips are compared with
    others of their own track.
    """
    names, scores, naive = [str(i // 5) for i in range(30)], [], []
    draws = redraw(names, names, repeats=2)
    for s in range(300):
        sets = [normal(6, 3, 4 * s + k).repeat_interleave(5, 0) + 0.3 * normal(30, 3, 4 * s + k + 2) for k in (0, 1)]
        scores.append(kernel_distances(*sets, draws)[0])
        naive.append(kernel_distance(*sets))
    error = np.std(scores, ddof=1) / math.sqrt(300)
    assert abs(np.mean(scores)) < 2.5 * error and np.mean(naive) > 20 * error


def test_a_draw_of_one_track_only_says_nothing_of_the_spread():
    draws = redraw(["a", "a", "b", "b"], ["x", "y", "x", "y"], repeats=60)
    mean, again = kernel_distances(normal(4, 2), normal(4, 2, 1), draws)
    assert again.isnan().any() and math.isfinite(mean) and math.isfinite(draws.half_width(again))


def test_tracks_are_drawn_whole():
    draws = redraw(["a"] * 3 + ["b"] * 2, ["x", "y", "x"], repeats=50)
    assert draws.real.shape == (50, 5) and draws.generated.shape == (50, 3)
    assert (draws.real[:, :3] == draws.real[:, :1]).all() and (draws.real[:, 3:] == draws.real[:, 3:4]).all()
    assert (draws.real[:, 0] + draws.real[:, 3] == 2).all() and (draws.generated[:, 0] == draws.generated[:, 2]).all()
    assert {0.0, 1.0, 2.0} == set(draws.real.flatten().tolist()) and draws.over == "2 tracks against 2"
    again = redraw(["a"] * 3 + ["b"] * 2, ["x", "y", "x"], repeats=50)
    assert torch.equal(again.real, draws.real)


def test_the_bootstrap_over_single_clips_is_the_textbook_interval_of_a_mean():
    values = normal(80, 1)[:, 0]
    draws = redraw([str(i) for i in range(80)], [str(i) for i in range(80)], repeats=2000)
    half = draws.half_width(draws.generated @ values / 80)
    assert half == pytest.approx(1.96 * values.std().item() / math.sqrt(80), rel=0.08)


def test_kad_of_equal_clips_is_a_number():
    same = torch.ones(4, 3)
    assert kernel_distance(same, same) == pytest.approx(0, abs=1e-12)
    assert kernel_distance(same, normal(4, 3)) > 0


# --- fewer dimensions, and classes ------------------------------------------------------------------------------------


def test_projection_is_the_pca_of_numpys_svd():
    fitted, other = with_moments(MEAN_A, covariance(VALUES_A, 1), 80), normal(30, 6, 3)
    centred = fitted.numpy() - fitted.numpy().mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:3]
    expected = (other.numpy() - fitted.numpy().mean(0)) @ axes.T
    made = Projection(fitted, 3).apply(other.float()).numpy()
    signs = np.sign((made * expected).sum(0))
    np.testing.assert_allclose(made, expected * signs, atol=1e-6)
    spread = Projection(fitted, 6).apply(fitted).var(0)
    assert spread.tolist() == pytest.approx(sorted(VALUES_A, reverse=True), rel=1e-9)
    with pytest.raises(ValueError, match="7 components are more than the 6"):
        Projection(fitted, 7)


def test_dimensions_are_what_the_smallest_class_affords():
    assert affordable_dimensions([95, 40, 200]) == 4
    assert affordable_dimensions([49, 50]) == 4
    assert affordable_dimensions([1000]) == 32 and affordable_dimensions([1000], most=50) == 50
    assert "of 9: a Fréchet" in words(affordable_dimensions, [9, 100])
    assert "of 0: a Fréchet" in words(affordable_dimensions, [])


def clusters(n, seed):
    """Clips of four classes of two attributes, each at a place of its own, and their labels."""
    labels = [{"place": ("sea", "city")[i % 2], "time": ("dawn", "night")[i // 2 % 2]} for i in range(n)]
    where = [[4.0 * (label["place"] == "sea"), 4.0 * (label["time"] == "dawn")] for label in labels]
    return normal(n, 2, seed) + torch.tensor(where, dtype=torch.float64), labels


def test_music_of_other_classes_is_seen_within_classes_alone():
    (real, real_labels), (generated, labels) = clusters(200, 0), clusters(200, 1)
    order = torch.from_numpy(np.random.default_rng(0).permutation(200))
    assert frechet_distance(real, generated[order]) == pytest.approx(frechet_distance(real, generated), rel=1e-9)
    right = conditional_frechet(real, generated, real_labels, labels)
    assert conditional_frechet(real, generated[order], real_labels, labels) > 10 * right > 0
    moved = [labels[i] for i in order]  # clips and labels together: nothing changes
    assert conditional_frechet(real, generated[order], real_labels, moved) == pytest.approx(right, rel=1e-9)


def test_the_conditional_distance_is_the_mean_over_classes():
    (real, real_labels), (generated, labels) = clusters(120, 0), clusters(80, 1)
    parts = []
    for attribute, name in (("place", "sea"), ("place", "city"), ("time", "dawn"), ("time", "night")):
        theirs, ours = ([i for i, label in enumerate(ls) if label[attribute] == name] for ls in (real_labels, labels))
        parts.append(frechet_distance(real[theirs[:40]], generated[ours[:40]]))
    assert conditional_frechet(real, generated, real_labels, labels) == pytest.approx(sum(parts) / 4, rel=1e-12)


def test_classes_with_too_few_clips_are_named():
    (real, real_labels), (generated, labels) = clusters(76, 0), clusters(76, 1)
    message = words(conditional_frechet, real[:38], generated[:38], real_labels[:38], labels[:38])
    assert "place city" in message and "19 clips" in message
    rare = [{"place": "moon"}, *labels[1:]]
    assert "place moon" in words(conditional_frechet, real, generated, real_labels, rare)
    assert "place moon" in words(conditional_frechet, real, generated, real_labels, rare, check=False)
    assert words(conditional_frechet, real, generated, real_labels, [{}] * 76)


def test_clips_that_do_not_tell_an_attribute_are_left_out_of_it():
    (real, real_labels), (generated, labels) = clusters(160, 0), clusters(160, 1)
    silent = [label if i < 120 else {"place": label["place"]} for i, label in enumerate(labels)]
    assert conditional_frechet(real, generated, real_labels, silent) > 0


# --- intervals --------------------------------------------------------------------------------------------------------


def test_the_jackknife_of_a_mean_is_the_textbook_interval():
    values = [1.0, 2.0, 3.0, 4.0]
    half = jackknife(lambda items: sum(values[i] for i in items) / len(items), 4)
    assert half == pytest.approx(3.1824 * math.sqrt(5 / 3 / 4), rel=1e-6)


def test_the_jackknife_leaves_out_interleaved_groups():
    seen = []

    def score(items):
        seen.append(list(items))
        return float(sum(items))

    half = jackknife(score, 6, groups=3)
    assert seen == [[1, 2, 4, 5], [0, 2, 3, 5], [0, 1, 3, 4]]
    assert half == pytest.approx(4.3027 * math.sqrt(2 / 3 * (4 + 0 + 4)), rel=1e-6)
    assert jackknife(score, 1) == math.inf
    seen.clear()
    jackknife(score, 4, groups=["a", "a", "b", "a"])
    assert seen == [[2], [0, 1, 3]] and jackknife(score, 4, groups=[7] * 4) == math.inf


def test_the_jackknife_covers_the_spread_of_frechet_distances():
    sets = [(normal(100, 3, 2 * s), normal(100, 3, 2 * s + 1, 0.5)) for s in range(40)]
    halves = [jackknife(lambda i, a=a, b=b: frechet_distance(a[list(i)], b[list(i)], check=False), 100) for a, b in sets]
    spread = np.std([frechet_distance(a, b) for a, b in sets], ddof=1)
    assert np.mean(halves) == pytest.approx(1.96 * spread, rel=0.35)


def test_students_interval_of_a_few_seeds():
    assert students([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.3027 / math.sqrt(3)), rel=1e-6)
    assert students([0.0, 1.0]) == pytest.approx((0.5, 12.7062 * math.sqrt(0.5) / math.sqrt(2)), rel=1e-6)
    assert students([5.0]) == (5.0, math.inf)
    many = [float(i % 2) for i in range(30)]
    assert students(many)[1] == pytest.approx(2.04523 * math.sqrt(7.5 / 29) / math.sqrt(30), rel=1e-4)
    assert [t_975(n) for n in (10, 20, 100)] == pytest.approx([2.22814, 2.08596, 1.98397], rel=2e-4)


def test_intervals_over_few_tracks_hold_as_often_as_they_say():
    """Means of 7 tracks of 5 clips each: 95 of 100 intervals hold the true mean 0; the bootstrap's own would in fewer."""
    names, draw = [str(i // 5) for i in range(35)], torch.Generator().manual_seed(0)
    draws, hits, narrow = redraw(names, names), 0, 0
    for _ in range(400):
        values = torch.randn(7, 1, generator=draw, dtype=torch.float64).expand(7, 5).flatten()
        half = draws.half_width(draws.generated @ values / 35)
        hits += abs(values.mean().item()) < half
        narrow += abs(values.mean().item()) < half * 1.959964 / draws.point
    assert 0.925 < hits / 400 < 0.975 and narrow / 400 < 0.91


def test_the_bootstrap_over_few_tracks_is_students_interval_of_their_means():
    names, values = [str(i // 5) for i in range(20)], normal(4, 1)[:, 0]
    draws = redraw(names, names, repeats=4000)
    half = draws.half_width(draws.generated @ values.repeat_interleave(5) / 20)
    assert half == pytest.approx(students(values.tolist())[1], rel=0.04)  # a factor of √(3/4) would be .87


def test_one_track_has_no_interval():
    draws = redraw(["a"] * 4, ["x", "y"])
    assert draws.half_width(draws.real @ normal(4, 1)[:, 0]) == math.inf
