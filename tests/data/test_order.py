"""The order of samples and their random numbers are pure functions of (seed, position)."""

import itertools

import numpy as np
import pytest

from melfusion import randomness
from melfusion.data.order import EvalBatches, TrainBatches, permutation, sample_index, substitute_index
from melfusion.errors import DataError
from melfusion.randomness import generator

CASES = np.random.default_rng(0)


def cases(number, **ranges):
    """Dictionaries of random integers in [low, high]."""
    for _ in range(number):
        yield {name: int(CASES.integers(low, high + 1)) for name, (low, high) in ranges.items()}


def steps_of(world, micro, accumulate, consumed, steps):
    """What each optimizer step shows, over all ranks and micro-batches: steps lists of positions."""
    ranks = [iter(TrainBatches(micro, rank, world, consumed)) for rank in range(world)]
    return [[p for _ in range(accumulate) for rank in ranks for p in next(rank)] for _ in range(steps)]


def test_each_epoch_shows_each_sample_once():
    for case in cases(300, seed=(0, 2**32), n=(1, 60), epoch=(0, 50)):
        seed, n, epoch = case["seed"], case["n"], case["epoch"]
        shown = [sample_index(seed, epoch * n + place, n) for place in range(n)]
        assert sorted(shown) == list(range(n)), case
        assert shown == permutation(seed, epoch, n).tolist()


def test_epochs_and_seeds_have_their_own_order():
    orders = [tuple(permutation(seed, epoch, 40)) for seed in range(20) for epoch in range(20)]
    assert len(set(orders)) == 400


def test_every_sample_comes_at_every_place_equally_often():
    first = np.bincount([sample_index(3, 8 * epoch, 8) for epoch in range(4000)], minlength=8)
    assert abs(first - 500).max() < 100  # 4.8 standard deviations


def test_a_step_is_the_same_positions_for_every_split_over_ranks_and_accumulation():
    for case in cases(500, micro=(1, 5), accumulate=(1, 4), start=(0, 1000), steps=(1, 4)):
        for world in (1, 2, 4, 8):
            size = case["micro"] * world * case["accumulate"]
            shown = steps_of(world, case["micro"], case["accumulate"], case["start"] * size, case["steps"])
            for k, positions in enumerate(shown):
                first = (case["start"] + k) * size
                assert sorted(positions) == list(range(first, first + size)), (case, world)


