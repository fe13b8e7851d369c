"""Predictions of real clips are made once by the same networks, and again where anything differs that they depend on."""

import building as build
import pytest
import torch

from melfusion.data.datamodule import MusicDataModule
from melfusion.evaluation.cache import predict_real, predict_reconstructions
from melfusion.evaluation.scoring import Listeners, Predictions
from melfusion.listeners.embedders import Embedder


class MeanMagnitude(torch.nn.Module):
    """Embeds a clip as its mean magnitude times a weight; counts the clips that it is given."""

    sample_rate_hz = 8000

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight, self.clips = torch.nn.Parameter(torch.tensor(weight)), 0

    def forward(self, waveform):
        self.clips += len(waveform)
        return (self.weight * waveform.abs().mean(1))[:, None, None]


@pytest.fixture
def data(tiny, tmp_path):
    """(config, listeners, count): a small data set, its listeners, and how many clips they were given since the last count."""
    from data_fixtures import data_set, make_sample

    data_set(tmp_path / "set", [make_sample(f"{split}{i}", split) for split in ("val", "test") for i in range(5)])
    config, ear = tiny(f"data.path={tmp_path}/set"), MeanMagnitude()

    def count():
        ear.clips, given = 0, ear.clips
        return given

    return config, Listeners(config.audio, None, [Embedder("ear", ear)]), count


def of(config, split="val", seed=0):
    return MusicDataModule(config.data, config.audio, seed).dataset(split)


def test_predictions_of_the_same_clips_are_made_once(data, tmp_path):
    config, listeners, count = data
    first = predict_real(listeners, of(config), 2)
    assert count() == 5 and len(list((tmp_path / "set-predictions").iterdir())) == 1
    again = predict_real(listeners, of(config), 3)
    assert count() == 0 and again.keys == first.keys and torch.equal(again.embeddings["ear"], first.embeddings["ear"])
    predict_real(listeners, of(config).first(3), 2)
    predict_real(listeners, of(config, "test"), 2)
    assert count() == 3 + 5  # other clips
    louder = config.audio.loudness_dbfs
    config.audio.loudness_dbfs = louder - 3
    predict_real(Listeners(config.audio, None, listeners.embedders), of(config), 2)
    assert count() == 5  # another contract
    config.audio.loudness_dbfs = louder
    other = MeanMagnitude(2.0)
    assert not torch.equal(
        predict_real(Listeners(config.audio, None, [Embedder("ear", other)]), of(config), 2).embeddings["ear"],
        first.embeddings["ear"],
    )
    assert other.clips == 5 and count() == 0  # another network


def test_predictions_of_another_data_set_in_the_same_place_are_made(data, tmp_path):
    import shutil

    from data_fixtures import data_set, make_sample

    config, listeners, count = data
    predict_real(listeners, of(config), 5)
    shutil.rmtree(tmp_path / "set")
    data_set(tmp_path / "set", [make_sample(f"val{i}", "val", frequency=900) for i in range(5)])
    count()
    predict_real(listeners, of(config), 5)
    assert count() == 5


def test_reconstructions_are_those_of_their_decoder(data):
    config, listeners, count = data
    system = build.system(config).eval()
    real = predict_real(listeners, of(config), 5)
    first = predict_reconstructions(listeners, system, of(config), 5)
    assert count() == 10 and not torch.equal(first.embeddings["ear"], real.embeddings["ear"])
    predict_reconstructions(listeners, system, of(config), 5)
    assert count() == 0
    with torch.no_grad():
        next(system.codec.music_vae.parameters()).add_(0.01)
    predict_reconstructions(listeners, system, of(config), 5)
    assert count() == 5
    system.codec.vocoder.network.iterations += 1  # Griffin-Lim
    predict_reconstructions(listeners, system, of(config), 5)
    assert count() == 5
    system.codec.vocoder.corrections += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("melfusion.models.vocoder.corrected", lambda waveform, *_: waveform)
        predict_reconstructions(listeners, system, of(config), 5)
    assert count() == 5


def test_damaged_files_are_made_again_and_where_none_can_be_kept_nothing_fails(data, tmp_path, caplog):
    config, listeners, count = data
    first = predict_real(listeners, of(config), 5)
    (file,) = (tmp_path / "set-predictions").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", b"no archive", whole[: len(whole) // 2], whole[:-30]):
        file.write_bytes(damaged)
        count()
        assert predict_real(listeners, of(config), 5).keys == first.keys and count() == 5
        assert file.read_bytes()[:2] == b"PK" and [f.name for f in file.parent.iterdir()] == [file.name]
    torch.save([1], file)
    assert Predictions.load(file, first.keys) is None
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("no folder")
    assert predict_real(listeners, of(config), 5).keys == first.keys and "are not kept in" in caplog.text
