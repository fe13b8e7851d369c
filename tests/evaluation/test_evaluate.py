"""Evaluation: rows differ in the condition only, clips are made once, and any folder of clips is scored alike."""

import dataclasses
import json
import subprocess
from pathlib import Path

import building as build
import numpy as np
import pytest
import soundfile
import torch
from data_fixtures import data_set, encoded, make_sample, noise_picture
from forking import python
from torch import nn

from melfusion.__main__ import main
from melfusion.data.datamodule import MusicDataModule
from melfusion.errors import ConfigError
from melfusion.evaluation.clips import identity, made_with, make_clips, note, read_clips, sound_files
from melfusion.evaluation.conditions import CONDITIONS
from melfusion.evaluation.pages import pages
from melfusion.evaluation.scores import evaluate, evaluate_run, generate_rows, row_files, write
from melfusion.evaluation.scoring import Listeners
from melfusion.evaluation.sets import EvaluationSet
from melfusion.evaluation.tables import learned, table
from melfusion.listeners.embedders import Embedder
from melfusion.media.sound import write_wav
from melfusion.metrics.intervals import mean_interval, wilson
from melfusion.training.run import train


def test_intervals_are_the_textbook_ones():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(10, 10) == pytest.approx((0.7224672, 1.0), abs=1e-6)
    mean, half = mean_interval([0.0, 1.0, 1.0, 1.0])
    assert (mean, half) == pytest.approx((0.75, 1.959964 * 0.5 / 2), abs=1e-6)


class Brightness(nn.Module):
    """A judge that predicts the sea where a clip is bright (many zero crossings)."""

    attributes = {"place": ["sea", "city"]}

    def predict(self, waveform):
        crossings = (waveform[:, 1:] * waveform[:, :-1] < 0).float().mean(1)
        return [{"place": "sea" if c > 0.2 else "city"} for c in crossings]


@pytest.fixture
def config(tiny, tiny_corpus):
    return tiny(f"data.path={tiny_corpus}", "synapse.kind=concat", "evaluation.batch_size=3")


@pytest.fixture
def items(config):
    return MusicDataModule(config.data, config.audio, config.seed).dataset("val")


@pytest.fixture
def calls_of_generate(monkeypatch):
    """Every call of `generate`: (captions, image, seeds, …)."""
    from melfusion.models.system import MeLFusion

    calls, inner = [], MeLFusion.generate
    monkeypatch.setattr(MeLFusion, "generate", lambda self, *args, **kw: calls.append(args) or inner(self, *args, **kw))
    return calls


def test_rows_differ_in_the_condition_only(config, items, calls_of_generate, tmp_path):
    system = build.system(config).eval()
    names = [name for name in CONDITIONS if "game" not in name]  # scenes are of no game
    generate_rows(system, config, items, tmp_path, names)
    calls = dict(zip(names, (calls_of_generate[2 * k : 2 * k + 2] for k in range(len(names))), strict=True))
    for name, (first, second) in calls.items():
        assert [first[2], second[2]] == [[0, 1, 2], [3, 4, 5]]  # the same noise in every row
        given = [items[i]["caption"] for i in range(6)]
        assert first[0] + second[0] == ([""] * 6 if name == "picture alone" else given)
    images = {name: None if c[0][1] is None else torch.cat([c[0][1], c[1][1]]) for name, c in calls.items()}
    right, shuffled = (images[name].sum((1, 2, 3)) for name in ("right picture", "shuffled picture"))
    assert sorted(right.tolist()) == pytest.approx(sorted(shuffled.tolist())) and not torch.equal(right, shuffled)
    assert images["no picture"] is None and torch.equal(images["picture alone"], images["right picture"])
    outside = images["outside picture"]
    assert (outside == outside[:1]).all() and not any(torch.equal(outside[0], p) for p in images["right picture"])
    assert len(list((tmp_path / "right-picture").glob("[!.]*.wav"))) == 6


def test_an_item_without_a_picture_is_shown_none_whatever_the_row(config, calls_of_generate, tmp_path):
    samples = [make_sample(f"s{i}", "val", image=encoded(noise_picture(i)) if i % 2 else None) for i in range(6)]
    config.data.path = str(data_set(tmp_path / "data", samples))
    items = MusicDataModule(config.data, config.audio, config.seed).dataset("val")
    generate_rows(build.system(config).eval(), config, items, tmp_path, ["right picture", "shuffled picture"])
    there = [torch.cat([calls_of_generate[k][7], calls_of_generate[k + 1][7]]) for k in (0, 2)]
    assert there[0].tolist() == [0, 1, 0, 1, 0, 1] and sorted(there[1].tolist()) == [0, 0, 0, 1, 1, 1]
    for k, row in zip((0, 2), there, strict=True):
        blank = (torch.cat([calls_of_generate[k][1], calls_of_generate[k + 1][1]]) == 0).all((1, 2, 3))
        assert torch.equal(blank, row == 0)


