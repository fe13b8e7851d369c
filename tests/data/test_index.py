"""An index is read part by part into arrays: as json.loads would read it, as strictly, and without an object for each sample."""

import json
import pickle
import sys

import fuzz_cases
import numpy as np
import pytest
from data_fixtures import data_set, make_sample

from melfusion.data import index, json_parts, order
from melfusion.data.index import columns_of, parse_index


def synthetic(n, per_shard=256):
    """The tree of an index of n samples of two members."""
    shards = []
    for first in range(0, n, per_shard):
        samples = [
            {"key": f"s{i}", "members": {"json": [512, i], "flac": [512 + i, 7]}, "digests": f"{i:064x}"}
            for i in range(first, min(first + per_shard, n))
        ]
        shards.append({"name": f"train-{first:07d}.tar", "bytes": 1 << 30, "sha256": f"{first:064x}", "samples": samples})
    return {"version": 1, "info": {"a": [1, {"b": "♫"}]}, "shards": shards}


def parsed(tree):
    return parse_index(json.dumps(tree, ensure_ascii=False).encode(), "index.json", 10**6)


def pulled(text):
    return {name: list(value) if hasattr(value, "__next__") else value for name, value in json_parts.parts(text, "shards")}


@pytest.mark.parametrize("window", [1, 7, 64, 1 << 22])
def test_parts_are_what_json_reads_wherever_the_text_is_cut(window, monkeypatch):
    monkeypatch.setattr(json_parts, "WINDOW", window)
    tree = synthetic(5, 2) | {"more": -12.5e3, "last": 1234567, "shards2": [], "none": None}
    for text in (json.dumps(tree), json.dumps(tree, ensure_ascii=False, indent=1), "{}", '{"shards": []}', ' {"shards":7} '):
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            assert pulled(text.encode(encoding)) == json.loads(text)


def test_what_json_refuses_is_refused():
    whole = json.dumps(synthetic(2, 1)).encode()
    wrong = [whole[:end] for end in range(0, len(whole), 5)] + [whole + b"x", whole[1:], b"[]", b"1", b"\xff{}", b'{"a" 1}']
    wrong += [b'{"a": 1 "b": 2}', b"{1: 2}", b'{"a": 1,}', b'{"a": 1, "a": 2}']
    wrong += [b'{"shards": [1 2]}', b'{"shards": [1,]}', b'{"shards": [,1]}']
    for text in wrong:
        with pytest.raises(ValueError):
            pulled(text)


def test_entries_are_those_of_the_tree_in_any_order():
    tree = synthetic(7, 3)
    tree["shards"][1]["samples"][0] |= {"key": "ü♫", "members": {"json": [1024, 0]}, "digests": None}
    tree["shards"][2]["samples"] = []
    entries = parsed(tree).table.of_shards([1, 0, 2])
    flat = [(shard["name"], sample) for shard in tree["shards"][:2] for sample in shard["samples"]]
    assert [(e.shard, e.key) for e in entries] == [(name, sample["key"]) for name, sample in flat]
    for entry, (_, sample) in zip(entries, flat, strict=True):
        assert entry.members == {ext: tuple(place) for ext, place in sample["members"].items()}
        assert entry.digests == (sample["digests"] or "") and entry.digest("json") == (sample["digests"] or "")[:32]
    assert [e.key for e in entries.pick(reversed(range(6)))] == [sample["key"] for _, sample in flat][::-1]
    assert list(entries[1:3]) == [entries[1], entries[2]] and entries[-1] == entries[5] and len(entries.pick([])) == 0
    assert [e.key for e in entries.having(["flac", "wav"])] == ["s0", "s1", "s2", "s4", "s5"] and not entries.having(["wav"])
    assert list(pickle.loads(pickle.dumps(entries))) == list(entries)
    with pytest.raises(IndexError):
        entries[6]


def test_checking_a_shard_at_once_refuses_what_checking_each_sample_does(tmp_path):
    tree = json.loads((data_set(tmp_path, [make_sample(key) for key in "abc"]) / "index.json").read_text())
    rng, refused = np.random.default_rng(0), 0
    for _ in range(3000):
        shard = json.loads(fuzz_cases.index(rng, tree["shards"][0]))
        if not isinstance(samples := shard.get("samples"), list) or type(size := shard.get("bytes")) is not int:
            continue
        wrong = any(index._wrong_sample(sample, size) for sample in samples)
        assert (columns_of(samples, size, {}) is None) == wrong, samples
        refused += wrong
    assert 500 < refused < 2500
    assert columns_of([], 10, {}) is not None
    for key in ("a\nb", "a\n", "\n", "", "x" * 251):
        assert columns_of([{"key": key, "members": {}}, {"key": "b", "members": {}}], 10, {}) is None


def test_an_index_and_an_order_hold_no_object_for_each_sample(tmp_path):
    n = 50_000
    text = json.dumps(synthetic(n)).encode()
    before = sys.getallocatedblocks()
    read = parse_index(text, "index.json", 10**6)
    entries, places = read.table.of_shards(list(range(len(read.shards)))), order.permutation(0, 0, n)
    batches = order.EvalBatches(n, 32)
    assert sys.getallocatedblocks() - before < n / 5  # some for each shard
    assert len(entries) == len(places) == n and entries[int(places[0])].key == f"s{places[0]}" and len(next(iter(batches))) == 32


def test_a_data_set_holds_its_entries_once(tmp_path, tiny):
    from melfusion.data.datamodule import MusicDataModule

    path = data_set(tmp_path, [make_sample(key) for key in "abcd"])
    config = tiny(f"data.path={path}")
    dataset = MusicDataModule(config.data, config.audio).dataset("train", training=True)
    assert dataset.entries.table is dataset.reader.shards.table
    assert dataset.spread(2).entries.table is dataset.entries.table
    assert [e.key for e in dataset.spread(2).entries] == ["a", "c"] and [e.key for e in dataset.only({"b"}).entries] == ["b"]
