"""A model as a folder and as an object in Python: what it makes stays the same to the bit; licences are told."""

import json
import shutil

import building as build
import numpy as np
import pytest
import soundfile
import torch
from data_fixtures import one_sentence
from safetensors import safe_open

import melfusion
from melfusion.assembly.export import export
from melfusion.assembly.load import load_system
from melfusion.assembly.pipeline import Pipeline
from melfusion.errors import CheckpointError, ConfigError, WeightsError
from melfusion.models.licences import licence_of, strictest


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    from PIL import Image

    file = tmp_path_factory.mktemp("picture") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(file)
    return file


def parts(tmp_path, tiny, *overrides):
    """A tiny system whose music VAE has weights in a folder."""
    build.export_part(build.part(tiny("task=music_vae")), tiny("task=music_vae"), tmp_path / "vae")
    config = tiny(f"music_vae.weights={tmp_path / 'vae'}", "synapse.kind=concat", *overrides)
    system = build.system(config).eval()
    with torch.no_grad():
        for parameter in system.denoiser.parameters():
            parameter += 0.01
    return system, config


def test_what_is_loaded_makes_what_was_exported_to_the_bit(tiny, tmp_path, picture):
    system, config = parts(tmp_path, tiny)
    (tmp_path / "vae" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# of others\n")
    made = Pipeline(system, config)("rain", picture, seed=3, n=2)
    assert made.seeds == [3, 4] and made.audios.shape[0] == 2 and np.isfinite(made.audios).all() and made.log_mels.ndim == 3
    for whole in (False, True):
        folder = tmp_path / f"out-{whole}"
        Pipeline(system, config).save_pretrained(folder, whole=whole)
        again = melfusion.load(str(folder))("rain", picture, seed=[3, 4])
        assert np.array_equal(again.audios, made.audios)
        hub = Pipeline.from_pretrained(folder)(["rain", "rain"], picture, seed=3)
        assert np.array_equal(hub.audios, made.audios)
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert file.metadata()["licence"] == "cc-by-nc-4.0" and len(file.metadata()["configuration"]) == 12
        card = (folder / "README.md").read_text()
        assert "license: cc-by-nc-4.0" in card and "no commercial use" in card and "`concat`" in card
        assert (system.frozen_digests().get("denoiser") or "The backbone is in it.") in card
    shutil.rmtree(tmp_path / "vae")
    moved = shutil.move(tmp_path / "out-True", tmp_path / "elsewhere")
    assert np.array_equal(melfusion.load(str(moved))("rain", picture, seed=3, n=2).audios, made.audios)
    with pytest.raises(WeightsError, match="there is no folder"):
        melfusion.load(str(tmp_path / "out-False"))


def test_a_folder_for_another_model_is_refused(tiny, tmp_path):
    system, config = parts(tmp_path, tiny)
    (tmp_path / "vae" / "README.md").write_text("---\nlicense: mit\n---\n")
    folder = export(system, config, tmp_path / "out")
    tree = json.loads((folder / "system.json").read_text())
    tree["frozen"]["conditioner"] = "0" * 64
    (folder / "system.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="another conditioner") as caught:
        load_system(folder)
    one_sentence(caught.value)


def test_an_unknown_licence_is_refused_unless_it_is_told(tiny, tmp_path):
    system, config = parts(tmp_path, tiny)
    with pytest.raises(WeightsError, match="music_vae.weights=.* is not known") as caught:
        export(system, config, tmp_path / "out")
    one_sentence(caught.value)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    export(system, config, tmp_path / "out", licence="cc-by-4.0")
    assert "license: cc-by-4.0" in (tmp_path / "out" / "README.md").read_text()


def test_the_strictest_licence_holds():
    assert strictest(["mit", "cc-by-nc-sa-4.0", "apache-2.0"]) == "cc-by-nc-sa-4.0"
    assert strictest(["mit", "something-new"]) == "something-new" and strictest([]) == "mit"
    assert licence_of("hub:cvssp/audioldm-s-full-v2@" + "0" * 40 + ":vae", None) == "cc-by-nc-sa-4.0"
    assert licence_of("hub:nobody/nothing@" + "0" * 40, None) == "unknown"


def test_wrong_calls_are_sentences(tiny, tmp_path):
    pipe = Pipeline(build.system(tiny("synapse.kind=none")).eval(), tiny("synapse.kind=none"))
    for call, words in (
        (lambda: pipe("x", image="a.png"), "text alone"),
        (lambda: pipe("x", steps=3), "no option 'steps'"),
        (lambda: pipe(["a", "b"], seed=[1, 2, 3]), "2 prompts and 3 seeds"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            call()
        one_sentence(caught.value)


def test_music_is_saved_as_wavs(tiny, tmp_path):
    pipe = Pipeline(build.system(tiny("synapse.kind=none")).eval(), tiny("synapse.kind=none"))
    files = pipe("rain", n=2, num_inference_steps=1).save(tmp_path / "a.wav")
    assert [file.name for file in files] == ["a-0.wav", "a-1.wav"] and soundfile.info(files[0]).samplerate == 8000


def test_what_is_neither_a_folder_nor_on_the_hub_is_one_sentence(monkeypatch):
    def offline(*args, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", offline)
    for name in ("missing-folder", "someone/some-model"):
        with pytest.raises(CheckpointError, match=f"{name} is no folder here, and could not be had from the hub") as caught:
            melfusion.load(name)
        one_sentence(caught.value)
