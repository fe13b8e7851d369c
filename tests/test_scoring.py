"""Rows are measured alike: accuracy by hand, distances that see what they should, reasons in words where clips are few."""

import numpy as np
import pytest
import torch

from melfusion.metrics.embedders import Embedder
from melfusion.schema import AudioConfig
from melfusion.scoring import Ears, Heard, accuracy, confusions, gains, levelled
from melfusion.tables import distances as distance_table
from melfusion.yardstick import Yardstick

AUDIO = AudioConfig(sample_rate_hz=8000, clip_duration_s=1.0)


def heard(n, seed=0, shift=0.0, classes=("sea", "city")):
    x = np.random.default_rng(seed).standard_normal((n, 1, 3)) + shift
    return Heard([f"k{i}" for i in range(n)], {"place": [classes[i % 2] for i in range(n)]}, {"ear": torch.from_numpy(x)})


def labels(n):
    return [{"place": ("sea", "city")[i % 2]} for i in range(n)]


def test_accuracy_and_gain_are_those_of_the_hand():
    right, other = heard(4), heard(4, classes=("city", "city"))
    wanted = [{"place": "sea"}, {"place": "city"}, {"place": "city"}, {}]
    assert accuracy(right, wanted)["place"] | {"low": 0, "high": 0} == {"accuracy": 2 / 3, "low": 0, "high": 0, "n": 3}
    assert gains(right, other, wanted)["place"]["mean"] == pytest.approx((1 - 0 + 0 - 1 + 0) / 3 + (0 + 0) / 3)
    assert accuracy(right, [{}] * 4) == {}


def test_distances_grow_with_the_shift_and_carry_intervals():
    measure = Yardstick.fit(heard(400, 1), heard(120, 2), labels(120), labels(120))
    near, far = (measure.score(heard(120, 3, shift), labels(120))["ear"] for shift in (0.0, 1.0))
    for name in ("fad", "kad", "fad_conditional"):
        assert far[name]["mean"] > near[name]["mean"] + near[name]["interval"] > 0
    assert far["fad"]["mean"] == pytest.approx(3.0, rel=0.35)  # three dimensions, each one off
    assert abs(near["kad"]["mean"]) < 4 * near["kad"]["interval"]


def test_swapped_classes_are_seen_within_classes_alone():
    measure = Yardstick.fit(heard(400, 1), heard(120, 2), labels(120), labels(120))
    ours = heard(120, 3)
    ours.embeddings["ear"][::2] += 2  # the sea is one thing, the city another
    reference = heard(120, 2)
    reference.embeddings["ear"][::2] += 2
    measure.reference = reference
    swapped = [{"place": ("city", "sea")[i % 2]} for i in range(120)]
    right, wrong = (measure.score(ours, classes)["ear"] for classes in (labels(120), swapped))
    assert wrong["fad"]["mean"] == right["fad"]["mean"]
    assert wrong["fad_conditional"]["mean"] > 5 * right["fad_conditional"]["mean"]


def test_few_clips_are_told_in_words_and_kad_stands_in():
    few = Yardstick.fit(heard(400, 1), heard(8, 2), labels(8), labels(8)).score(heard(8, 3), labels(8))["ear"]
    assert "why_not" in few["fad"] and "8" in few["fad"]["why_not"] and "mean" not in few["fad"]
    assert "why_not" in few["fad_conditional"] and "mean" in few["kad"]
    shown = distance_table({"rows": {"made": {"distances": {"ear": few}}}}, "ear")
    assert "FAD is not computed: " in shown and "nan" not in shown and "-1" not in shown


class Loudness(torch.nn.Module):
    sample_rate_hz = 8000

    def forward(self, waveform):
        return waveform.square().mean(1).sqrt()[:, None, None]


def test_every_clip_is_heard_at_one_loudness():
    t = torch.arange(8000) / 8000
    tones = torch.stack([0.01 * torch.sin(2764 * t), 0.5 * torch.sin(2764 * t), torch.zeros(8000)])
    ears = Ears(AUDIO, None, [Embedder("level", Loudness())])
    found = ears.listen([(["a", "b"], tones[:2]), (["c"], tones[2:])])
    assert found.keys == ["a", "b", "c"]
    assert found.embeddings["level"].flatten().tolist() == pytest.approx([0.1, 0.1, 0.0], rel=1e-3)
    assert levelled(tones, AUDIO)[2].abs().max() == 0
    assert set(ears.digests()) == {"level"}
