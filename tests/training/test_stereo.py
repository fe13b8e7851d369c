"""A codec over stereo, through the whole way: data set, training, clips of validation, precompute, generation, listeners."""

import dataclasses
from pathlib import Path

import building as build
import numpy as np
import pytest
import soundfile
import soxr
import torch
from data_fixtures import data_set, encoded, make_sample, noise_picture, one_sentence, sound, tone

from melfusion.assembly.configuration import load_config
from melfusion.data.datamodule import MusicDataModule
from melfusion.errors import WeightsError
from melfusion.evaluation.clips import read_clips, real_clips, reconstructions
from melfusion.evaluation.scoring import Listeners
from melfusion.listeners.embedders import Embedder
from melfusion.training.run import stage_config, train
from melfusion.training.stored_samples import compute
from melfusion.verbs import generate

OWN = ("codec.kind=oobleck", "denoiser.kind=stable_audio", "synapse.kind=concat", "synapse.layers=[all]", "audio.channels=2")


def stereo(i):
    """A sample with another tone in each channel."""
    both = np.stack([tone(1.5, 8000, 200 + 37 * i), tone(1.5, 8000, 400 + 37 * i, 0.1)], axis=1)
    labels = {"place": "sea", "time": "noon", "weather": "rain"}
    return make_sample(f"s{i}", "train" if i < 4 else "val", sound(both), image=encoded(noise_picture(i)), labels=labels)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stereo")
    data_set(folder / "data", [stereo(i) for i in range(8)])
    own = [*OWN, f"data.path={folder / 'data'}", f"runs_dir={folder}", "trainer.max_steps=1", "trainer.val_every_n_steps=1"]
    return load_config("tiny", [*own, "audio.clip_duration_s=1.02"])  # 8,160 samples: no multiple of the hop


@pytest.fixture(scope="module")
def items(config):
    return MusicDataModule(config.data, config.audio, config.seed).dataset("val")


def test_a_run_trains_on_stereo_and_writes_stereo(config, tmp_path):
    assert np.isfinite(train(config)["val/loss"])
    run = Path(config.runs_dir) / "tiny"
    (media,) = (run / "samples").glob("*.wav")
    made = generate.run(generate.Options(ckpt=str(run), prompt="rain", num_inference_steps=1, out=str(tmp_path / "a.wav")), [])
    for file in (media, *made):
        clip, rate = soundfile.read(file)
        assert rate == 8000 and clip.shape == (8160, 2) and np.abs(clip[:, 0] - clip[:, 1]).max() > 1e-3


def test_what_is_precomputed_are_the_moments_of_both_channels(config, items):
    system = build.system(config).eval()
    (_, waveform), *_ = real_clips(items, 2)
    assert waveform.shape == (2, 2, 8160) and not torch.equal(waveform[:, 0], waveform[:, 1])
    batch = next(iter(MusicDataModule(config.data, config.audio, config.seed).val_dataloader()))
    stored = compute(system, batch)["latent_moments"]
    assert stored.shape[1:] == (32, 128) and torch.equal(stored, system.codec.encode_moments(batch.waveform))
    _, again = next(reconstructions(system, items, 2))
    assert again.shape == (2, 2, 8160)


class Level(torch.nn.Module):
    sample_rate_hz = 4000

    def forward(self, waveform):
        assert waveform.shape[1] == 4080
        return waveform.square().mean(1).sqrt()[:, None, None]


def test_listeners_get_the_mean_of_the_channels_at_their_rate_and_level(config, items, tmp_path):
    listeners = Listeners(config.audio, None, [Embedder("level", Level())])
    clips = [waveform for _, waveform in real_clips(items, 4)]
    level = listeners.predict([(["a"] * 4, clips[0])]).embeddings["level"].flatten()
    assert level.tolist() == pytest.approx([0.1] * 4, rel=1e-2)  # -20 dB of the mean, not of both channels
    for i, clip in enumerate(clips[0]):
        soundfile.write(tmp_path / f"{i}.wav", clip.numpy().T, 8000, subtype="FLOAT")
    ((_, read),) = read_clips(sorted(tmp_path.glob("*.wav")), config.audio, 4)
    assert torch.equal(read, clips[0])


def test_a_judge_of_another_rate_gets_what_it_was_trained_for(config, tmp_path):
    own = load_config("judge,tiny", ["audio.sample_rate_hz=4000", "audio.f_max_hz=2000"])
    judge = build.part(own).eval()
    build.export_part(judge, own, tmp_path)
    there = dataclasses.replace(config, judge=dataclasses.replace(config.judge, weights=str(tmp_path)))
    waveform = 0.1 * torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))
    halved = torch.from_numpy(soxr.resample(waveform.numpy().T, 8000, 4000).T.copy())
    made, wanted = build.judge(there).eval()(waveform), judge(halved)
    assert all(torch.equal(made[name], wanted[name]) for name in wanted)
    mel = load_config("tiny", [f"judge.weights={tmp_path}"])
    with pytest.raises(WeightsError, match="was trained for audio.sample_rate_hz=4000, but it is 8000 here") as error:
        build.judge(mel)
    one_sentence(error.value)


def test_a_part_of_a_stereo_system_trains_on_one_channel(config):
    of_system = dataclasses.replace(config, judge=dataclasses.replace(config.judge, weights="run:ear"))
    stage = stage_config(of_system, "judge")
    assert stage.codec.kind == "oobleck" and stage.audio.channels == 2
    stage.trainer.max_steps = stage.trainer.val_every_n_steps = 1
    assert np.isfinite(train(stage)["val/loss"])
