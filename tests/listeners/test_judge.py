"""The judge: what it predicts, what it ignores, and that it learns."""

import json

import building as build
import pytest
import torch
import torch.nn.functional as F
from data_fixtures import one_sentence

from melfusion.assembly.configuration import load_config
from melfusion.errors import ConfigError, WeightsError
from melfusion.listeners.judge import augment, cross_entropy
from melfusion.listeners.judge_networks import NETWORKS, JudgeNetwork, RecurrentNetwork
from melfusion.listeners.pitch import PitchNetwork, Semitones
from melfusion.media.options import AudioConfig


@pytest.fixture(params=["conv", "recurrent"])
def judged(request):
    config = load_config("judge,tiny", [f"judge.kind={request.param}"])
    return config, build.part(config)


def test_it_predicts_one_class_of_each_attribute_whatever_the_length(judged):
    config, judge = judged
    for samples in (8192, 4096, 4096 + 128):  # an odd number of mel frames, too
        predicted = judge.predict(torch.randn(3, samples))
        assert len(predicted) == 3
        assert all(p[name] in classes for p in predicted for name, classes in config.judge.attributes.items())


def test_a_label_that_is_missing_or_unknown_does_not_count(judged):
    _, judge = judged
    wanted = judge.targets([{"place": "sea"}, {"place": "moon"}, {}])["place"]
    assert wanted.tolist() == [0, -100, -100]
    logits = torch.randn(3, 6, requires_grad=True)
    loss = cross_entropy(logits, wanted)
    torch.testing.assert_close(loss, F.cross_entropy(logits[:1], wanted[:1]))
    none = cross_entropy(logits, wanted[1:2].expand(3))
    none.backward()
    assert none == 0 and not logits.grad.any()


