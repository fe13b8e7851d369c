"""What rows are tested on: never what they are measured against, never what was trained on."""

import pytest
from data_fixtures import data_set, make_sample, one_sentence

from melfusion.assembly.configuration import load_config
from melfusion.data.shards import ShardSet
from melfusion.data.sources import build_corpus, ensure_corpus
from melfusion.errors import ConfigError, DataError
from melfusion.evaluation import sets
from melfusion.evaluation.sets import block, linked, own, suite_set, tracks_of


def corpus(folder, splits, track=lambda split, i: f"{split}{i // 2}"):
    samples = [
        make_sample(f"{split}{i:02d}", split, labels={"track": track(split, i), "component": track(split, i)})
        for split, n in splits.items()
        for i in range(n)
    ]
    return data_set(folder, samples)


def keys(dataset):
    return [entry.key for entry in dataset.entries]


def test_the_test_split_is_measured_against_the_val_split(tiny, tmp_path):
    config = tiny(f"data.path={corpus(tmp_path / 'a', {'train': 8, 'val': 6, 'test': 6})}", "data.source=manifest")
    made = own(config, 100)
    assert len(made.items) == len(made.reference) == 6 and made.against == "the val split" and made.of_training
    assert all(key.startswith("test") for key in keys(made.items)) and all(key.startswith("val") for key in keys(made.reference))
    assert tracks_of(made.items) == [f"test{i // 2}" for i in range(6)]
    assert keys(own(config, 3).items) == ["test00", "test02", "test04"]  # evenly


def test_without_a_val_split_one_half_of_test_is_measured_against_the_other(tiny, tmp_path):
    config = tiny(f"data.path={corpus(tmp_path / 'a', {'train': 8, 'test': 7})}", "data.source=manifest")
    made = own(config, 100)
    assert keys(made.items) == ["test00", "test02", "test04", "test06"] and keys(made.reference) == ["test01", "test03", "test05"]
    assert "half" in made.against


def test_the_halves_of_test_are_disjoint_where_some_clips_are_left_out(tiny, tmp_path):
    samples = [
        make_sample(f"{split}{i:02d}", split, b"no sound" if (split, i) == ("test", 2) else None)
        for split, n in (("train", 4), ("test", 12))
        for i in range(n)
    ]
    config = tiny(f"data.path={data_set(tmp_path / 'a', samples)}", "data.source=manifest")
    whole, few = own(config, 100), own(config, 4)
    assert len(whole.items) == 5 and len(whole.reference) == 6 and not set(keys(whole.items)) & set(keys(whole.reference))
    assert len(few.reference) == 4 and not set(keys(few.items)) & set(keys(few.reference))


def test_what_cannot_be_read_is_left_out_and_said_and_nothing_stands_in_for_it(tiny, tmp_path, caplog):
    samples = [
        make_sample(f"{split}{i}", split, b"no sound" if (split, i) == ("test", 2) else None)
        for split in ("train", "val", "test")
        for i in range(6)
    ]
    config = tiny(f"data.path={data_set(tmp_path / 'a', samples)}", "data.source=manifest")
    made = own(config, 100)
    assert keys(made.items) == ["test0", "test1", "test3", "test4", "test5"] and len(made.reference) == 6
    assert "1 of 6 items cannot be read and are not scored" in caplog.text and "test2" in caplog.text
    assert [made.items[i]["key"] for i in range(5)] == keys(made.items)


def test_labels_may_be_null(tiny, tmp_path):
    samples = [make_sample(f"{split}{i}", split, labels=None) for split in ("train", "val", "test") for i in range(3)]
    made = own(tiny(f"data.path={data_set(tmp_path / 'a', samples)}", "data.source=manifest"), 100)
    assert sets.metas_of(made.items)[0]["labels"] == {} and tracks_of(made.items) == keys(made.items)


def test_a_suites_seeds_take_turns_and_use_each_item_once(tiny, tmp_path):
    config = tiny(
        f"data.path={corpus(tmp_path / 'a', {'train': 8, 'val': 6, 'test': 7})}",
        "data.source=manifest",
        "ablation.corpus_test=split",
        "ablation.seeds=[3,5]",
        "ablation.items=100",
    )
    items = suite_set(config).items
    assert block(config, items, 3) == ["test00", "test02", "test04"] and block(config, items, 5) == ["test01", "test03", "test05"]


def test_a_track_in_train_and_test_is_refused(tiny, tmp_path):
    shared = corpus(tmp_path / "a", {"train": 8, "val": 6, "test": 6}, lambda split, i: "same" if i == 1 else f"{split}{i}")
    config = tiny(f"data.path={shared}", "data.source=manifest", "ablation.corpus_test=split")
    with pytest.raises(DataError, match="'same'") as caught:
        suite_set(config)
    assert "component" in one_sentence(caught.value)
    clean = tiny(f"data.path={corpus(tmp_path / 'b', {'train': 8, 'val': 6, 'test': 6})}", "data.source=manifest")
    assert linked(own(clean, 100)) == {"component": 6, "track": 6}


