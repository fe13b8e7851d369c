"""Precomputing in several processes gives the tensors of one."""

import subprocess
from pathlib import Path

import building as build
import torch
from forking import python
from safetensors.torch import load

from melfusion.data.shards import CACHE_EXT, ShardSet
from melfusion.training.precompute import precompute


def stored(path):
    """split and key → tensors, and the provenance of the set."""
    found = ShardSet(path)
    entries = [(split, entry) for split in found.counts() for entry in found.entries(split)]
    return {(split, e.key): load(bytes(found.read(e, CACHE_EXT))) for split, e in entries}, found.info


def test_two_processes_store_what_one_stores(tiny, tiny_corpus, tmp_path):
    given = (f"data.path={tiny_corpus}", "data.precompute.batch_size=3", "data.samples_per_shard=4", "image.reading=fixed")
    config = tiny(*given, f"data.precompute.path={tmp_path}/one")
    precompute(config, build.system(config))
    command = ["precompute", "tiny", *given, f"data.precompute.path={tmp_path}/two", "trainer.devices=2"]
    done = subprocess.run([python(), "-m", "melfusion", *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (one, made), (two, made_by_two) = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert made == made_by_two and one.keys() == two.keys()
    for key, tensors in one.items():
        assert tensors.keys() == two[key].keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(two[key][name], tensor, rtol=1e-4, atol=1e-5)
    shards = {e.shard for e in ShardSet(tmp_path / "two").entries("train")}
    assert {int(Path(name).stem.rpartition("-")[2]) % 2 for name in shards} == {0, 1}  # both took part
