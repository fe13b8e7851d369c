"""Accuracy, confusions and gains by hand; clips at one loudness, on the device of the networks."""

import pytest
import torch
from metric_fixtures import predictions

from melfusion.evaluation.scoring import Listeners, accuracy, confusions, gains
from melfusion.listeners.embedders import Embedder
from melfusion.media.options import AudioConfig
from melfusion.media.sound import levelled

AUDIO = AudioConfig(sample_rate_hz=8000, clip_duration_s=1.0)


def test_accuracy_and_gain_are_those_of_the_hand():
    right, other = predictions(4), predictions(4, classes=("city", "city"))
    wanted = [{"place": "sea"}, {"place": "city"}, {"place": "city"}, {}]
    assert accuracy(right, wanted)["place"] | {"low": 0, "high": 0} == {"accuracy": 2 / 3, "low": 0, "high": 0, "n": 3}
    assert gains(right, other, wanted)["place"]["mean"] == pytest.approx((1 - 0 + 0 - 1 + 0) / 3 + (0 + 0) / 3)
    assert accuracy(right, [{}] * 4) == {}


def test_confusions_are_counted_by_predicted_class():
    row = predictions(6, classes=("sea", "city"))
    wanted = [{"place": name} for name in ("sea", "sea", "forest", "sea", "sea", "forest")]
    assert confusions(row, wanted) == {"place": {"sea": {"city": 2}, "forest": {"sea": 1, "city": 1}}}
    assert confusions(row, [{}] * 6) == {"place": {}}


def test_a_part_of_a_row_is_all_of_it_at_those_clips():
    row = predictions(6)
    part = row.only(["k4", "k1"])
    assert part.keys == ["k4", "k1"] and part.classes["place"] == ["sea", "city"]
    assert torch.equal(part.embeddings["ear"], row.embeddings["ear"][[4, 1]])


class Loudness(torch.nn.Module):
    sample_rate_hz = 8000

    def forward(self, waveform):
        return waveform.square().mean(1).sqrt()[:, None, None]


def test_every_clip_is_scored_at_one_loudness():
    t = torch.arange(8000) / 8000
    tones = torch.stack([0.01 * torch.sin(2764 * t), 0.5 * torch.sin(2764 * t), torch.zeros(8000)])
    listeners = Listeners(AUDIO, None, [Embedder("level", Loudness())])
    found = listeners.predict([(["a", "b"], tones[:2]), (["c"], tones[2:])])
    assert found.keys == ["a", "b", "c"]
    assert found.embeddings["level"].flatten().tolist() == pytest.approx([0.1, 0.1, 0.0], rel=1e-3)
    assert levelled(tones, AUDIO)[2].abs().max() == 0
    assert set(listeners.digests()) == {"level"}


class Says(torch.nn.Module):
    """A judge that always predicts the same."""

    def __init__(self, **classes):
        super().__init__()
        self.classes, self.attributes = classes, {name: [value] for name, value in classes.items()}

    def predict(self, waveform):
        return [self.classes] * len(waveform)


def test_of_an_attribute_of_two_judges_the_first_prediction_counts_once():
    listeners = Listeners(AUDIO, Says(place="sea", time="noon"), text_judge=Says(place="city", mode="major"))
    found = listeners.predict([(["a", "b"], torch.zeros(2, 8000)), (["c"], torch.zeros(1, 8000))])
    assert found.classes == {"place": ["sea"] * 3, "time": ["noon"] * 3, "mode": ["major"] * 3}


class Elsewhere(torch.nn.Module):
    """A network on another device than the clips come from, which takes only clips on its own device."""

    sample_rate_hz = 8000
    attributes = {"place": ["sea", "city"]}

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, device="meta"))

    def forward(self, waveform):
        assert waveform.device == self.weight.device
        return torch.zeros(len(waveform), 1, 2)

    def predict(self, waveform):
        assert waveform.device == self.weight.device
        return [{"place": "sea"}] * len(waveform)


def test_clips_are_brought_to_where_the_networks_lie():
    embedder = Embedder("ear", Loudness())
    embedder.network = Elsewhere()
    for listeners in (Listeners(AUDIO, Elsewhere()), Listeners(AUDIO, Elsewhere(), [embedder]), Listeners(AUDIO, None, [embedder])):
        found = listeners.predict([(["a", "b"], torch.ones(2, 8000))])
        assert found.keys == ["a", "b"] and set(found.classes) | set(found.embeddings)


def test_one_pair_has_no_gain():
    assert gains(predictions(1), predictions(1, classes=("city", "city")), [{"place": "sea"}]) == {}
