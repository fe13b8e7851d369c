"""What the right picture is worth: which pictures are shown, the same noise, three measures, and means over tracks and games."""

import json
from pathlib import Path

import building as build
import numpy as np
import pytest
import torch
from data_fixtures import data_set, encoded, make_sample, noise_picture, sound
from PIL import Image

from melfusion.__main__ import main
from melfusion.data.datamodule import MusicDataModule
from melfusion.errors import DataError
from melfusion.evaluation.conditions import others
from melfusion.lab.picture_clips import Distances, Retrieval, each_track
from melfusion.lab.picture_gain import compared, means_of, picture_gain, table
from melfusion.lab.picture_loss import losses
from melfusion.lab.suite_gains import tables
from melfusion.training.run import train

LABELS = [
    {"game": f"g{i // 4}", "track": f"t{i // 2}", "image_id": f"p{i // 2}", "held_out": i >= 8} for i in range(12)
]  # three games of two tracks of two clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    samples = [
        make_sample(
            f"{split}{i}", split, sound(0.2 * rng.standard_normal(2 * 8000)), image=encoded(noise_picture(i // 2)), labels=LABELS[i]
        )
        for split in ("train", "val")
        for i in range(12)
    ]
    return data_set(tmp_path_factory.mktemp("set"), samples)


@pytest.mark.parametrize("by_track", [False, True])
def test_whose_picture_a_clip_is_given(by_track):
    for seed in range(20):
        found = others(LABELS, seed, by_track)
        for i, (far, near) in enumerate(zip(found["another game's"], found["its game's"], strict=True)):
            assert LABELS[far]["game"] != LABELS[i]["game"]
            assert LABELS[near]["game"] == LABELS[i]["game"] and LABELS[near]["track"] != LABELS[i]["track"]
        for of in found.values() if by_track else ():
            assert all(LABELS[of[i]]["track"] == LABELS[of[i + 1]]["track"] and of[i] != of[i + 1] for i in range(0, 12, 2))
    alone = others([{"game": "a", "track": "t", "image_id": "p"}, {"game": "b", "track": "u", "image_id": "q"}], 0, by_track)
    assert alone == {"another game's": [1, 0], "its game's": [None, None]}


def test_the_same_picture_costs_nothing_and_another_is_seen(tiny, folder):
    config = tiny(f"data.path={folder}", "data.source=manifest", "synapse.kind=concat")
    system = build.system(config).eval()
    dataset = MusicDataModule(config.data, config.audio, config.seed, noise_shapes=build.noise_shapes(config, system)).dataset(
        "val"
    )
    twin = [i + 1 if i % 2 == 0 else i - 1 for i in range(12)]  # the other clip of the same track, with the same picture
    found = losses(system, dataset, {"twin": twin, "far": [(i + 4) % 12 for i in range(12)], "no one": [None] * 12}, 5)
    assert np.array_equal(found["twin"], found["right"]) and np.isnan(found["no one"]).all()
    assert (found["far"] != found["right"]).all() and (found["none"] != found["right"]).all()
    again = losses(system, dataset, {}, 12)  # whatever else is in the batch
    np.testing.assert_allclose(again["right"], found["right"], rtol=1e-4)


def test_each_track_and_each_game_counts_once():
    differences = np.array([1.0, 1.0, 3.0, 3.0, 0.0, 0.0, 0.0, 4.0, np.nan, 9.0, 9.0, 9.0])
    found = means_of(differences, np.arange(12) < 9, LABELS)
    assert found["clips"] == 8 and found["tracks"]["n"] == 4 and found["tracks"]["mean"] == pytest.approx((1 + 3 + 0 + 2) / 4)
    assert found["games"]["n"] == 2 and found["games"]["mean"] == pytest.approx(1.5)


def test_the_empty_caption_is_another_condition(tiny, folder):
    config = tiny(f"data.path={folder}", "data.source=manifest", "synapse.kind=concat")
    system = build.system(config).eval()
    dataset = MusicDataModule(config.data, config.audio, config.seed).dataset("val")
    spoken, silent = losses(system, dataset, {}, 6), losses(system, dataset, {}, 6, words=False)
    assert (spoken["right"] != silent["right"]).all() and (spoken["none"] != silent["none"]).all()


def test_a_gain_has_the_right_sign():
    """Another picture's loss and distance are larger, and the rank of the own picture is lower, where the right one is better."""
    for measure, other in (("loss", 3.0), ("distance", 3.0), ("nearness", 1.0), ("retrieval", 1.0)):
        rows = compared(measure, {"right": np.full(12, 2.0), "none": np.full(12, other), "real": np.zeros(12)}, LABELS)
        assert [name.partition(": ")[2] for name in rows] == [
            "none picture, all",
            "none picture, games learned from",
            "none picture, held-out games",
        ]
        assert all(row["tracks"]["mean"] == 1 for row in rows.values())


def loud_games(tmp_path):
    """Eight games of three tracks of two clips: a game is a colour, and a band of noise."""
    rng, samples = np.random.default_rng(0), []
    for i in range(8 * 3 * 2):
        game, track = i // 6, i // 2
        picture = encoded(Image.new("RGB", (64, 64), (32 * game, 255 - 32 * game, (97 * game) % 256)))
        spectrum = np.fft.rfft(rng.standard_normal(2 * 8000))
        spectrum[np.abs(np.arange(len(spectrum)) / len(spectrum) - (game + 1) / 10) > 0.06] = 0
        audio = sound(0.3 * np.fft.irfft(spectrum) / np.fft.irfft(spectrum).std())
        labels = {"game": f"g{game}", "track": f"t{track}", "image_id": f"p{track}", "component": f"c{track}"}
        samples.append(make_sample(f"{i:02}", "val" if track % 3 == 2 else "train", audio, image=picture, labels=labels))
    return data_set(tmp_path, samples)


def test_clips_of_the_right_game_are_nearer_and_their_picture_is_found(tiny, tmp_path):
    """Real clips stand for generated ones: a model that follows its picture makes these, another those of another game."""
    config = tiny(f"data.path={loud_games(tmp_path)}", "data.source=manifest")
    items = each_track(MusicDataModule(config.data, config.audio, config.seed).dataset("val"), 2)
    assert len(items) == 16
    clips = [torch.from_numpy(items[i]["waveform"]) for i in range(16)]
    labels = [items[i]["labels"] for i in range(16)]
    shown = {"right": clips, "another game's": clips[4:] + clips[:4]}
    far, near = Distances(config, "val").of(shown, labels).values()
    assert (far["another game's"] - far["right"]).min() > 0 and (near["right"] - near["another game's"]).min() > 0
    found = Retrieval.of(config, "val").of_clips(shown, [one["track"] for one in labels], config)
    assert found["right"].mean() > 0.8 > 0.6 > found["another game's"].mean() and found["real"].mean() > 0.8


def test_the_verb_reads_a_run(tiny, folder, tmp_path, capsys):
    train(tiny(f"data.path={folder}", "data.source=manifest", f"runs_dir={tmp_path}", "name=a", "trainer.max_steps=1"))
    assert main(["picture-gain", f"ckpt={tmp_path}/a", "n=12"]) == 0
    said = capsys.readouterr().out
    assert "| loss, × 1000: another game's picture, held-out games | 4 |" in said
    assert "| loss, × 1000: none picture, all | 12 |" in said
    assert (tmp_path / "a/picture_gain/picture_gain.json").is_file()


@pytest.mark.slow  # a suite with its trainings; the verb on one run is fast
def test_a_suite_is_measured_once_with_and_without_words(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "experiments" / "few"
    there.mkdir(parents=True)
    keys = f"base: tiny\ndata: {{path: {folder}, source: manifest}}\nsynapse: {{kind: concat}}\ntrainer: {{max_steps: 1}}\n"
    (there / "_base.yaml").write_text(keys)
    (there / "a.yaml").write_text("base: _base\nablation: {question: few}\n")
    assert main(["picture-gain", "suite=few", "n=6"]) == 0
    said = capsys.readouterr().out
    assert "| a, held-out games | " in said and "loss, × 1000, without words" in said
    stored = list((tmp_path / "experiments/results/gains").glob("*.json"))
    assert len(stored) == 1
    monkeypatch.setattr("melfusion.lab.suite_gains.train", None)  # a row that has its gain is not trained again
    assert main(["picture-gain", "suite=few", "n=6", "publish=true"]) == 0
    assert (tmp_path / "experiments/results/few.md").read_text().count("| a, all |") == 3
    assert (tmp_path / "experiments/results/few.png").stat().st_size > 5000
    for wrong in (
        ["suite=few", "rows=b"],
        [],
        ["ckpt=x", "suite=few"],
        ["ckpt=x", "clips=1"],
        ["suite=few", "clips=2", "split=train"],
    ):
        assert main(["picture-gain", *wrong]) == 2


RESULTS = Path(__file__).parents[2] / "experiments" / "results"


@pytest.mark.parametrize(("stem", "as_table"), [("open_games", tables), ("open_games_test", table)], ids=["suite", "model"])
def test_stored_gains_become_their_table_again(stem, as_table):
    found = json.loads((RESULTS / f"{stem}.json").read_text())
    assert (RESULTS / f"{stem}.md").read_text() == as_table(found) + "\n"


def test_a_set_of_one_game_is_one_sentence(tiny, tiny_corpus, tmp_path):
    config = tiny(f"data.path={tiny_corpus}")
    with pytest.raises(DataError, match="of one game"):
        picture_gain(config, build.system(config).eval(), "val", 4, 0, tmp_path)


def test_a_table_of_nothing_has_its_cells():
    assert table({"rows": {"loss: x": {"clips": 0}}}).endswith("| loss, × 1000: x | 0 | - | - |")
