"""Splits of paired data: connected pairs stay together, shares are kept, and order does not matter."""

import random
from collections import Counter

import pytest

from melfusion.data.splits import components, split_components


@pytest.mark.parametrize("seed", range(8))
def test_split_never_separates_what_is_connected(seed):
    rng = random.Random(seed)
    pairs = [(f"t{rng.randrange(40)}", f"p{rng.randrange(60)}") for _ in range(50)]
    splits = split_components(pairs, seed=seed)
    for side in (0, 1):
        seen = {}
        for pair, split in zip(pairs, splits, strict=True):
            assert seen.setdefault(pair[side], split) == split
    assert set(splits) == {"train", "val", "test"}
    assert splits == split_components(pairs, seed=seed)
    shuffled = list(range(len(pairs)))
    rng.shuffle(shuffled)
    again = split_components([pairs[i] for i in shuffled], seed=seed)
    assert [again[shuffled.index(i)] for i in range(len(pairs))] == splits


def test_split_keeps_to_its_shares_and_fills_every_split():
    many = [(f"t{i}", f"p{i}") for i in range(1000)]
    assert Counter(split_components(many)) == {"train": 800, "val": 100, "test": 100}
    assert split_components(many) != split_components(many, seed=1)
    assert sorted(split_components(many[:3])) == ["test", "train", "val"]
    assert split_components(many[:1]) == ["train"] and split_components([]) == []
    heavy = split_components(many[:20], weights=[100.0] + [1.0] * 19)
    assert heavy[0] == "train" and {"val", "test"} <= set(heavy)
    assert len(set(components([("a", "x"), ("b", "x"), ("x", "a")]))) == 2  # a track is not a picture
    with pytest.raises(ValueError, match="three shares"):
        split_components(many, ratios=(1, 2))