def test_it_learns_to_tell_two_sounds(judged, make_batch):
    config, judge = judged
    batch = make_batch(config, judge, n=4)
    t = torch.arange(batch.waveform.shape[1]) / config.audio.sample_rate_hz
    for i, label in enumerate(batch.labels):
        batch.waveform[i] += 0.5 * torch.sin(2 * torch.pi * (300 if label["place"] == "sea" else 1500) * t)
    optimizer = torch.optim.AdamW(judge.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        judge.training_step(batch, 0).backward()
        optimizer.step()
    assert [p["place"] for p in judge.predict(batch.waveform)] == [label["place"] for label in batch.labels]


def test_a_transposed_clip_is_the_same_shifted_by_a_pitch_class():
    torch.manual_seed(0)
    network = PitchNetwork(60, 8, 24).eval()
    for conv in (network.first, network.second):  # so that the edges of the range, which are padded by 0, say nothing
        torch.nn.init.zeros_(conv.bias)
    notes = torch.randn(1, 1, 20, 2)
    low = F.pad(notes - notes.mean(), (29, 29))  # in the middle of an octave, since octaves are folded by weights of their own
    embedded = [network(clip).unflatten(1, (2, 12)) for clip in (low, low.roll(1, 3))]
    torch.testing.assert_close(embedded[1], embedded[0].roll(1, 2), rtol=1e-4, atol=1e-6)
    assert (embedded[1] - embedded[0]).abs().amax() > 1e-3


def test_semitones_find_the_pitch_of_a_tone():
    t = torch.arange(16000) / 16000
    mel = Semitones(AudioConfig())(torch.stack([torch.sin(6.283185 * f * t) for f in (261.63, 277.18, 440.0)]))
    assert mel[:, 0, 5:-5].mean(1).argmax(1).tolist() == [24, 25, 33]  # above C2: C4, C sharp 4, A4
    assert mel.shape[2:] == Semitones(AudioConfig()).shape(16000)


def test_the_recurrent_judge_uses_order_and_rhythm_but_not_the_level_of_a_clip():
    torch.manual_seed(0)
    network, mel = RecurrentNetwork(16, 16, 8).eval(), torch.randn(2, 1, 32, 16)
    embedded = network(mel)
    torch.testing.assert_close(network(mel + 2.0), embedded, rtol=1e-4, atol=1e-4)
    backwards = mel.unflatten(2, (-1, 2)).flip(2).flatten(2, 3)  # whole steps in another order
    assert (network(backwards) - embedded).abs().max() > 1e-3
    louder = mel.clone()
    louder[:, :, ::4] += 2.0  # a beat: level alone
    assert (network(louder) - embedded).abs().max() > 1e-2
    floor = torch.full_like(mel, -11.5)
    torch.testing.assert_close(network(floor + 1e-3 * mel), network(floor), rtol=0, atol=1e-3)  # silence is no loud noise


def test_augmentation_is_the_samples_own_and_leaves_shape_and_most_of_the_sound(judged):
    torch.manual_seed(0)
    mel, noise = torch.randn(4, 1, 32, 16), torch.randn(4, 32, 16)
    made = augment(mel, noise)
    assert made.shape == mel.shape and not torch.equal(made, mel)
    torch.testing.assert_close(augment(mel[2:3], noise[2:3]), made[2:3])
    torch.testing.assert_close(augment(mel, torch.zeros_like(noise)), mel)


def test_a_written_judge_comes_back_and_refuses_other_audio(judged, tmp_path):
    config, judge = judged
    build.export_part(judge, config, tmp_path)
    again = build.judge(load_config("tiny", [f"judge.weights={tmp_path}"]))  # the weights bring their kind
    sound = torch.randn(2, 8192)
    assert again.attributes == judge.attributes and type(again.network) is NETWORKS[config.judge.kind][1]
    for name, logits in judge(sound).items():
        assert torch.equal(again(sound)[name], logits)
    with pytest.raises(WeightsError, match="audio.n_mels=16, but it is 8"):
        build.judge(load_config("tiny", [f"judge.weights={tmp_path}", "audio.n_mels=8"]))
    (tmp_path / "part.json").write_text("{")
    with pytest.raises(WeightsError) as error:
        build.judge(load_config("tiny", [f"judge.weights={tmp_path}"]))
    assert one_sentence(str(error.value))


def test_what_is_loaded_is_written_with_its_own_sizes(tmp_path):
    first = load_config("judge,tiny", ["judge.kind=recurrent", "judge.width=8"])
    build.export_part(build.part(first), first, tmp_path / "a")
    config = load_config("judge,tiny", [f"judge.weights={tmp_path / 'a'}"])  # says conv and another width
    build.export_part(build.judge(config), config, tmp_path / "b")
    assert (tmp_path / "a" / "part.json").read_text() == (tmp_path / "b" / "part.json").read_text()
    assert json.loads((tmp_path / "b" / "part.json").read_text())["sizes"]["kind"] == "recurrent"


@pytest.mark.parametrize("sizes", [{"nope": 1}, {"kind": "ears"}, {"width": "wide"}, {"width": 10**9}, {"attributes": 5}])
def test_sizes_that_no_judge_can_have_are_one_sentence(sizes, tmp_path):
    config = load_config("judge,tiny", [])
    build.export_part(build.part(config), config, tmp_path)
    tree = json.loads((tmp_path / "part.json").read_text())
    (tmp_path / "part.json").write_text(json.dumps(tree | {"sizes": tree["sizes"] | sizes}))
    with pytest.raises(WeightsError, match="part.json has sizes that no network can have") as error:
        build.judge(load_config("tiny", [f"judge.weights={tmp_path}"]))
    assert one_sentence(error.value)


def test_a_judge_from_before_there_were_kinds_is_the_convolutional_one(tmp_path):
    config = load_config("judge,tiny", [])
    judge = build.part(config)
    build.export_part(judge, config, tmp_path)
    tree = json.loads((tmp_path / "part.json").read_text())
    del tree["sizes"]["kind"]
    (tmp_path / "part.json").write_text(json.dumps(tree))
    again = build.judge(load_config("tiny", [f"judge.weights={tmp_path}", "judge.kind=recurrent"]))
    sound = torch.randn(2, 8192)
    assert type(again.network) is JudgeNetwork and torch.equal(again(sound)["place"], judge(sound)["place"])


def test_an_unknown_kind_is_a_sentence():
    with pytest.raises(ConfigError, match="did you mean 'recurrent'") as error:
        load_config("judge,tiny", ["judge.kind=recurent"])
    assert one_sentence(error.value)