def test_a_resume_with_other_devices_goes_on_where_the_first_stopped():
    splits = [(world, accumulate) for world, accumulate in itertools.product((1, 2, 4, 8), (1, 2, 3))]
    for case in cases(200, before=(0, 6), after=(1, 4), a=(0, len(splits) - 1), b=(0, len(splits) - 1)):
        size = 48
        (w1, a1), (w2, a2) = splits[case["a"]], splits[case["b"]]
        shown = steps_of(w1, size // (w1 * a1), a1, 0, case["before"])
        shown += steps_of(w2, size // (w2 * a2), a2, case["before"] * size, case["after"])
        assert [sorted(step) for step in shown] == [sorted(step) for step in steps_of(1, size, 1, 0, len(shown))], case


def test_draws_depend_on_seed_and_position_only():
    shapes = {"noise": (2, 3), "vae_noise": (4,)}
    for case in cases(200, seed=(0, 2**32), position=(0, 2**40)):
        first = randomness.draws(case["seed"], case["position"], shapes)
        randomness.draws(case["seed"] + 1, 5, {"noise": (1000,)})  # whatever was drawn in between
        again = randomness.draws(case["seed"], case["position"], dict(reversed(shapes.items())))
        assert first.keys() == again.keys() == {"timestep", "drop", "noise", "vae_noise"}
        assert all(np.array_equal(first[name], again[name]) for name in first), case
        fewer = randomness.draws(case["seed"], case["position"], {"noise": (2, 3)})
        assert np.array_equal(first["noise"], fewer["noise"]) and first["drop"] == fewer["drop"]


def test_draws_have_their_shapes_types_and_distributions():
    drawn = [randomness.draws(0, position, {"noise": (3, 4), "image_noise": (5,)}) for position in range(2000)]
    assert drawn[0]["noise"].shape == (3, 4) and drawn[0]["image_noise"].shape == (5,)
    assert drawn[0]["noise"].dtype == drawn[0]["image_noise"].dtype == np.float32
    for name in ("timestep", "drop"):
        values = np.array([d[name] for d in drawn])
        assert values.min() >= 0 and values.max() < 1
        assert abs(np.histogram(values, 10, (0, 1))[0] - 200).max() < 60
    noise = np.stack([d["noise"] for d in drawn])
    assert abs(noise.mean()) < 0.03 and noise.std() == pytest.approx(1, abs=0.02)
    flat = noise.reshape(len(drawn), -1)
    assert np.abs(np.corrcoef(flat[:-1, 0], flat[1:, 0])[0, 1]) < 0.1  # neighbours are independent


def test_streams_positions_epochs_and_seeds_differ():
    grid = itertools.product(range(3), randomness.STREAMS, range(3), range(4))
    first = [generator(*case).integers(2**63) for case in grid]
    assert len(set(first)) == len(first) == 3 * len(randomness.STREAMS) * 12
    assert generator(1, "noise", 2, 3).random() == generator(1, "noise", 2, 3).random()


def test_long_draws_of_one_position_do_not_run_into_the_next():
    rows = [generator(0, "noise", 0, position).standard_normal(50_000) for position in range(3)]
    assert len(np.unique(np.concatenate(rows).round(12))) == 150_000


def test_substitutes_are_fixed_by_position_and_attempt():
    for case in cases(300, seed=(0, 2**32), position=(0, 10**9), attempt=(0, 15), n=(1, 50)):
        index = substitute_index(**case)
        assert 0 <= index < case["n"] and index == substitute_index(**case)
    attempts = {substitute_index(0, 7, attempt, 1000) for attempt in range(16)}
    assert len(attempts) > 13


def test_evaluation_covers_each_item_once_with_as_many_batches_on_each_rank():
    for case in cases(600, n=(1, 70), batch=(1, 9)):
        for world in (1, 2, 3, 4, 8):
            if case["n"] < world:
                with pytest.raises(DataError, match=f"{case['n']} samples cannot be shared by {world} ranks"):
                    EvalBatches(case["n"], case["batch"], 0, world)
                continue
            ranks = [EvalBatches(case["n"], case["batch"], rank, world) for rank in range(world)]
            batches = [list(rank) for rank in ranks]
            shown = sorted(i for rank in batches for batch in rank for i in batch)
            assert shown == list(range(case["n"])), (case, world)
            assert [len(rank) for rank in ranks] == [len(b) for b in batches] == [len(batches[0])] * world, (case, world)
            sizes = [len(batch) for rank in batches for batch in rank]
            # one more than asked for only where single items do not divide: another rank would have an empty batch
            assert min(sizes) >= 1 and max(sizes) <= max(case["batch"], 2), (case, world)


def test_an_empty_evaluation_has_no_batch_on_any_rank():
    assert [list(EvalBatches(0, 4, rank, 2)) for rank in range(2)] == [[], []]


WORLDS, WORKERS = (1, 2, 4, 8), (0, 1, 2, 4)


def as_workers_give(batches, workers, number):
    """What a DataLoader yields: batches dealt to its workers in turn, and taken from them in the same turn."""
    dealt = [next(batches) for _ in range(number)]
    queues = [iter(dealt[w :: max(workers, 1)]) for w in range(max(workers, 1))]
    return [next(queues[i % max(workers, 1)]) for i in range(number)]


def run_of(split, seed, n, size, consumed, steps):
    """The samples of each optimizer step of a run from `consumed` on, and how many batches each rank took."""
    world, workers, accumulate = split
    micro = size // (world * accumulate)
    ranks = [
        as_workers_give(iter(TrainBatches(micro, rank, world, consumed)), workers, steps * accumulate) for rank in range(world)
    ]
    shown = [[p for a in range(accumulate) for rank in ranks for p in rank[step * accumulate + a]] for step in range(steps)]
    return [[sample_index(seed, p, n) for p in step] for step in shown], {len(rank) for rank in ranks}


def test_the_sequence_of_samples_outlives_every_change_of_ranks_workers_and_accumulation():
    """R1-R3: ≥ 1,000 random runs, each resumed at a random step with other counts."""
    splits = [(w, k, a) for w in WORLDS for k in WORKERS for a in (1, 2, 3) if 48 % (w * a) == 0]
    ranges = {"a": (0, len(splits) - 1), "b": (0, len(splits) - 1), "before": (0, 5), "after": (1, 5), "n": (1, 150)}
    for case in cases(1200, seed=(0, 2**32), **ranges):
        seed, n, steps = case["seed"], case["n"], case["before"] + case["after"]
        wanted = [[sample_index(seed, p, n) for p in range(48 * k, 48 * (k + 1))] for k in range(steps)]
        first, lengths = run_of(splits[case["a"]], seed, n, 48, 0, case["before"])
        second, more = run_of(splits[case["b"]], seed, n, 48, 48 * case["before"], case["after"])
        assert first + second == wanted, case  # within a step too: ranks and micro-batches lie in order
        assert len(lengths) <= 1 and len(more) == 1
        flat = [index for step in first + second for index in step]
        for epoch in range(len(flat) // n):
            assert sorted(flat[epoch * n : (epoch + 1) * n]) == list(range(n)), case


def test_shards_play_no_part_in_the_order():
    """Any ratio of shards to ranks: positions know only how many samples there are."""
    for case in cases(100, n=(1, 40), shards=(1, 9), world=(0, 3), seed=(0, 99)):
        world = WORLDS[case["world"]]
        owner = [i * case["shards"] // case["n"] for i in range(case["n"])]  # uneven shards, some of them empty
        steps, lengths = run_of((world, 2, 1), case["seed"], case["n"], 8 * case["n"], 0, 1)
        assert lengths == {1} and np.bincount(steps[0], minlength=case["n"]).tolist() == [8] * case["n"]
        assert {owner[i] for i in steps[0]} == set(owner)


def test_evaluation_on_one_rank_keeps_the_order():
    assert list(EvalBatches(5, 2)) == [[0, 1], [2, 3], [4]]
    assert list(EvalBatches(5, 2, 1, 2)) == [[1], [3]]  # as many batches as rank 0 has of [0, 2, 4]
    batches = EvalBatches(3, 2)
    assert list(batches) == list(batches)  # may be read again