def test_clips_are_made_once_alike_in_shares_and_never_mixed(config, items, calls_of_generate, tmp_path):
    system = build.system(config).eval()
    make_clips(system, config, items, CONDITIONS["right picture"], tmp_path / "whole")
    for share in ((1, 2), (0, 2)):
        make_clips(system, config, items, CONDITIONS["right picture"], tmp_path / "shared", share=share)
    for file in sound_files(tmp_path / "whole"):
        assert file.read_bytes() == (tmp_path / "shared" / file.name).read_bytes()
    made = len(calls_of_generate)
    generate_rows(system, config, items, tmp_path, ["right picture"])
    (tmp_path / "right-picture" / "s018.wav").unlink()
    generate_rows(system, config, items, tmp_path, ["right picture"])
    assert len(calls_of_generate) == made + 3 and calls_of_generate[-1][2] == [2]  # two batches, then the one that was missing
    config.sampling.guidance_scale += 1
    with pytest.raises(ConfigError, match="another sampling"):
        generate_rows(system, config, items, tmp_path, ["right picture"])
    generate_rows(system, config, items, tmp_path, ["right picture"], replace=True)
    assert len(calls_of_generate) == made + 5 and len(sound_files(tmp_path / "right-picture")) == 6
    with torch.no_grad():
        next(system.codec.music_vae.autoencoder.decoder.parameters()).add_(0.1)
    with pytest.raises(ConfigError, match="another decoder"):
        generate_rows(system, config, items, tmp_path, ["right picture"])
    note_file = tmp_path / "right-picture" / "made_with.json"
    noted = json.loads(note_file.read_text())
    old = {{"condition": "row", "decoder": "voice"}.get(name, name): value for name, value in noted.items()}
    note_file.write_text(json.dumps(old))  # as version 0.1 wrote it
    assert note(note_file.parent) == noted
    made = identity(system)
    before = made_with(made, config, ["a"], CONDITIONS["outside picture"])
    config.image.reading, config.evaluation.outside_picture = "noised", str(tmp_path / "right-picture" / "made_with.json")
    changed = made_with(made, config, ["a"], CONDITIONS["outside picture"])
    assert {k for k in before if before[k] != changed[k]} == {"reading", "outside_picture"}
    with torch.no_grad():
        next(system.image_encoder.unet.parameters()).add_(0.1)
    system._digests = None
    assert identity(system)["frozen"] != made["frozen"]


def test_without_labels_it_says_what_can_be_said_without(config, items, tmp_path):
    config.evaluation.items, config.judge.weights, config.towers.weights = 4, None, None
    config.runs_dir, config.name, config.trainer.media_items = str(tmp_path), "run", 0
    results = train(config, evaluate_run)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["validation"] == {n: v for n, v in results.items() if n.startswith("val/")} and scores["gain"] == {}
    words = (tmp_path / "run" / "scores.md").read_text()
    assert "| right picture | 4 |" in words and "train longer" not in words and "No attribute of the picture was compared" in words
    assert f"val/picture_gain {results['val/picture_gain']:.3g} (" in words and "evaluate` measures distances" in words
    scored = {"mean": 0.5, "interval": 0.1}
    for row, mean in (("right picture", 0.5), ("shuffled picture", 0.25)):
        scores["rows"][row] |= {"paired": {"imsm_scenes": scored | {"mean": mean}}, "distances": {"level": {"kad": scored}}}
    assert "imsm_scenes of clips and their item's picture: 0.5 ± 0.1 where it was shown, 0.25 ± 0.1 " in learned(scores)
    assert "how near the clips are to real ones" in learned(scores)


def tones(folder, items, bright):
    folder.mkdir()
    for i, entry in enumerate(items.entries):
        t = torch.arange(8192) / 8000
        write_wav(str(folder / f"{entry.key}.wav"), 0.3 * torch.sin(6.2832 * (2500 if bright(i) else 300) * t), 8000)
    return folder


