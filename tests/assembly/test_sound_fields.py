"""A timbre from a sound: read by the model that takes one, written into what it made, and refused in one sentence."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from data_fixtures import one_sentence

from melfusion.__main__ import main
from melfusion.assembly.batches import planned
from melfusion.assembly.configuration import load_config
from melfusion.assembly.export import export
from melfusion.assembly.influence import picture_influence
from melfusion.assembly.pipeline import Pipeline
from melfusion.assembly.provenance import read
from melfusion.assembly.requests import ListItem
from melfusion.assembly.system import system
from melfusion.errors import ConfigError

FEW = {"num_inference_steps": 1, "seed": 1}


def config_of(name):
    return load_config(f"{name},tiny", ["codec.chunk_s=4", "conditioner.seconds_of_timbre=3"] if name == "ace_step" else [])


def pipeline(name):
    config = config_of(name)
    made = system(config).eval()
    for parameter in [*made.denoiser.parameters(), *made.conditioner.parameters()]:
        if parameter.ndim > 1:  # as they start, what is asked for changes hardly anything
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return Pipeline(made, config)


@pytest.fixture(scope="module")
def pipe():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return pipeline("ace_step")


def tone(file, hz=300.0, seconds=1.5, rate=11025, gain=0.3):
    times = np.arange(round(seconds * rate)) / rate
    soundfile.write(file, gain * np.sign(np.sin(2 * np.pi * hz * times)), rate)
    return str(file)


def test_a_timbre_changes_the_music_and_the_same_call_makes_the_same(pipe, tmp_path):
    file = tone(tmp_path / "a.wav")
    made = pipe("a tune", timbre=file, **FEW)
    assert np.array_equal(pipe("a tune", timbre=Path(file), **FEW).audios, made.audios)
    other = (pipe("a tune", **FEW), pipe("a tune", timbre=tone(tmp_path / "b.wav", 1200.0), **FEW))
    known = pipe("a tune", timbre=soundfile.read(file, dtype="float32"), **FEW)  # resampled like the file
    nearest = min(np.abs(one.audios - made.audios).max() for one in other)
    assert nearest > 2e-4 and np.abs(known.audios - made.audios).max() < nearest / 100
    assert known.made[0]["files"]["timbre"]["path"] is None and pipe("a tune", timbre=made, **FEW).audios.any()


def test_where_a_picture_acted_is_asked_with_the_timbre(pipe, tmp_path):
    found = picture_influence(pipe, "a", torch.rand(1, 3, 16, 16), patches=2, levels=1, timbre=tone(tmp_path / "a.wav"))
    assert found.shape == (2, 2)


@pytest.fixture
def bad(tmp_path):
    def make(kind):
        file = tmp_path / "t.wav"
        if kind == "short":
            tone(file, seconds=0.2)
        elif kind == "silent":
            tone(file, gain=0.0)
        elif kind == "empty":
            soundfile.write(file, np.zeros(0), 8000)
        elif kind == "text":
            file.write_text("no sound")
        elif kind == "folder":
            file.mkdir()
        return str(file)

    return make


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("short", "lasts 0.2 s, and at least 1 s are wanted: give a longer sound"),
        ("silent", "timbre is silence (RMS below audio.silence_dbfs"),
        ("empty", "t.wav holds no sound"),
        ("text", "t.wav is no sound that can be read"),
        ("folder", "t.wav is a folder"),
        ("missing", "t.wav: there is no such file"),
    ],
)
def test_a_sound_that_cannot_be_used_is_one_sentence(kind, words, pipe, bad):
    with pytest.raises(ConfigError) as error:
        pipe("a", timbre=bad(kind), **FEW)
    assert words in one_sentence(error.value) and "audio=" not in str(error.value)


@pytest.mark.parametrize("sound", [3, "", (np.full(8000, np.nan), 8000), (np.zeros(0), 8000), (np.ones(800), 8000)])
def test_samples_that_are_no_sound_are_one_sentence(sound, pipe):
    with pytest.raises(ConfigError, match="^timbre") as error:
        pipe("a", timbre=sound, **FEW)
    one_sentence(error.value)


@pytest.mark.parametrize("name", ["tiny", "stable_audio_open"])
def test_another_model_refuses_it(name, tmp_path):
    other = pipeline(name)
    with pytest.raises(ConfigError, match="no option 'timbre'"):
        other("a", timbre=tone(tmp_path / "a.wav"))
    with pytest.raises(ConfigError, match="timbre=.*a.wav means nothing to this model: it takes "):
        other.system.conditioner.requests([{"timbre": str(tmp_path / "a.wav")}], None)


def test_training_reads_silence_whatever_a_column_of_that_name_holds(pipe):
    conditioner = pipe.system.conditioner
    assert conditioner.fields_of([{"timbre": "a.wav", "bpm": 90}]) == [{"bpm": 90}]
    plain, named = conditioner(["", "a"]), conditioner(["", "a"], [{"timbre": "a.wav"}] * 2)
    assert torch.equal(plain.text_embeds, named.text_embeds)
    asked = conditioner([""], [{"timbre": torch.randn(750, 16)}])
    assert not torch.allclose(asked.text_embeds, plain.text_embeds[:1])  # a timbre without a word is asked for, too


def test_a_list_has_the_field_relative_to_it_and_its_bytes_count(pipe, bad, tmp_path):
    def request(**fields):
        (clip,) = planned(pipe, [ListItem(0, {"prompt": "a"} | fields)], tmp_path, {}, "wav", 1, None)
        return clip if isinstance(clip, tuple) else clip.request

    tone(tmp_path / "a.wav")
    first = request(timbre="a.wav")
    assert first == request(timbre="a.wav") != request()
    tone(tmp_path / "a.wav", 500.0)
    assert request(timbre="a.wav") != first
    bad("short")
    assert "t.wav lasts 0.2 s" in request(timbre="t.wav")[1] and "timbre=3 is no text" in request(timbre=3)[1]


def test_show_prints_the_command_that_makes_it_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("IMAGE", "PROMPT", "OUT", "CKPT", "TIMBRE", "FILE"):
        monkeypatch.delenv(name, raising=False)
    config = config_of("ace_step")
    export(system(config).eval(), config, tmp_path / "model")
    tone(tmp_path / "my tone.wav")
    assert main(["generate", "ckpt=model", "prompt=a tune", "timbre=my tone.wav", "num_inference_steps=1", "out=a.wav"]) == 0
    assert read("a.wav")["files"]["timbre"]["path"] == "my tone.wav"
    capsys.readouterr()
    assert main(["show", "a.wav"]) == 0
    shown = capsys.readouterr().out
    again = shlex.split(shown.rpartition("Again: ")[2])
    assert "timbre=my tone.wav" in again and "timbre     my tone.wav (SHA-256" in shown and "But:" not in shown
    assert main(again[1:]) == 0 and Path("again.wav").read_bytes() == Path("a.wav").read_bytes()
    tone(tmp_path / "my tone.wav", 500.0)
    assert main(["show", "a.wav"]) == 0 and "But: my tone.wav is another file now." in capsys.readouterr().out


def test_the_command_says_what_is_wrong_before_it_loads_a_model(bad, capsys):
    assert main(["generate", "prompt=a", f"timbre={bad('text')}"]) == 2
    assert "t.wav is no sound that can be read" in capsys.readouterr().err
