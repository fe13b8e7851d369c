"""Sequential streaming: any tar URL, one reader per shard, bad samples skipped with their reason."""

import dataclasses
import itertools
import logging
from types import SimpleNamespace

import building as build
import pytest
import torch
from data_fixtures import data_set, encoded, make_sample, noise_picture, one_sentence

from melfusion import randomness
from melfusion.data import stream as stream_module
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.reading import digest_of
from melfusion.data.shards import picture_ext
from melfusion.data.stream import StreamingDataset, open_url
from melfusion.errors import DataError
from melfusion.training.precompute import ensure_precomputed

SHAPES = {"noise": (4, 16, 4)}


@pytest.fixture
def shards(tmp_path):
    """Six shards of two samples each: 00 01 | 10 11 | …; the samples with an odd number have a picture."""
    picture = encoded(noise_picture())
    samples = [make_sample(f"{i}{j}", image=picture if j else None) for i in range(6) for j in range(2)]
    return data_set(tmp_path, samples, per_shard=2)


@pytest.fixture
def stream(tiny):
    """stream(urls, rank, world, made_with, overrides…) → StreamingDataset."""

    def make(urls, *overrides, rank=0, world=1, made_with=None):
        config = tiny(*overrides)
        config.data.stream = [str(url) for url in urls]
        return StreamingDataset(config.data, config.audio, config.seed, SHAPES, rank, world, made_with)

    return make


def keys(dataset, n):
    return [item["key"] for item in itertools.islice(iter(dataset), n)]


def error_of(dataset, n=1):
    with pytest.raises(DataError) as caught:
        keys(dataset, n)
    return one_sentence(caught.value)


def test_local_files_and_braces_and_pipes_give_the_same(shards, stream):
    wanted = [f"{i}{j}" for i in (0, 1, 2) for j in (0, 1)]
    files = [shards / f"train-00000{i}.tar" for i in (0, 1, 2)]
    assert keys(stream(files), 6) == wanted
    assert keys(stream([shards / "train-{000000..000002}.tar"]), 6) == wanted
    assert keys(stream([f"pipe:cat {shards}/train-{{000000..000002}}.tar"]), 6) == wanted
    assert keys(stream([f"file://{file}" for file in files]), 6) == wanted


def test_the_stream_has_no_end(shards, stream):
    assert keys(stream([shards / "train-000000.tar"]), 5) == ["00", "01", "00", "01", "00"]


def test_an_item_is_what_an_indexed_data_set_gives(shards, stream, tiny):
    config = tiny(f"data.path={shards}", "data.crop=start")
    indexed = MusicDataModule(config.data, config.audio, config.seed, 1, SHAPES).dataset("train")
    streamed = list(itertools.islice(stream([shards / "train-{000000..000005}.tar"], "data.crop=start"), 12))
    for position, item in enumerate(streamed):
        other = indexed[position]
        assert item["key"] == other["key"] and item["caption"] == other["caption"] and item["position"] == position
        assert (item["waveform"] == other["waveform"]).all() and (item["image"] == other["image"]).all()
        assert item["has_image"] == other["has_image"] == position % 2
        assert (item["draws"]["noise"] == other["draws"]["noise"]).all()