def test_fresh_scenes_are_of_scenes_alone(tiny, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"data.seed=3.*leave it out"):
        sets.fresh(tiny("data.source=games"), 3, 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("melfusion.data.sources.FITTED", 6)
    made = sets.fresh(tiny("data.path=data/small"), 3, 4)
    assert len(made.items) == len(made.reference) == 4 and not set(keys(made.items)) & set(keys(made.reference))
    assert not made.of_training


def test_fresh_scenes_of_a_smaller_sound_are_drawn_anew(tiny, tmp_path, monkeypatch):
    """A folder is kept by its seed; what a tiny configuration drew there is silent behind its second for a longer one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("melfusion.data.sources.FITTED", 6)
    small, longer = tiny(), tiny("audio.clip_duration_s=2.048")
    first = sets.fresh(small, 3, 4).items
    again = sets.fresh(longer, 3, 2).items
    assert len(again) == 2 and again[0]["waveform"][-4000:].any()
    assert keys(sets.fresh(small, 3, 4).items) == keys(first)  # and the longer ones serve the smaller configuration
    assert ShardSet("data/scenes-held-out-seed3").info["clip_duration_s"] == 2.048


def test_a_corpus_does_not_hang_on_the_seed_of_the_training_that_drew_it(tiny, tmp_path):
    where = [f"data.path={tmp_path / name}" for name in ("a", "b", "c")]
    splits, draw = "data.splits={train: 6}", "data.draw=true"
    ensure_corpus(tiny(where[0], splits, "seed=1", draw))
    ensure_corpus(tiny(where[1], splits, "seed=0", draw))
    ensure_corpus(tiny(where[2], splits, "data.corpus_seed=1", draw))
    first, second, other = ([e.key for e in ShardSet(tmp_path / name).entries("train")] for name in ("a", "b", "c"))
    assert first == second != other
    ensure_corpus(tiny(where[0], splits, "seed=5"))
    with pytest.raises(DataError, match="scenes of seed 1, not data.corpus_seed=0") as caught:
        ensure_corpus(tiny(where[2], splits))
    assert one_sentence(caught.value)
    with pytest.raises(DataError, match="holds 6 scenes for train, not 12: "):
        ensure_corpus(tiny(where[0], "data.splits={train: 12}"))
    with pytest.raises(DataError, match="clip_duration_s 1.024, less than 2.048"):
        ensure_corpus(tiny(where[0], splits, "audio.clip_duration_s=2.048"))


def test_a_set_of_another_source_is_not_built_over(tiny, tmp_path):
    mine = corpus(tmp_path / "mine", {"train": 4})
    for config in (tiny(f"data.path={mine}", "data.source=manifest"), tiny(f"data.path={mine}")):
        for name in ("scenes", "games"):
            with pytest.raises(DataError) as caught:
                build_corpus(name, config, tmp_path)
            assert str(mine) in one_sentence(caught.value)
    assert len(ShardSet(mine).entries("train")) == 4


# --- whose folder may be filled, and whose set it is ----------------------------------------------------------------------


def test_only_a_folder_that_a_configuration_file_names_is_drawn_into_unasked(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: tiny\ndata: {path: drawn, splits: {train: 2}}\n")
    assert [
        load_config(str(mine), [*options]).data.draw
        for options in ((), ("data.path=drawn",), ("data.path=typo",), ("data.path=other", "data.draw=true"))
    ] == [True, True, False, True]
    with pytest.raises(DataError, match="no data set in typo: build it with `make data-scenes .*correct data.path") as caught:
        ensure_corpus(load_config(str(mine), ["data.path=typo"]))
    assert one_sentence(caught.value) and [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]
    build_corpus("scenes", load_config(str(mine), ["data.path=typo"]))  # `make data-scenes` always draws
    ensure_corpus(load_config(str(mine)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drawn", "mine.yaml", "typo"]


def test_a_set_of_another_source_is_remarked(tiny, tmp_path, caplog):
    for source, wanted in (("manifest", "scenes"), ("scenes", "games"), ("games", "manifest")):
        folder = data_set(tmp_path / source, [make_sample("a")], info={"source": source})
        words = f"is a data set of {source}, .*data.source={wanted}: add data.source={source}"
        with pytest.raises(DataError, match=words) as caught:
            ensure_corpus(tiny(f"data.path={folder}", f"data.source={wanted}"))
        assert one_sentence(caught.value)
        if source != "scenes":
            ensure_corpus(tiny(f"data.path={folder}", f"data.source={source}"))
    assert not caplog.text
    ensure_corpus(tiny(f"data.path={data_set(tmp_path / 'theirs', [make_sample('a')])}"))
    assert "does not say that its samples are drawn scenes" in caplog.text
