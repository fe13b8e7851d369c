"""The registry of sources: each declares all that the rest must know, and one from outside the package works like ours."""

import dataclasses

import pytest
from data_fixtures import data_set, make_sample, one_sentence

from melfusion.assembly.configuration import load_config
from melfusion.assembly.schema import CHOICES
from melfusion.data.datamodule import MusicDataModule
from melfusion.data.source import Corpus, Source
from melfusion.data.sources import SOURCES, build_corpus, ensure_corpus, seconds_to_draw
from melfusion.errors import ConfigError, DataError


class Tones(Source):
    """A data source as someone else would write it: one reader and one line in the registry."""

    name = "tones"
    command = "make data-tones ARGS=data.path={path}"

    def samples(self, config, inputs):
        return (make_sample(f"{split}{i}", split) for split, n in config.data.splits.items() for i in range(n))

    def count(self, config):
        return sum(config.data.splits.values())

    def info(self, config):
        return {"seed": config.data.corpus_seed}

    def check_size(self, key, n, data):
        if n > 200:
            raise ConfigError(f"{key} asks for {n} tones: give at most 200.")

    def differs(self, there, config):
        return "" if there.info["seed"] == config.data.corpus_seed else "tones of another seed"


@pytest.fixture
def tones(tiny, tmp_path, monkeypatch):
    """tones(key=value …) → a configuration of data whose source is registered from here."""
    monkeypatch.setitem(SOURCES, "tones", Tones())
    config = tiny("data.global_batch_size=2")

    def make(**changes):
        given = {"source": "tones", "path": str(tmp_path / "tones"), "splits": {"train": 4, "val": 2}, "draw": True} | changes
        return Corpus(dataclasses.replace(config.data, **given), config.audio)

    return make


def test_the_words_of_data_source_are_the_registry():
    assert CHOICES["data.source"] is SOURCES
    assert all(name == source.name and source.command.startswith("make ") and source.__doc__ for name, source in SOURCES.items())


def test_a_source_from_outside_the_package_is_built_checked_and_read(tones):
    with pytest.raises(DataError, match="build it with `make data-tones ARGS=data.path=.*tones`") as caught:
        ensure_corpus(tones())
    assert one_sentence(caught.value) and "correct data.path" not in str(caught.value)
    assert build_corpus("tones", tones()) == {"train": 4, "val": 2}
    ensure_corpus(tones())
    batch = next(iter(MusicDataModule(tones().data, tones().audio).train_dataloader()))
    assert len(batch.keys) == 2 and batch.keys[0].startswith("train")
    with pytest.raises(DataError, match="holds tones of another seed: give another data.path") as caught:
        ensure_corpus(tones(corpus_seed=1))
    assert one_sentence(caught.value)


def test_a_configuration_names_a_source_from_outside_and_its_size_is_checked(tones, tiny, tmp_path):
    file = tmp_path / "tones.yaml"
    file.write_text("base: tiny\ndata: {source: tones, path: elsewhere, splits: {train: 4, val: 2}}\n")
    config = load_config(str(file), [f"data.path={tmp_path / 'tones'}"])
    assert build_corpus("tones", config) == config.data.splits
    ensure_corpus(config)
    with pytest.raises(ConfigError, match="data.splits asks for 306 tones"):
        load_config(str(file), ["data.splits={train: 300}"])


def test_a_source_that_draws_fills_a_missing_folder(tones, monkeypatch):
    monkeypatch.setattr(Tones, "drawn", True)
    with pytest.raises(DataError, match="correct data.path"):
        ensure_corpus(tones(draw=False))
    ensure_corpus(tones())
    assert MusicDataModule(tones().data, tones().audio).dataset("val").entries[0].key == "val0"


def test_a_set_of_another_source_is_refused(tones, tmp_path):
    data_set(tmp_path / "tones", [make_sample("a")], info={"source": "scenes"})
    for call in (ensure_corpus, lambda config: build_corpus("tones", config), lambda config: build_corpus("games", config)):
        with pytest.raises(DataError) as caught:
            call(tones())
        assert one_sentence(caught.value)


def test_files_of_the_user_are_named_by_no_configuration(tones):
    with pytest.raises(DataError, match="use `make shards MANIFEST=") as caught:
        build_corpus("manifest", tones(source="manifest"))
    assert one_sentence(caught.value)


def test_a_data_set_never_changes(tiny, tmp_path):
    folder = data_set(tmp_path, [make_sample(f"s{i}") for i in range(6)])
    config = tiny(f"data.path={folder}", "data.source=manifest")
    whole = MusicDataModule(config.data, config.audio).dataset("train")
    keys = [entry.key for entry in whole.entries]
    for made, wanted in (
        (whole.first(2), keys[:2]),
        (whole.first(9), keys),
        (whole.spread(3), keys[::2]),
        (whole.pick([4, 1]), [keys[4], keys[1]]),
        (whole.only({keys[5], keys[0]}), [keys[0], keys[5]]),
        (whole.readable(), keys),
    ):
        assert [entry.key for entry in made.entries] == wanted and made is not whole
        assert [entry.key for entry in whole.entries] == keys
        assert made[0]["key"] == wanted[0]


def test_drawing_is_timed_where_a_set_is_missing(tiny, tiny_corpus, tmp_path, monkeypatch):
    def missing(**changes):
        config = tiny("data.draw=true")
        return Corpus(dataclasses.replace(config.data, path=str(tmp_path / "none"), **changes), config.audio)

    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    few, many = (seconds_to_draw(missing(splits={"train": n})) for n in (100, 10_000))
    assert 0 < few < many < 200 * few  # a hundred times as many by two processes, timed twice on a machine that others use
    assert seconds_to_draw(missing(draw=False)) == 0
    assert seconds_to_draw(missing(source="manifest")) == 0
    assert seconds_to_draw(tiny(f"data.path={tiny_corpus}", "data.draw=true")) == 0