def test_precomputed_tensors_are_streamed_only_to_whom_they_were_made_for(tmp_path, shards, stream, tiny):
    config = tiny(f"data.path={shards}", f"data.precompute.path={tmp_path}/stored", "data.crop=start")
    system = build.system(config)
    stored, wanted = ensure_precomputed(config, system)
    tars = sorted(stored.glob("*.tar"))
    item = next(iter(stream(tars, made_with=digest_of(wanted))))
    assert item["key"] == "00" and "latent_moments" in item["cached"]
    assert digest_of(wanted | {"source": "more of the same"}) == digest_of(wanted)
    assert "takes audio" in error_of(stream(tars))
    assert "precomputed with" in error_of(stream(tars, made_with=digest_of(wanted | {"music_vae": "another"})))
    module = MusicDataModule(config.data, config.audio, config.seed, 1, SHAPES, wanted)
    module.data.stream = [str(tar) for tar in tars]
    assert next(iter(module.train_dataloader())).latent_moments is not None
    module.provenance = None
    with pytest.raises(DataError, match="takes audio"):
        next(iter(module.train_dataloader()))


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (3, 0), (2, 2)])
def test_readers_share_the_shards_without_overlap(world, workers, shards, stream, monkeypatch):
    seen, positions = [], []
    for rank, number in itertools.product(range(world), range(max(workers, 1))):
        info = SimpleNamespace(num_workers=workers, id=number) if workers else None
        monkeypatch.setattr(stream_module, "get_worker_info", lambda info=info: info)
        first_round = {}
        for item in stream([shards / "train-{000000..000005}.tar"], rank=rank, world=world):
            if item["key"] in first_round:
                break
            first_round[item["key"]] = item["position"]
        seen += first_round
        positions += first_round.values()
    assert sorted(seen) == sorted(f"{i}{j}" for i in range(6) for j in range(2))
    assert len(set(positions)) == 12


def test_pictures_and_crops_are_drawn_as_by_an_indexed_set(tmp_path, stream, tiny):
    pictures = [encoded(noise_picture(seed)) for seed in range(3)]
    more = {picture_ext(k, "png"): pictures[k] for k in (1, 2)}
    one = dataclasses.replace(make_sample("one", image=pictures[0], seconds=4.0), extra=more)
    path = data_set(tmp_path / "set", [one])
    stored = ("data.precompute.crops=2", "data.crop=random")
    config = tiny(f"data.path={path}", "data.source=manifest", *stored)
    folder, wanted = ensure_precomputed(config, build.system(config))
    for where, made_with, provenance in ((path, None, None), (folder, digest_of(wanted), wanted)):
        config.data.path = str(where)
        indexed = MusicDataModule(config.data, config.audio, config.seed, provenance=provenance).dataset("train", training=True)
        streamed = list(itertools.islice(iter(stream([where / "train-000000.tar"], *stored, made_with=made_with)), 12))
        seen = {tensors_of(item) for item in streamed}
        assert [tensors_of(item) for item in streamed] == [tensors_of(indexed[p]) for p in range(12)] and len(seen) > 3
        assert not any(item["replaced"] for item in streamed)


def tensors_of(item):
    tensors = item.get("cached") or {name: torch.as_tensor(item[name]) for name in ("image", "waveform")}
    return tuple(tensors[name].numpy().tobytes() for name in sorted(tensors))


def test_real_workers_give_batches_of_each_shard_once(shards, tiny, caplog):
    config = tiny("data.num_workers=2", "data.global_batch_size=2", f"data.stream=['{shards}/train-{{000000..000003}}.tar']")
    module = MusicDataModule(config.data, config.audio, config.seed, 1, SHAPES)
    with caplog.at_level(logging.WARNING):
        batches = [batch for batch, _ in zip(module.train_dataloader(), range(4), strict=False)]
    assert sorted(key for batch in batches for key in batch.keys) == [f"{i}{j}" for i in range(4) for j in range(2)]
    assert batches[0].waveform.shape == (2, 8192) and batches[0].image.shape == (2, 3, 16, 16)
    assert batches[0].draws["noise"].shape == (2, 4, 16, 4)
    assert "approximate" in caplog.text  # resume is, and it says so


def test_draws_belong_to_the_position(shards, stream):
    items = list(itertools.islice(stream([shards / "train-000000.tar"]), 4))
    for item in items:
        wanted = randomness.draws(0, item["position"], SHAPES)
        assert (item["draws"]["noise"] == wanted["noise"]).all() and item["draws"]["timestep"] == wanted["timestep"]
    assert items[0]["key"] == items[2]["key"] and (items[0]["draws"]["noise"] != items[2]["draws"]["noise"]).any()


