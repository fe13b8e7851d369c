"""The judge: what it hears, what it ignores, and that it learns."""

import pytest
import torch
import torch.nn.functional as F
from data_fixtures import one_sentence

from melfusion import build
from melfusion.config import load_config
from melfusion.judge import augment, cross_entropy
from melfusion.weights_source import WeightsError


@pytest.fixture
def judged():
    config = load_config("judge,tiny", [])
    return config, build.part(config)


def test_it_hears_one_class_of_each_attribute_whatever_the_length(judged):
    config, judge = judged
    for samples in (8192, 4096):
        heard = judge.hear(torch.randn(3, samples))
        assert len(heard) == 3
        assert all(h[name] in classes for h in heard for name, classes in config.judge.attributes.items())


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
    assert [h["place"] for h in judge.hear(batch.waveform)] == [label["place"] for label in batch.labels]


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
    again = build.judge(load_config("tiny", [f"judge.weights={tmp_path}"]))
    sound = torch.randn(2, 8192)
    assert again.attributes == judge.attributes
    for name, logits in judge(sound).items():
        assert torch.equal(again(sound)[name], logits)
    with pytest.raises(WeightsError, match="audio.n_mels=16, but it is 8"):
        build.judge(load_config("tiny", [f"judge.weights={tmp_path}", "audio.n_mels=8"]))
    (tmp_path / "part.json").write_text("{")
    with pytest.raises(WeightsError) as error:
        build.judge(load_config("tiny", [f"judge.weights={tmp_path}"]))
    assert one_sentence(str(error.value))
