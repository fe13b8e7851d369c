"""Precomputing in several processes gives the tensors of one."""

import dataclasses
import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import building as build
import numpy as np
import pytest
import torch
from data_fixtures import data_set, encoded, make_sample, noise_picture
from forking import python
from safetensors.torch import load

from melfusion.batch import MusicBatch
from melfusion.data import shards
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.shards import CACHE_EXT, ShardSet, crop_ext, picture_ext, pictured_ext
from melfusion.data.sources import ensure_corpus
from melfusion.training import fit
from melfusion.training import precompute as module
from melfusion.training.plan import plan
from melfusion.training.precompute import precompute
from melfusion.training.stored_samples import with_pictures


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


def test_a_start_parses_each_index_once(tiny, tmp_path, monkeypatch):
    """What comes before the first step asks for the data set again and again."""
    source = data_set(tmp_path / "set", [make_sample(f"{split}{i}", split=split) for split in ("train", "val") for i in range(4)])
    config = tiny(f"data.path={source}", "data.precompute.enabled=true", "data.crop=start", "image.reading=fixed")
    system = build.system(config)
    out = precompute(config, system)
    for folder in (source, out):
        os.utime(folder / "index.json", (time.time() - 60,) * 2)
    parsed, real = Counter(), shards.parse_index
    monkeypatch.setattr(shards, "parse_index", lambda text, where, n: [parsed.update([where]), real(text, where, n)][1])
    ensure_corpus(config)
    plan(config, system, fit.plain_data(config, build.noise_shapes(config, system)))
    data = fit.training_data(config, system, fit.StageClock())
    data.setup()
    assert parsed == {f"{source}/index.json": 1, f"{out}/index.json": 1}


class Killed(BaseException):
    pass


def test_a_build_that_died_goes_on_after_its_last_whole_shard(tiny, tiny_corpus, tmp_path, monkeypatch):
    given = (f"data.path={tiny_corpus}", "data.precompute.batch_size=3", "data.samples_per_shard=2")
    once, config = tiny(*given, f"data.precompute.path={tmp_path}/once"), tiny(*given, f"data.precompute.path={tmp_path}/twice")
    system = build.system(config)
    precompute(once, system)
    computed, compute_all = [], module.computed_samples

    def dying(*args):
        for number, sample in enumerate(compute_all(*args)):
            if number == 7:
                raise Killed
            yield sample

    def counted(*args):
        for sample in compute_all(*args):
            computed.append(sample.key)
            yield sample

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "computed_samples", dying)
        precompute(config, system)
    left = [path.name for path in (tmp_path / "twice/.building").glob("*.tar")]
    assert left and not (tmp_path / "twice/index.json").exists()
    monkeypatch.setattr(module, "computed_samples", counted)
    precompute(config, system)
    (one, _), (two, _) = stored(tmp_path / "once"), stored(tmp_path / "twice")
    assert one.keys() == two.keys() and len(computed) == len(one) - 2 * len(left)
    assert all(torch.equal(tensor, two[key][name]) for key, tensors in one.items() for name, tensor in tensors.items())
    assert sorted(p.name for p in (tmp_path / "once").iterdir()) == sorted(p.name for p in (tmp_path / "twice").iterdir())


def test_what_is_left_of_other_parts_is_not_gone_on_with(tiny, tiny_corpus, tmp_path):
    config = tiny(f"data.path={tiny_corpus}", f"data.precompute.path={tmp_path}/out", "data.samples_per_shard=2")
    (tmp_path / "out/.building").mkdir(parents=True)
    (tmp_path / "out/.building/made_from").write_text("another digest 2 1")
    (tmp_path / "out/.building/train-000009.tar").write_bytes(b"")
    precompute(config, build.system(config))
    assert not (tmp_path / "out/train-000009.tar").exists() and ShardSet(tmp_path / "out").counts()["train"] > 2


