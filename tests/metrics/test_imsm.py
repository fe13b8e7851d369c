"""IMSM: bounds of the stated reduction, and what the released one can and cannot say."""

import math

import pytest
import torch
from data_fixtures import one_sentence
from synapse_fixtures import randn

from melfusion.metrics.distances import TooFewSamples
from melfusion.metrics.imsm import imsm, imsm_released, matrix


def matched(n, d=16, noise=0.3, seed=0):
    """Picture, its caption in two spaces, and music, near each other pair by pair."""
    clip, clap = randn(n, d, seed=seed), randn(n, d, seed=seed + 1)
    drawn = (noise * randn(n, d, seed=seed + k) for k in (2, 3, 4, 5))
    return tuple(x + e for x, e in zip((clip, clip, clap, clap), drawn, strict=True))


def shifted(sets):
    return *sets[:3], sets[3].roll(1, 0)


def rows(cosines):
    """The soft-max of each row."""
    return [[math.exp(c) / sum(map(math.exp, row)) for c in row] for row in cosines]


def test_music_of_another_picture_scores_lower():
    sets = matched(12)
    assert imsm(*sets) > 0.95 and imsm(*shifted(sets)) < 0.6
    assert imsm_released(*sets) > imsm_released(*shifted(sets))


def test_the_matrix_is_the_one_worked_out_by_hand():
    image, text = torch.tensor([[2.0, 0.0], [0.0, 5.0]]), torch.tensor([[1.0, 1.0], [0.0, 3.0]])
    audio, caption = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    half = math.sqrt(0.5)
    a, b = rows([[half, 0.0], [half, 1.0]]), rows([[1.0, 0.0], [half, half]])
    expected = [[sum(a[i][k] * b[j][k] for k in (0, 1)) for j in (0, 1)] for i in (0, 1)]
    found = matrix(image, text, caption, audio, temperatures=(1.0, 1.0))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    wins = [expected[0][0] > expected[0][1], expected[1][1] > expected[1][0]]
    assert imsm(image, text, caption, audio, temperatures=(1.0, 1.0)) == sum(wins) / 2


@pytest.mark.parametrize("n", [2, 7, 40])
def test_one_for_perfect_none_for_reversed_pairs(n):
    eye = torch.eye(n)
    assert imsm(eye, eye, eye, eye) == 1
    if n == 2:
        assert imsm(eye, eye, eye, eye.flip(0)) == 0


@pytest.mark.parametrize("n", [2, 5, 17, 33, 100])
def test_music_that_is_always_the_same_is_at_chance(n):
    """Ties count half, also where a product of matrices rounds equal columns differently."""
    sets = matched(n)
    assert imsm(*sets[:3], randn(1, 16, seed=9).expand(n, -1)) == 0.5
    assert imsm(*sets[:3], torch.zeros(n, 16)) == 0.5


@pytest.mark.parametrize("n", [2, 8, 30])
def test_unrelated_music_is_at_chance_whatever_n(n):
    scores = [imsm(*matched(n, seed=s)[:3], randn(n, 16, seed=10000 + s)) for s in range(0, 3000, 10)]
    scores = torch.tensor(scores)
    assert abs(scores.mean() - 0.5) < 3 * scores.std() / math.sqrt(len(scores))


def test_the_order_of_the_clips_says_nothing():
    sets, order = matched(9, noise=1.0), torch.tensor([3, 1, 8, 0, 2, 7, 6, 5, 4])
    assert imsm(*(x[order] for x in sets)) == pytest.approx(imsm(*sets), abs=1e-12)
    assert imsm_released(*(x[order] for x in sets)) == pytest.approx(imsm_released(*sets), abs=1e-12)


def test_the_length_of_embeddings_says_nothing():
    sets = matched(9, noise=1.0)
    longer = [x * (1 + torch.arange(9.0))[:, None] for x in sets]
    assert imsm(*longer) == pytest.approx(imsm(*sets), abs=1e-12)
    assert imsm_released(*longer) == pytest.approx(imsm_released(*sets), abs=1e-6)


def test_one_clip_is_refused_in_one_sentence():
    with pytest.raises(TooFewSamples) as caught:
        imsm(*matched(1))
    assert "at least two" in one_sentence(caught.value)
    with pytest.raises(TooFewSamples):
        imsm_released(*torch.zeros(4, 0, 3))


def released_bound(n: int) -> float:
    """The largest value that the release's number can have for N clips: one soft-max of numbers within [0, 1]."""
    return math.e / (math.e + n - 1)


@pytest.mark.parametrize(("n", "literal"), [(2, 0.731), (16, 0.153)])
def test_the_released_number_reaches_its_bound_for_one_hot_embeddings(n, literal):
    eye = torch.eye(n)
    assert imsm_released(eye, eye, eye, eye) == pytest.approx(released_bound(n), rel=1e-12)
    assert released_bound(n) == pytest.approx(literal, abs=5e-4)


@pytest.mark.parametrize("n", [2, 5, 16])
def test_the_released_number_never_exceeds_its_bound(n):
    for seed in range(0, 500, 10):
        for noise in (0.0, 0.5, 5.0):
            sets = matched(n, noise=noise, seed=seed)
            assert imsm_released(*sets) <= released_bound(n) + 1e-12


def test_the_released_number_is_1_for_any_single_clip():
    assert imsm_released(*(randn(1, 8, seed=s) for s in range(4))) == 1 == released_bound(1)


def test_the_released_number_is_three_softmaxes_by_hand():
    image, text = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    audio, caption = torch.tensor([[0.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    a, b = rows([[0.0, 2.0], [1.6, 1.2]]), rows([[0.0, 2.0], [1.2, 1.6]])  # twice the cosines
    product = rows([[sum(a[i][k] * b[j][k] for k in (0, 1)) for j in (0, 1)] for i in (0, 1)])
    found = imsm_released(image, text, caption, audio, logit_scale=2.0)
    assert found == pytest.approx((product[0][0] + product[1][1]) / 2, rel=1e-6)
