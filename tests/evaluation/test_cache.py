"""Real clips are heard once by the same networks, and anew as soon as anything differs that they depend on."""

import building as build
import pytest
import torch

from melfusion.data.datamodule import MusicDataModule
from melfusion.evaluation.cache import hear_real, hear_reconstructions
from melfusion.evaluation.scoring import Ears, Heard
from melfusion.listeners.embedders import Embedder


class Ear(torch.nn.Module):
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
    """(config, ears, count): a small data set of its own, who listens, and how many clips it has been given since last asked."""
    from data_fixtures import data_set, make_sample

    data_set(tmp_path / "set", [make_sample(f"{split}{i}", split) for split in ("val", "test") for i in range(5)])
    config, ear = tiny(f"data.path={tmp_path}/set"), Ear()

    def count():
        ear.clips, given = 0, ear.clips
        return given

    return config, Ears(config.audio, None, [Embedder("ear", ear)]), count


def of(config, split="val", seed=0):
    return MusicDataModule(config.data, config.audio, seed).dataset(split)


def test_the_same_clips_are_heard_once(data, tmp_path):
    config, ears, count = data
    first = hear_real(ears, of(config), 2)
    assert count() == 5 and len(list((tmp_path / "set-heard").iterdir())) == 1
    again = hear_real(ears, of(config), 3)
    assert count() == 0 and again.keys == first.keys and torch.equal(again.embeddings["ear"], first.embeddings["ear"])
    hear_real(ears, of(config).first(3), 2)
    hear_real(ears, of(config, "test"), 2)
    assert count() == 3 + 5  # other clips
    louder = config.audio.loudness_dbfs
    config.audio.loudness_dbfs = louder - 3
    hear_real(Ears(config.audio, None, ears.embedders), of(config), 2)
    assert count() == 5  # another contract
    config.audio.loudness_dbfs = louder
    other = Ear(2.0)
    assert not torch.equal(
        hear_real(Ears(config.audio, None, [Embedder("ear", other)]), of(config), 2).embeddings["ear"], first.embeddings["ear"]
    )
    assert other.clips == 5 and count() == 0  # another network


def test_another_data_set_in_the_same_place_is_heard(data, tmp_path):
    import shutil

    from data_fixtures import data_set, make_sample

    config, ears, count = data
    hear_real(ears, of(config), 5)
    shutil.rmtree(tmp_path / "set")
    data_set(tmp_path / "set", [make_sample(f"val{i}", "val", frequency=900) for i in range(5)])
    count()
    hear_real(ears, of(config), 5)
    assert count() == 5


def test_reconstructions_are_those_of_their_voice(data):
    config, ears, count = data
    system = build.system(config).eval()
    real = hear_real(ears, of(config), 5)
    first = hear_reconstructions(ears, system, of(config), 5)
    assert count() == 10 and not torch.equal(first.embeddings["ear"], real.embeddings["ear"])
    hear_reconstructions(ears, system, of(config), 5)
    assert count() == 0
    with torch.no_grad():
        next(system.codec.music_vae.parameters()).add_(0.01)
    hear_reconstructions(ears, system, of(config), 5)
    assert count() == 5
    system.codec.vocoder.network.iterations += 1  # Griffin-Lim
    hear_reconstructions(ears, system, of(config), 5)
    assert count() == 5
    system.codec.vocoder.corrections += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("melfusion.models.vocoder.corrected", lambda waveform, *_: waveform)
        hear_reconstructions(ears, system, of(config), 5)
    assert count() == 5


def test_what_is_damaged_is_heard_anew_and_what_cannot_be_kept_is_heard_all_the_same(data, tmp_path, caplog):
    config, ears, count = data
    first = hear_real(ears, of(config), 5)
    (file,) = (tmp_path / "set-heard").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", b"no archive", whole[: len(whole) // 2], whole[:-30]):
        file.write_bytes(damaged)
        count()
        assert hear_real(ears, of(config), 5).keys == first.keys and count() == 5
        assert file.read_bytes()[:2] == b"PK" and [f.name for f in file.parent.iterdir()] == [file.name]
    torch.save([1], file)
    assert Heard.kept(file, first.keys) is None
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("no folder")
    assert hear_real(ears, of(config), 5).keys == first.keys and "is not kept" in caplog.text