def test_several_crops_are_stored_and_drawn(tiny, tmp_path):
    folder = data_set(
        tmp_path / "set", [make_sample(f"{split}{i}", split, seconds=4.0) for split in ("train", "val") for i in (0, 1)]
    )
    crops = ("data.precompute.crops=3", "data.crop=random", "data.precompute.enabled=true", f"data.precompute.path={tmp_path}/out")
    config = tiny(f"data.path={folder}", "data.source=manifest", *crops)
    system = build.system(config).eval()
    path = precompute(config, system)
    found = ShardSet(path)
    (entry, *_) = found.entries("train")
    members = [load(bytes(found.read(entry, ext)))["latent_moments"] for ext in (CACHE_EXT, crop_ext(1), crop_ext(2))]
    assert crop_ext(3) not in entry.members
    raw = MusicDataModule(config.data, config.audio).dataset("train")
    for k, moments in enumerate(members):
        clip = torch.from_numpy(raw.reader(raw.entries[0], k / 3)["waveform"])[None]
        torch.testing.assert_close(system.codec.encode_moments(clip)[0], moments, rtol=1e-4, atol=1e-5)
    config.data.path = str(path)
    data = MusicDataModule(config.data, config.audio, provenance=found.info["provenance"])
    training, validation = data.dataset("train", training=True), data.dataset("val")
    seen = [[int(np.argmin([(m - training[p]["cached"]["latent_moments"]).abs().max() for m in members])) for p in range(60)]]
    one = [k for p, k in enumerate(seen[0]) if training[p]["key"] == entry.key]
    assert {one.count(k) > 2 for k in range(3)} == {True}
    assert validation[0]["cached"]["latent_moments"].equal(validation[2]["cached"]["latent_moments"])


def test_a_picture_that_clips_share_is_encoded_once(tiny, monkeypatch):
    config = tiny()
    system = build.system(config).eval()
    seen, encode = [], type(system.image_encoder).encode
    monkeypatch.setattr(type(system.image_encoder), "encode", lambda self, image: seen.append(len(image)) or encode(self, image))
    pictures = torch.tanh(torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    kept = {}
    for rows, new in (([0, 0, 1, 0], 2), ([1, 1], 0), ([2, 0], 1)):
        seen.clear()
        batch = MusicBatch(
            ["k"] * len(rows), ["c"] * len(rows), torch.arange(len(rows)), torch.ones(len(rows)), image=pictures[rows]
        )
        made = with_pictures(system.image_encoder, batch, kept)
        assert sum(seen) == new
        torch.testing.assert_close(made.image_latents, encode(system.image_encoder, pictures[rows]))
    monkeypatch.setattr("melfusion.training.stored_samples.LOOKED_AT", 1)
    with_pictures(system.image_encoder, batch, kept)
    assert len(kept) == 1


def test_what_is_read_from_each_picture_is_stored_and_drawn(tiny, tmp_path):
    pictures = [encoded(noise_picture(seed)) for seed in range(3)]
    more = {picture_ext(k, "png"): pictures[k] for k in (1, 2)}
    samples = [make_sample(f"{split}{i}", split, image=pictures[0]) for split in ("train", "val") for i in (0, 1)]
    samples[0] = dataclasses.replace(samples[0], extra=more)
    samples[2] = dataclasses.replace(samples[2], extra=more)
    samples[1] = dataclasses.replace(samples[1], extra={picture_ext(1, "png"): b"damaged"})
    folder = data_set(tmp_path / "set", samples)
    config = tiny(f"data.path={folder}", "data.source=manifest", f"data.precompute.path={tmp_path}/out")
    system = build.system(config).eval()
    found = ShardSet(precompute(config, system))
    (entry, other), (held, _) = found.entries("train"), found.entries("val")
    assert pictured_ext(1) not in other.members and pictured_ext(3) not in entry.members
    [name] = [n for n in load(bytes(found.read(entry, pictured_ext(1)))) if n == "image_latents" or n.startswith("key.")][:1]
    members = [load(bytes(found.read(entry, ext)))[name] for ext in (CACHE_EXT, pictured_ext(1), pictured_ext(2))]
    for k, one in enumerate(pictures):  # as a set of that picture alone has it
        alone = data_set(tmp_path / f"set{k}", [make_sample("train0", "train", image=one)])
        config.data.path, config.data.precompute.path = str(alone), f"{tmp_path}/out{k}"
        stored = ShardSet(precompute(config, system))
        alike = load(bytes(stored.read(stored.entries("train")[0], CACHE_EXT)))[name]
        torch.testing.assert_close(members[k], alike, rtol=1e-4, atol=1e-5)
    config.data.path = str(tmp_path / "out")
    data = MusicDataModule(config.data, config.audio, provenance=found.info["provenance"])
    training, validation = data.dataset("train", training=True), data.dataset("val")
    items = [training[p] for p in range(60)]
    seen = [min(range(3), key=lambda k: (members[k] - i["cached"][name]).abs().max()) for i in items if i["key"] == entry.key]
    assert len(seen) == 30 and {seen.count(k) > 4 for k in range(3)} == {True}
    moments = {i["cached"]["latent_moments"].numpy().tobytes() for i in items if i["key"] == entry.key}
    assert len(moments) == 1 and validation[0]["cached"][name].equal(load(bytes(found.read(held, CACHE_EXT)))[name])