def test_predictions_are_counted_and_the_sentence_follows_them(config, items, tmp_path, monkeypatch):
    labelled = {"caption": "c", "full_caption": "all of it"}
    sea = [True, False, True, False, True, True]
    metas = {e.key: labelled | {"labels": {"place": "sea" if s else "city"}} for e, s in zip(items.entries, sea, strict=True)}
    monkeypatch.setattr(type(items.reader), "meta", lambda self, entry: metas[entry.key])
    folders = {
        "right picture": tones(tmp_path / "a", items, lambda i: sea[i]),
        "shuffled picture": tones(tmp_path / "b", items, lambda i: i < 2),
    }
    scores = evaluate(config, Listeners(config.audio, Brightness()), items, None, folders)
    right, shuffled = (scores["rows"][name]["attributes"]["place"] for name in folders)
    assert right["accuracy"] == 1.0 and right["n"] == 6 and shuffled["accuracy"] == pytest.approx(2 / 6)
    assert scores["gain"]["place"]["mean"] == pytest.approx(4 / 6) and scores["chance"] == {"place": 0.5}
    assert "place" in learned(scores) and "+0.67" in table(scores)
    same = evaluate(config, Listeners(config.audio, Brightness()), items, None, dict.fromkeys(folders, folders["right picture"]))
    assert "No attribute" in learned(same)
    assert "nothing is said" in learned({k: v for k, v in scores.items() if k != "gain"})
    write(scores, tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    assert list((tmp_path / "tensorboard").glob("events*"))
    pages(config, items, folders, tmp_path, listening=True)
    page = (tmp_path / "index.html").read_text()
    assert all(word in page for word in ("right picture", "shuffled picture", "real", items.entries[0].key))
    assert (tmp_path / "listening.html").is_file() and (tmp_path / "a" / f"{items.entries[0].key}.png").is_file()


class Level(nn.Module):
    sample_rate_hz = 8000

    def forward(self, waveform):
        return torch.stack([waveform.abs().mean(1), waveform.std(1)], 1)[:, None]


def test_any_folder_of_sounds_is_measured_against_a_split(config, items, tmp_path):
    strange = tmp_path / "strange"
    strange.mkdir()
    for i in range(5):
        noise = 0.1 * torch.randn(11025, generator=torch.Generator().manual_seed(i))
        write_wav(str(strange / f"song-{i}.wav"), noise, 11025)  # another rate and length
    assert [f.name for f in row_files(strange, items)] == [f"song-{i}.wav" for i in range(5)]
    keys, waveform = next(read_clips(sound_files(strange), config.audio, 8))
    assert keys[0] == "song-0" and waveform.shape == (5, 8192)
    module = MusicDataModule(config.data, config.audio, config.seed)
    compared = EvaluationSet(items, module.dataset("test"), module.dataset("train"), "the test split")
    listeners = Listeners(config.audio, None, [Embedder("level", Level())])
    scores = evaluate(config, listeners, items, compared, {"given": strange})
    row = scores["rows"]["given"]
    assert row["n"] == 5 and row["attributes"] == {} and "mean" in row["distances"]["level"]["kad"]
    floor = scores["rows"]["real"]["distances"]["level"]["kad"]
    assert floor["mean"] < 0.2 * row["distances"]["level"]["kad"]["mean"]  # real clips are nearer to real ones
    assert "why_not" in row["distances"]["level"]["fad"] and scores["about"]["networks"].keys() == {"level"}
    assert "FAD is not computed: " in table(scores)
    pages(config, items, {"given": strange}, tmp_path / "out", listening=True)
    page, key = (tmp_path / "out" / "index.html").read_text(), json.loads((tmp_path / "out" / "listening-key.json").read_text())
    blind = [soundfile.read(f) for f in (tmp_path / "out" / "listening").glob("*.wav")]
    assert {(len(wave), rate) for wave, rate in blind} == {(8192, 8000)}
    levels = [20 * np.log10(np.sqrt((wave**2).mean())) for wave, _ in blind]
    assert max(levels) - min(levels) < 0.5  # in dB: loudness tells no system
    assert page.count("song-") >= 5 and [clip["row"] for clip in key["clips"].values()].count("given") == 5
    (strange / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(ConfigError, match="broken.wav cannot be scored \\(unreadable audio\\)"):
        list(read_clips(sound_files(strange), config.audio, 8))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no sound file"):
        row_files(tmp_path / "empty", items)


def test_an_outside_picture_that_is_missing_is_one_sentence(config, items, tmp_path):
    config.evaluation = dataclasses.replace(config.evaluation, outside_picture="nowhere.png")
    with pytest.raises(ConfigError, match="nowhere.png"):
        make_clips(build.system(config).eval(), config, items, CONDITIONS["outside picture"], tmp_path)


class Sea(Brightness):
    """Predicts the sea for every clip."""

    def predict(self, waveform):
        return [{"place": "sea"}] * len(waveform)


def test_a_folder_of_sounds_that_belong_to_no_scene_is_scored_on_a_labelled_split(tiny, tmp_path):
    samples = [
        make_sample(f"{split}{i:02d}", split, image=encoded(noise_picture(i)), labels={"place": "sea"})
        for split in ("train", "val", "test")
        for i in range(12)
    ]
    config = tiny(f"data.path={data_set(tmp_path / 'data', samples)}", "data.source=manifest")
    strange = tmp_path / "strange"
    strange.mkdir()
    for i in range(40):
        write_wav(str(strange / f"song-{i:02d}.wav"), 0.1 * torch.randn(8192, generator=torch.Generator().manual_seed(i)), 8000)
    module = MusicDataModule(config.data, config.audio, config.seed)
    compared = EvaluationSet(*(module.dataset(split) for split in ("test", "val", "train")), "val")
    listeners = Listeners(config.audio, Sea(), [Embedder("level", Level())])
    scores = evaluate(config, listeners, compared.items, compared, {"given": strange})
    found = scores["rows"]["given"]["distances"]["level"]
    assert scores["rows"]["given"]["n"] == 40 and "mean" in found["kad"]
    assert "No clip has a label" in found["fad_conditional"]["why_not"]
    assert "mean" in scores["rows"]["real"]["distances"]["level"]["fad_conditional"]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("n=-3", "n=-3 must be at least 1"),
        ("n=0", "at least 1"),
        ("data.seed=-1", "data.seed=-1 must be at least 0"),
        ("listening=yes", "is not true or false"),
    ],
)
def test_options_without_sense_are_one_sentence(option, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", f"wavs={tmp_path}", option]) == 2
    assert words in capsys.readouterr().err


FRESH = ["evaluate", "ckpt=runs/tiny", "n=5", "data.seed=7", "rows=right-picture,no-picture", "evaluation.embedders={}"]


@pytest.fixture
def small_run(config, tmp_path, monkeypatch):
    """runs/tiny, of one step on scenes, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("melfusion.data.sources.FITTED", 6)
    config.data.path, config.data.draw, config.runs_dir = "data/small", True, "runs"
    config.trainer.max_steps, config.trainer.media_items = 1, 0
    config.evaluation.items, config.judge.weights, config.towers.weights = 0, None, None
    config.data.splits = {"train": 8, "val": 4, "test": 4}
    train(config)


@pytest.mark.slow  # two more processes, and the clips of all of them again
def test_two_processes_of_a_launcher_share_the_clips(small_run):
    two = [*FRESH, "out=two", "trainer.devices=2", "trainer.accelerator=cpu", "evaluation.batch_size=2"]
    done = subprocess.run([python(), "-m", "melfusion", *two], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(Path("two/right-picture").glob("*.wav"))) == 5
    shared = json.loads(Path("two/scores.json").read_text())
    assert done.stdout.count("Listen: ") == 1 and [row["n"] for row in shared["rows"].values()] == [5] * 4


@pytest.mark.slow  # two launched processes, and new scenes
def test_the_verb_in_shares_with_fresh_scenes_and_without_a_configuration(small_run, capsys):
    """ckpt= brings its own configuration; shares make the clips, and the call without one scores what they made."""
    words = FRESH
    for k in (1, 0):
        assert main([*words, f"share={k}/2"]) == 0
        made = {row: len(sound_files(Path(f"runs/tiny/evaluation/{row}"))) for row in ("right-picture", "no-picture")}
        assert made == {1: dict.fromkeys(made, 2), 0: dict.fromkeys(made, 5)}[k]
        assert not Path("runs/tiny/evaluation/scores.json").exists()
    times = {f: f.stat().st_mtime_ns for f in Path("runs/tiny/evaluation").glob("*-picture/*.wav")}
    assert main(words) == 0
    scores = json.loads(Path("runs/tiny/evaluation/scores.json").read_text())
    assert list(scores["rows"]) == ["real", "reconstruction", "right picture", "no picture"] and scores["about"]["corpus_seed"] == 7
    assert {f: f.stat().st_mtime_ns for f in times} == times and {row["n"] for row in scores["rows"].values()} == {5}
    assert main([*words, "games"]) == 2 and "a checkpoint brings its own" in capsys.readouterr().err
    assert main([w if w != "data.seed=7" else "data.seed=0" for w in words]) == 2 and "not new" in capsys.readouterr().err
    for share in ("2/2", "x", "1"):
        assert main([*words, f"share={share}"]) == 2 and "must read I/N" in capsys.readouterr().err
