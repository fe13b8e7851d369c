"""Evaluation: the verdicts are counted right, and a picture that is heard is told from one that is not."""

import dataclasses
import json

import pytest
import torch

from melfusion import build
from melfusion.data.datamodule import MusicDataModule
from melfusion.evaluate import ROWS, evaluate, learned, levelled, summary, table, write
from melfusion.metrics.intervals import mean_interval, wilson


def test_intervals_are_the_textbook_ones():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(10, 10) == pytest.approx((0.7224672, 1.0), abs=1e-6)
    mean, half = mean_interval([0.0, 1.0, 1.0, 1.0])
    assert (mean, half) == pytest.approx((0.75, 1.959964 * 0.5 / 2), abs=1e-6)


def verdicts(*values):
    return [{"place": bool(v)} for v in values]


def test_the_gain_is_paired_and_the_sentence_follows_it():
    rows = {row: verdicts(1, 1, 1, 1) for row in ROWS} | {"shuffled picture": verdicts(0, 0, 0, 1)}
    scores = summary(rows, {"place": 6})
    assert scores["gain"]["place"]["mean"] == 0.75 and scores["chance"]["place"] == pytest.approx(1 / 6)
    assert scores["shuffled picture"]["place"]["accuracy"] == 0.25 and scores["real"]["place"]["n"] == 4
    assert "place" in learned(scores) and "+0.75" in table(scores)
    same = summary(rows | {"shuffled picture": rows["right picture"]}, {"place": 6})
    assert "No attribute" in learned(same)
    assert "without pictures" in learned(summary({row: [] for row in ROWS} | {"real": verdicts(1)}, {"place": 6}))


class Ear:
    """A judge that hears the level of the sound: loud is sea."""

    attributes = {"place": ["sea", "city"]}

    def hear(self, waveform):
        return [{"place": "sea" if clip.abs().amax() > 0.5 else "city"} for clip in waveform]


def test_only_the_picture_differs_between_the_rows(tiny, tiny_corpus, tmp_path, monkeypatch):
    config = tiny(f"data.path={tiny_corpus}", "synapse.kind=concat", "evaluation.batch_size=3")
    config.evaluation = dataclasses.replace(config.evaluation, num_inference_steps=2)
    system = build.system(config).eval()
    calls = []
    inner = type(system).generate

    def spy(self, captions, image, seeds, *args, **kwargs):
        calls.append((captions, image, seeds))
        return inner(self, captions, image, seeds, *args, **kwargs)

    monkeypatch.setattr(type(system), "generate", spy)
    monkeypatch.setattr("melfusion.evaluate.levelled", lambda waveform, config: waveform)
    data = MusicDataModule(config.data, config.audio, config.seed).dataset("val")
    for entry in range(len(data)):
        assert data[entry]["labels"] is not None
    data.__class__.__getitem__, original = (
        lambda self, i: original(self, i) | {"labels": {"place": "sea"}},
        data.__class__.__getitem__,
    )
    try:
        scores = evaluate(system, config, Ear(), data, tmp_path / "out")
    finally:
        data.__class__.__getitem__ = original
    assert [c[0] for c in calls[0::3]] == [c[0] for c in calls[1::3]] == [c[0] for c in calls[2::3]]
    assert [c[2] for c in calls[0::3]] == [c[2] for c in calls[1::3]] == [[0, 1, 2], [3, 4, 5]]
    right, shuffled = (torch.cat([c[1] for c in calls[k::3]]).sum((1, 2, 3)).tolist() for k in (0, 1))
    assert sorted(right) == pytest.approx(sorted(shuffled)) and right != shuffled
    assert all(c[1] is None for c in calls[2::3])
    assert len({round(v, 4) for v in right}) == 6
    assert scores["real"]["place"]["n"] == len(data) == 6
    assert len(list((tmp_path / "out" / "right-picture").glob("*.wav"))) == 6
    write(scores, tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text()) == scores


def test_generated_sound_is_brought_to_the_loudness_of_the_data(tiny):
    config = tiny()
    t = torch.arange(8192) / 8000
    sound = torch.stack([0.01 * torch.sin(6.28 * 440 * t), 0.5 * torch.sin(6.28 * 440 * t), torch.zeros(8192)])
    rms = levelled(sound, config).square().mean(1).sqrt()
    assert rms[:2].tolist() == pytest.approx([0.1, 0.1], rel=1e-3) and rms[2] == 0
