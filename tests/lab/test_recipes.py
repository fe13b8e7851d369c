"""What is shipped: every part loads, fits the size, and says in its card where it comes from."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import building as build
import pytest
import soundfile
import torch
from data_fixtures import one_sentence
from safetensors.torch import load_file

from melfusion.__main__ import main
from melfusion.assembly.configuration import load_config
from melfusion.assembly.load import export_system, load_system
from melfusion.errors import CheckpointError
from melfusion.lab import recipes as release
from melfusion.verbs.generate import Options, run


def test_shipped_parts_fit_and_each_has_its_card():
    assert release.check_size() <= release.MAX_BYTES
    for part in release.RECIPES:
        card = (release.folder(part) / "README.md").read_text()
        assert "make train CONFIG=" in card and "Device:" in card and "GPL-2" in card
        tensors = [t for f in release.folder(part).rglob("*.safetensors") for t in load_file(f).values()]
        assert tensors and all(t.dtype == torch.float16 for t in tensors if t.is_floating_point())
        assert all(torch.isfinite(t).all() for t in tensors)


def test_the_floors_hold_what_the_project_promises():
    floors = json.loads((release.WEIGHTS / "floors.json").read_text())
    (ours, half), (theirs, other) = floors["vocos_spectral_distance"], floors["griffin_lim_spectral_distance"]
    assert ours + half < theirs - other
    for judge in release.JUDGES:
        for sound in ("real", "VAE + vocoder"):
            right = {name: s["accuracy"] for name, s in floors[judge][sound].items()}
            assert right["place"] >= 0.99 and min(right["time"], right["weather"]) >= 0.97, (judge, sound)


def test_the_two_shipped_judges_are_of_different_kinds_and_seeds():
    made = {name: build.judge(load_config("scenes", [f"judge.weights={w}"])) for name, w in release.JUDGES.items()}
    assert [type(judge.network).__name__ for judge in made.values()] == ["JudgeNetwork", "RecurrentNetwork"]
    assert made["judge"].attributes == made["judge_test"].attributes
    assert release.recipe_config("judge").seed != release.recipe_config("judge_test").seed


def test_floors_are_written_for_both_judges(tmp_path, monkeypatch):
    first, second = ({"real": {"place": {"accuracy": share, "low": 0.25, "high": 0.75}}} for share in (0.5, 0.625))
    found = {"n": 4, "judge": first, "judge_test": second}
    found |= {"vae_log_mel_l1_nats": (0.2, 0.1), "decoder_log_mel_l1_nats": (0.125, 0.1)}
    sounds = {
        f"{name}_{what}": (1.0, 0.5)
        for name in ("vocos", "griffin_lim", "both")
        for what in ("spectral_distance", "log_mel_l1_nats")
    }
    monkeypatch.setattr(release, "floors", lambda: found | sounds)
    monkeypatch.setattr(release, "WEIGHTS", tmp_path)
    release.write_floors()
    page = (tmp_path / "README.md").read_text()
    assert "| judge | real | 0.500 (0.250-0.750) |" in page and "| judge_test | real | 0.625 (0.250-0.750) |" in page
    assert "0.200 ± 0.100 nats; before its texture, 0.125 ± 0.100" in page
    assert json.loads((tmp_path / "floors.json").read_text())["judge_test"] == second


def test_a_verdict_compares_the_predicted_class_with_the_label():
    judge = SimpleNamespace(predict=lambda waveform: [{"place": "sea", "time": "dawn"}, {"place": "city", "time": "noon"}])
    labels = [{"place": "sea", "time": "noon", "mode": "major"}, {"place": "city", "time": "noon"}]
    assert release.verdicts(judge, None, labels) == [{"place": True, "time": False}, {"place": True, "time": True}]


def test_the_default_configuration_is_the_shipped_model():
    system, config = load_system()
    assert config.synapse.kind != "none" and config.music_vae.weights == "shipped"
    trained = load_file(release.WEIGHTS / "melfusion" / "model.safetensors")
    stored = system.state_dict()
    assert trained and all(torch.equal(stored[name.replace("unet.", "denoiser.", 1)], t.float()) for name, t in trained.items())
    assert all("up_blocks" in name or "synapse" in name for name in trained)


def test_recipes_train_on_the_corpus_their_cards_name():
    for part in release.RECIPES:
        config = release.recipe_config(part)
        assert config.name == release.run_name(part) and config.data.source == "scenes"
        default = part == "image"  # it learns from the default's corpus
        assert config.data.path == load_config("scenes" if default else "release", []).data.path


def test_an_exported_system_comes_back_and_refuses_other_parts(tiny, tmp_path):
    config = tiny("denoiser.trainable=cross_attn", "synapse.kind=concat")
    system = build.system(config)
    with torch.no_grad():
        for p in system.denoiser.parameters():
            if p.requires_grad:
                p.add_(0.5)
    export_system(system, config, tmp_path)
    again, _ = load_system(tmp_path)
    for name, p in system.denoiser.named_parameters():
        assert torch.equal(p, again.denoiser.get_parameter(name))
    tree = json.loads((tmp_path / "system.json").read_text())
    tree["frozen"]["codec"] = "0" * 64
    (tmp_path / "system.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="another codec"):
        load_system(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_system(tmp_path)


def test_too_much_weight_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(release, "WEIGHTS", tmp_path)
    (tmp_path / "big.safetensors").write_bytes(b"0" * 1000)
    assert release.check_size() == 1000
    monkeypatch.setattr(release, "MAX_BYTES", 999)
    with pytest.raises(release.ReleaseError, match="more than"):
        release.check_size()
    monkeypatch.setattr(release, "RECIPES", {})
    monkeypatch.setattr(release, "write_floors", lambda: None)
    assert main(["release-scenes"]) == 2  # a sentence, not a traceback
    assert one_sentence(capsys.readouterr().err.strip())


@pytest.mark.slow  # it trains every shipped part, a process each
def test_release_scenes_makes_every_part_from_an_empty_folder(tmp_path):
    """The command itself in a copy without weights, its recipes cut to two steps on some clips."""
    root = Path(__file__).parents[2]
    shutil.copytree(root / "src", tmp_path / "src", symlinks=True, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    (tmp_path / "configs").mkdir()
    for file in (root / "configs").glob("*.yaml"):
        words = re.sub(r"max_steps: \d+", "max_steps: 2", file.read_text())
        words = re.sub(r"splits: {[^}]*}", "splits: {train: 64, val: 36, test: 36}", words)
        (tmp_path / "configs" / file.name).write_text(words)
    call = [sys.executable, "-m", "melfusion", "release-scenes"]
    env = os.environ | {"PYTHONPATH": str(tmp_path / "src"), "CONFIG": ""}
    done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    made = tmp_path / "src" / "melfusion" / "weights"
    assert {f.name for f in made.iterdir()} == {f.name for f in release.WEIGHTS.iterdir()}
    for part in release.RECIPES:
        folder = made / release.folder(part).name
        assert "- Training: 2 optimizer steps" in (folder / "README.md").read_text() and any(folder.rglob("*.safetensors"))


def test_without_a_checkpoint_the_shipped_model_plays(tmp_path, capsys):
    picture = Path(__file__).parents[2] / "data/examples/sea-night-clear.png"
    options = Options(str(picture), "a tune in A minor", num_inference_steps=2)
    files = [file for name in "ab" for file in run(replace(options, out=str(tmp_path / f"{name}.wav")), [])]
    first, second = (soundfile.read(file)[0] for file in files)
    assert "the shipped model" in capsys.readouterr().out
    assert len(first) == round(5.12 * 16000) and 0.001 < abs(first).max() <= 1 and (first == second).all()
