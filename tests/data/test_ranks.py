"""One data set built by several processes, which threads stand for here."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from data_fixtures import make_sample

from melfusion.data.ranks import Ranks
from melfusion.data.shards import ShardSet
from melfusion.data.writing import write_shards
from melfusion.errors import DataError

WORLD = 3


def team():
    """Ranks whose values meet at a barrier."""
    given, barrier = [None] * WORLD, threading.Barrier(WORLD, timeout=30)

    def meeting(number):
        def meet(value):
            given[number] = value
            barrier.wait()
            values = list(given)
            barrier.wait()
            return values

        return meet

    return [Ranks(number, WORLD, meeting(number)) for number in range(WORLD)]


def built(out, samples, **options):
    """What each rank's call gives, or raises."""

    def one(ranks):
        try:
            return write_shards(samples(ranks.number), out, 2, {"made": "together"}, ranks=ranks, **options)
        except DataError as error:
            return error

    with ThreadPoolExecutor(WORLD) as pool:
        return list(pool.map(one, team()))


KEYS = [f"s{i}" for i in range(8)]


def shares(number):
    return [make_sample(key, "train") for key in KEYS[number::WORLD]]


def test_each_rank_writes_shards_of_its_own_into_one_set(tmp_path):
    assert [counts["train"] for counts in built(tmp_path, shares)] == [3, 3, 2]
    found = ShardSet(tmp_path)
    assert sorted(entry.key for entry in found.entries("train")) == KEYS and found.info == {"made": "together"}
    assert {entry.shard for entry in found.entries("train")} == {f"train-{n:06d}.tar" for n in range(5)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", *(f"train-{n:06d}.tar" for n in range(5))]


def test_where_one_rank_fails_all_leave_and_the_old_set_stays(tmp_path):
    write_shards([make_sample("old", "train")], tmp_path)

    def failing(number):
        yield from shares(number)
        if number == 1:
            raise DataError("the picture of s4 is lost.")

    assert [str(error) for error in built(tmp_path, failing)] == ["the picture of s4 is lost."] * WORLD
    assert [entry.key for entry in ShardSet(tmp_path).entries("train")] == ["old"] and not (tmp_path / ".building").exists()


def test_a_rank_without_samples_is_no_error_but_a_set_without_is(tmp_path):
    assert built(tmp_path, lambda number: shares(0) if number == 2 else []) == [{}, {}, {"train": 3}]
    assert all("no sample could be written" in str(error) for error in built(tmp_path, lambda number: []))


def test_what_is_there_already_is_asked_once(tmp_path):
    asked = []

    def computed(number):
        yield pytest.fail("computed")

    assert built(tmp_path, computed, unless=lambda: asked.append(1) or True) == [{}] * WORLD
    assert asked == [1]
