"""Metrics of sets and pairs: worked out by hand, and the same for any batches and any processes."""

import math

import pytest
import torch
from data_fixtures import one_sentence
from metric_fixtures import with_moments
from metric_ranks import SHARES, N, batches, clips, computed, feed, metrics, on_rank
from synapse_fixtures import randn

from melfusion.metrics.distances import TooFewSamples, frechet_distance, frechet_infinity, kernel_distance
from melfusion.metrics.imsm import imsm, imsm_released
from melfusion.metrics.sets import AttributeAccuracy, CLAPScore, ImageMusicSimilarity, KernelDistance, KLDivergence, SetDistance

NAMES = list(metrics())


def whole(name):
    metric = metrics()[name]
    feed(name, metric, [list(range(N))])
    return metric.compute()


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_the_batches(name):
    expected = whole(name)
    assert expected.dtype == torch.float64 and expected.isfinite()
    for size in (1, 7, 64):
        metric = metrics()[name]
        feed(name, metric, batches(list(range(N)), size))
        torch.testing.assert_close(metric.compute(), expected, rtol=1e-12, atol=1e-12)
        metric.reset()
        feed(name, metric, batches(list(reversed(range(N))), 13))
        torch.testing.assert_close(metric.compute(), expected, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two real processes computed."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(on_rank, (2, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("share", [name for name in SHARES if name != "no clips"])
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_compute_what_one_does(ranks, share, name):
    assert sorted(i for rank in SHARES[share] for batch in rank for i in batch) == list(range(N))
    for rank in ranks:
        torch.testing.assert_close(rank[share][name], whole(name), rtol=1e-12, atol=1e-12)
        assert rank[share][f"{name} result"]["n"] in (N, int(N * 6 / 7))  # clips of both; a seventh do not tell their class


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_the_score_with_its_interval(ranks, name):
    metric = metrics()[name]
    feed(name, metric, batches(list(range(N)), 16))
    found = metric.result()
    value = found["accuracy"] if name == "accuracy" else found["mean"]
    assert value == pytest.approx(metric.compute().item(), rel=1e-9)
    if name == "accuracy":
        assert 0 < found["low"] < value < found["high"] < 1
    else:
        assert 0 < found["interval"] < 10 * abs(value) + 1
    for share in ("one rank idle", "the other idle"):
        for rank in ranks:  # in the same order on one process, the interval is the same too
            assert numbers(rank[share][f"{name} result"]) == pytest.approx(numbers(found), rel=1e-9)


def numbers(found):
    return {key: value for key, value in found.items() if not isinstance(value, str)}


def test_a_score_that_cannot_be_had_is_words():
    for name, metric in metrics().items():
        assert set(metric.result()) == {"why_not"}, name
    kad = metrics()["kad"]
    kad.update(torch.randn(2, 3), real=True)
    kad.update(torch.randn(9, 3), real=False)
    assert "three of each" in kad.result()["why_not"]


def test_intervals_of_means_are_the_hands():
    metric = CLAPScore()
    metric.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))  # 1 and 0
    assert metric.result() == pytest.approx({"mean": 0.5, "interval": 1.959964 * math.sqrt(0.5 / 2), "n": 2}, rel=1e-6)


def test_embeddings_of_pieces_count_as_pieces():
    real, made = (randn(30, 3, 2, seed=s).double() for s in (1, 2))
    metric = SetDistance(frechet_distance, pieces=3)
    for side, is_real in ((real, True), (made, False)):
        metric.update(side[:11], real=is_real)
        metric.update(side[11:], real=is_real)
    assert metric.compute().item() == pytest.approx(frechet_distance(real.flatten(0, 1), made.flatten(0, 1)), rel=1e-9)
    kad = KernelDistance()
    kad.update(real, real=True)
    kad.update(made, real=False)
    assert kad.compute().item() == pytest.approx(kernel_distance(real.mean(1), made.mean(1)), rel=1e-9)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_clips_every_metric_says_so_on_every_process(ranks):
    alone = computed([])
    for found in (alone, *(rank["no clips"] for rank in ranks)):
        for name in NAMES:
            assert isinstance(found[name], str) and found[name] == alone[name], name


def test_a_process_has_only_part_of_the_clips(ranks):
    """So that the test above is about gathering: one process's share alone has other scores."""
    share = computed(SHARES["uneven"][0])
    for name in NAMES:
        assert not isinstance(share[name], torch.Tensor) or share[name] != ranks[0]["uneven"][name]