def test_too_few_shards_for_the_readers_is_a_sentence(shards, stream):
    message = error_of(stream([shards / "train-000000.tar"], rank=0, world=2))
    assert "1 shards for 2 readers" in message and "data.num_workers" in message


def test_bad_samples_are_skipped_with_their_reason(tmp_path, stream, tiny):
    samples = [make_sample("a", audio=b"junk"), make_sample("b", audio=b""), make_sample("c")]
    samples += [make_sample("d", image=b""), make_sample("e")]
    samples[4].extra["json"] = b"{"
    urls = [data_set(tmp_path, [*samples, make_sample("f")], per_shard=9) / "train-000000.tar"]
    items = list(itertools.islice(stream(urls), 3))
    assert [item["key"] for item in items] == ["c", "f", "c"] and [item["position"] for item in items] == [0, 1, 2]
    assert [item["replaced"] for item in items] == [
        [("train-000000.tar:a", "unreadable audio"), ("train-000000.tar:b", "no audio")],
        [("train-000000.tar:d", "empty image"), ("train-000000.tar:e", "unreadable json")],
        [("train-000000.tar:a", "unreadable audio"), ("train-000000.tar:b", "no audio")],
    ]
    config = tiny("data.global_batch_size=2")
    config.data.stream = [str(urls[0])]
    module = MusicDataModule(config.data, config.audio)
    module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)
    assert module.replaced == {"unreadable audio": 1, "no audio": 1, "empty image": 1, "unreadable json": 1}


def test_a_stream_without_a_usable_sample_stops(tmp_path, stream):
    folder = data_set(tmp_path, [make_sample("a", audio=b"junk")])
    message = error_of(stream([folder / "train-000000.tar"]))
    assert "train-000000.tar" in message and "no usable sample" in message


def test_an_address_that_cannot_be_opened_is_named(tmp_path, stream, monkeypatch):
    missing = tmp_path / "none.tar"
    assert str(missing) in error_of(stream([missing]))

    def refuse(url, *args, **kwargs):
        raise OSError("unreachable")

    monkeypatch.setattr(stream_module, "ask", refuse)
    message = error_of(stream(["https://example.org/a.tar"]))
    assert "https://example.org/a.tar" in message and "unreachable" in message


@pytest.mark.parametrize("command", ["cat /nowhere/none.tar", "head -c 5000 {}", "cat {}; exit 3"])
def test_a_pipe_that_fails_is_a_sentence(command, shards, stream):
    url = "pipe:" + command.format(shards / "train-000000.tar")
    assert url in error_of(stream([url]), n=4)


@pytest.mark.parametrize("data", [b"", b"no tar" * 1000])
def test_what_is_no_tar_is_named(data, tmp_path, stream):
    (tmp_path / "a.tar").write_bytes(data)
    assert str(tmp_path / "a.tar") in error_of(stream([tmp_path / "a.tar"]))


def test_validation_while_streaming_reads_the_indexed_set(shards, tiny, tmp_path):
    config = tiny(f"data.path={data_set(tmp_path / 'val', [make_sample('v', 'val')])}")
    config.data.stream = [str(shards / "train-000000.tar")]
    assert next(iter(MusicDataModule(config.data, config.audio).val_dataloader())).keys == ["v"]


def test_validation_while_streaming_without_an_indexed_set_is_a_sentence(shards, tiny, tmp_path):
    config = tiny(f"data.path={tmp_path / 'none'}")
    config.data.stream = [str(shards / "train-000000.tar")]
    with pytest.raises(DataError) as caught:
        MusicDataModule(config.data, config.audio).val_dataloader()
    assert str(tmp_path / "none") in one_sentence(caught.value)


def test_nothing_is_executed_for_data_that_names_a_pipe(tmp_path):
    trap = tmp_path / "sprung"
    with pytest.raises(DataError), open_url(f"touch {trap}"):
        pass
    assert not trap.exists()
