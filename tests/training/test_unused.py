"""Precomputed sets that nothing refers to are listed and removed; those that are referred to, or in use, stay."""

import dataclasses
import json

import building as build
import pytest
import yaml
from data_fixtures import data_set, make_sample, one_sentence

from melfusion.assembly.configuration import load_config, override
from melfusion.assembly.schema import to_dict
from melfusion.data.datamodule import MusicDataModule
from melfusion.errors import ConfigError, DamagedFile
from melfusion.files import locked
from melfusion.training import unused as pruning
from melfusion.training.precompute import of_config, provenance
from melfusion.training.precompute import precompute as precompute_set
from melfusion.training.unused import remove, unused
from melfusion.verbs import precompute


@pytest.fixture
def config(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the data of the checkout's own runs are not for tests to remove
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.yaml").write_text("name: base")
    monkeypatch.setattr(pruning, "config_path", lambda name: tmp_path / "configs" / f"{name}.yaml")
    monkeypatch.setattr(pruning, "load_config", lambda name: tiny())
    return tiny(f"data.path={data_set(tmp_path / 'set', [make_sample()])}", f"runs_dir={tmp_path / 'runs'}")


def made_from(config, **more):
    return of_config(config) | more


def stored(tmp_path, digest, provenance, samples=1):
    made = [make_sample(f"s{i}") for i in range(samples)]
    return data_set(tmp_path / "set-precomputed" / (digest * 12), made, info={"provenance": provenance})


def paths(found):
    return [one.path for one in found]


def test_what_nothing_refers_to_is_listed_by_size_and_removed_only_when_told(config, tmp_path, monkeypatch, capsys):
    used = stored(tmp_path, "a", made_from(config, music_vae="1"))
    small, large = (
        stored(tmp_path, "b", made_from(config, dtype="float64")),
        stored(tmp_path, "c", made_from(config, max_length=7), 9),
    )
    for data in ("set", "gone"):
        (tmp_path / f"{data}-predictions").mkdir()
        (tmp_path / f"{data}-predictions" / "1.pt").write_bytes(b"12345")
    (tmp_path / "set-precomputed" / "mine").mkdir()
    found = unused(config)
    assert paths(found) == [large, small, tmp_path / "gone-predictions"]
    assert found[-1].size == 5 and found[0].size == sum(p.stat().st_size for p in large.iterdir())
    precompute.prune(config, False)
    assert large.is_dir() and f"MB  {large}" in (out := capsys.readouterr().out) and "Nothing was removed" in out
    precompute.prune(config, True)
    assert not any(path.exists() for path in paths(found)) and f"removed: {large}" in capsys.readouterr().out
    assert used.is_dir() and (tmp_path / "set-predictions/1.pt").is_file() and (tmp_path / "set-precomputed/mine").is_dir()
    assert unused(config) == []


def test_what_precompute_stores_is_of_use_until_a_key_of_the_configuration_changes(config):
    made = precompute_set(config, build.system(config))
    assert unused(config) == []
    for key in ("data.image_size_px=24", "data.precompute.dtype=float16", "audio.loudness_dbfs=-18", "text_encoder.max_length=9"):
        assert paths(unused(override(config, [key]))) == [made], key
    assert paths(unused(override(config, ["data.precompute.crops=2"]))) == [made]
    assert paths(unused(override(config, ["text_encoder.max_words=3"]))) == [made]


@pytest.mark.parametrize("name", ["stable_audio_open", "stable_audio_3", "ace_step", "audioldm2"])
def test_sets_of_every_kind_of_conditioner_are_of_use_to_their_own_configuration_alone(name, config, tmp_path):
    other = load_config(f"{name},tiny", [f"data.path={config.data.path}", f"runs_dir={tmp_path / 'runs'}"])
    path = stored(tmp_path, "a", json.loads(json.dumps(provenance(other, build.system(other)))))
    assert unused(other) == [] and paths(unused(config)) == [path]
    assert paths(unused(override(other, ["conditioner.max_length=20"]))) == [path]


def test_a_set_of_a_run_or_of_a_named_folder_is_kept(config, tiny, tmp_path):
    other = tiny(f"data.path={config.data.path}", "data.precompute.dtype=float16")
    of_run = stored(tmp_path, "d", made_from(other))
    assert paths(unused(config)) == [of_run]
    (tmp_path / "runs" / "old").mkdir(parents=True)
    (tmp_path / "runs" / "old" / "config.yaml").write_text(yaml.safe_dump(to_dict(other)))
    assert unused(config) == []
    named = stored(tmp_path, "e", {})
    assert paths(unused(config)) == [named]
    config.data.precompute.path = str(named)
    assert unused(config) == []
    (tmp_path / "runs" / "old" / "config.yaml").write_text("{")
    with pytest.raises(DamagedFile):
        unused(config)


def test_a_set_in_use_is_kept_until_it_is_left(config, tmp_path):
    provenance = {"dtype": "other"}
    read, built = stored(tmp_path, "f", provenance), stored(tmp_path, "0", provenance)
    module = MusicDataModule(dataclasses.replace(config.data, path=str(read)), config.audio, provenance=provenance)
    module.setup()
    with locked(built / ".lock"):
        assert remove(unused(config)) == [] and (read / "index.json").is_file() and (built / "index.json").is_file()
    assert paths(remove(unused(config))) == [built] and read.is_dir()
    module.held.close()
    assert paths(remove(unused(config))) == [read] and not read.exists()


def test_a_word_that_prune_does_not_know_is_refused():
    with pytest.raises(ConfigError, match="prune='yes'") as caught:
        precompute.run(precompute.Options("tiny", "yes"), [])
    assert one_sentence(caught.value)