def test_a_set_distance_is_its_function_of_both_sets():
    real, generated = clips("fad")
    for metric, distance in ((SetDistance(frechet_distance), frechet_distance), (KernelDistance(), kernel_distance)):
        metric.update(generated, real=False)
        metric.update(real, real=True)
        assert metric.compute().item() == distance(real, generated) == metric.result()["mean"]


def test_fad_has_the_closed_form_through_the_metric():
    metric = SetDistance(frechet_distance)
    metric.update(with_moments([0.0, 1.0], [[4.0, 0.0], [0.0, 9.0]], 50), real=True)
    metric.update(with_moments([3.0, 5.0], [[1.0, 0.0], [0.0, 4.0]], 50, seed=1), real=False)
    assert metric.compute().item() == pytest.approx(9 + 16 + 1 + 1, rel=1e-9)


def test_too_few_clips_reach_the_caller_in_words():
    metric = SetDistance(frechet_distance)
    metric.update(torch.randn(19, 2), real=True)
    metric.update(torch.randn(19, 2), real=False)
    with pytest.raises(TooFewSamples) as caught:
        metric.compute()
    assert "19 clips" in one_sentence(caught.value)
    metric.update(torch.randn(1, 2), real=True)
    with pytest.raises(TooFewSamples, match="20 real and 19 generated"):
        metric.compute()
    assert "20 real and 19 generated" in metric.result()["why_not"]


@pytest.mark.parametrize(("distance", "n"), [(frechet_distance, 20), (frechet_infinity, 40)])
def test_sets_that_are_just_large_enough_have_an_interval(distance, n):
    """A jackknife's parts are smaller, and are not refused for it."""
    metric = SetDistance(distance)
    metric.update(torch.randn(n, 2), real=True)
    metric.update(torch.randn(n, 2), real=False)
    found = metric.result()
    assert found["mean"] == metric.compute().item() and 0 < found["interval"] < 10 and found["n"] == n


def test_a_score_of_one_clip_is_refused_in_words():
    metric = ImageMusicSimilarity(imsm_released)
    metric.update(*torch.randn(4, 1, 3))
    assert "at least two" in metric.result()["why_not"]


def test_kl_is_the_hands():
    metric = KLDivergence()
    real, generated = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [math.log(4), 0.0]])
    metric.update(real, generated)
    first = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    second = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    assert metric.compute().item() == pytest.approx((first + second) / 2, rel=1e-6)
    metric.update(torch.tensor([[1000.0, -1000.0]]), torch.tensor([[1000.0, -1000.0]]))
    assert metric.compute().item() == pytest.approx((first + second) / 3, rel=1e-6)  # sure taggers give no NaN


def test_kl_is_of_probabilities_whatever_is_added_to_all_logits():
    real, generated = clips("kl")
    moved = KLDivergence()
    moved.update(real + 5, generated - 3)
    assert moved.compute().item() == pytest.approx(whole("kl").item(), rel=1e-5)
    same = KLDivergence()
    same.update(real, real)
    assert same.compute() == 0 < whole("kl")


def test_clap_score_is_the_mean_cosine():
    metric = CLAPScore()
    metric.update(torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[5.0, 0.0], [0.0, 2.0]]))
    metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([[-4.0, 0.0]]))
    assert metric.compute().item() == pytest.approx((1 + math.sqrt(0.5) - 1) / 3, rel=1e-12)


def test_attribute_accuracy_counts_labelled_clips():
    metric = AttributeAccuracy()
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [5.0, 0.0], [0.0, 1.0]])
    metric.update(logits, torch.tensor([0, 0, -100, 1]))
    assert metric.compute().item() == pytest.approx(2 / 3)
    metric.update(logits, torch.full((4,), -100))
    assert metric.compute().item() == pytest.approx(2 / 3)


def test_imsm_compares_all_clips_with_each_other_not_those_of_a_batch():
    sides, metric = clips("imsm"), ImageMusicSimilarity()
    for i in range(6):
        metric.update(*(side[i : i + 1] for side in sides))
    assert metric.compute().item() == imsm(*(side[:6] for side in sides))


def test_many_small_terms_add_up_in_float64():
    """Float32 sums would stop growing."""
    metric = CLAPScore()
    metric.total += 2.0**25
    metric.count += 2.0**25
    metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert metric.compute().item() == 2.0**25 / (2.0**25 + 1)
