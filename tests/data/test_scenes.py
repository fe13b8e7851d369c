"""The corpus `scenes`: pure in (seed, index); factors independent, each in the music or the picture where it should be only."""

import importlib.util
import io
import re

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw

from melfusion.data.scenes import corpus as scenes
from melfusion.data.scenes import music as scenes_music
from melfusion.data.scenes import sound as scenes_sound
from melfusion.data.scenes.picture import enlarged
from melfusion.errors import DataError

FACTORS = {"place": scenes.PLACES, "time": scenes.TIMES, "weather": scenes.WEATHERS, "tonic": scenes.TONICS, "mode": scenes.MODES}
SAMPLE_RATE_HZ, DURATION_S = 16000, 5.12


def _missing() -> str:
    """Why nothing can be rendered here; empty when it can."""
    try:
        scenes.soundfont_path()
    except DataError as error:
        return str(error)
    return "" if importlib.util.find_spec("tinysoundfont") else f"tinysoundfont is missing; {scenes_sound.INSTALL}"


needs_sound = pytest.mark.skipif(bool(_missing()), reason=_missing() or "sound is available")


def _labels(described: list[scenes.Scene], factor: str) -> np.ndarray:
    return np.array([FACTORS[factor].index(getattr(scene, factor)) for scene in described])


def _centroid_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """How often the nearest class mean of the first two thirds names the class of the last third; features (N, D)."""
    cut = 2 * len(features) // 3
    features = (features - features[:cut].mean(0)) / (features[:cut].std(0) + 1e-6)
    classes = np.unique(labels[:cut])
    centroids = np.stack([features[:cut][labels[:cut] == c].mean(0) for c in classes])
    distances = ((features[cut:, None] - centroids) ** 2).sum(-1)
    return float((classes[distances.argmin(1)] == labels[cut:]).mean())


def _log_spectrogram(waveform: np.ndarray) -> np.ndarray:
    """(S,) at 16 kHz → log energies in 40 bands of equal ratio, a frame every 10 ms: (T, 40)."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 512)[::160] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.unique(np.geomspace(2, 257, 41).astype(int))
    return np.log(np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1) + 1e-4)


def _rhythm(log_spectrogram: np.ndarray) -> np.ndarray:
    """Autocorrelation of the onsets in three bands, up to 1.8 s: where the beat repeats."""
    onsets = np.clip(np.diff(log_spectrogram, axis=0), 0, None)
    rows = []
    for band in np.array_split(onsets, 3, axis=1):
        envelope = band.mean(1) - band.mean()
        correlation = np.correlate(envelope, envelope, "full")[len(envelope) - 1 :]
        rows.append(correlation[1:181] / correlation[0])
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def pieces() -> tuple[list[scenes.Scene], list[np.ndarray]]:
    described = [scenes.describe(3, index) for index in range(108)]
    return described, [scenes.render(scene) for scene in described]


def test_factors_are_balanced_and_independent():
    described = [scenes.describe(0, index) for index in range(6000)]
    for start in range(0, 600, 6):
        assert {scene.place for scene in described[start : start + 6]} == set(scenes.PLACES)
    columns = {factor: _labels(described, factor) for factor in FACTORS}
    columns["parity"] = np.arange(6000) % 2
    columns["index % 6"] = np.arange(6000) % 6
    columns["the time before"] = np.roll(columns["time"], 1)
    names = list(columns)
    for i, first in enumerate(names):
        assert np.bincount(columns[first]).min() > 0.8 * 6000 / (columns[first].max() + 1), first
        for second in names[i + 1 :]:
            if {first, second} == {"parity", "index % 6"}:
                continue
            table = np.zeros((columns[first].max() + 1, columns[second].max() + 1))
            np.add.at(table, (columns[first], columns[second]), 1)
            expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
            freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
            assert ((table - expected) ** 2 / expected).sum() < freedom + 4.5 * np.sqrt(2 * freedom), (first, second)


def test_seeds_give_different_corpora():
    assert [scenes.describe(0, i) for i in range(12)] == [scenes.describe(0, i) for i in range(12)]
    assert [scenes.describe(0, i).tonic for i in range(12)] != [scenes.describe(1, i).tonic for i in range(12)]
    with pytest.raises(ValueError, match="at least 0"):
        scenes.describe(0, -1)


def test_caption_tells_the_key_and_nothing_else():
    hidden = {*scenes.PLACES, *scenes.TIMES, *scenes.WEATHERS, "bpm", "tempo", "beats", "drums", "percussion", "sky"}
    for table in (scenes.PLACE_WORDS, scenes.TIME_WORDS, scenes.WEATHER_WORDS, scenes.PACE_WORDS):
        hidden |= set(" ".join(table.values()).split())
    hidden |= set(" ".join(i.name for i in scenes_music.INSTRUMENTS.values()).split())
    hidden |= set(re.findall("[a-z]+", " ".join(g.words for g in scenes_music.GROOVES.values())))
    hidden -= {"a", "the", "in", "and", "with", "music"}
    wordings = set()
    for index in range(300):
        scene = scenes.describe(0, index)
        caption, full = scenes.caption(scene), scenes.full_caption(scene)
        assert f"{scene.tonic} {scene.mode}" in caption and f"{scene.tonic} {scene.mode}" in full
        assert not set(re.findall("[a-z0-9]+", caption.lower())) & hidden, caption
        for told in (scenes.PLACE_WORDS[scene.place], scene.time, scene.weather, scenes_music.INSTRUMENTS[scene.place].name):
            assert told in full
        wordings.add(caption.replace(f"{scene.tonic} {scene.mode}", ""))
    assert len(wordings) == len(scenes.CAPTIONS)


def test_small_pictures_show_place_time_and_weather_but_not_the_key():
    described = [scenes.describe(5, index) for index in range(162)]
    pixels = np.stack([np.asarray(scenes.draw(scene, 32), float) for scene in described])
    assert pixels.shape == (162, 32, 32, 3)
    # Rows, as things stand anywhere in them: colour, its spread, and edges both ways, which rain and snow add.
    edges = [np.abs(np.diff(pixels, axis=axis)).mean(axis=2) for axis in (1, 2)]
    rows = np.concatenate([pixels.mean(axis=2), pixels.std(axis=2), *edges], axis=1).reshape(162, -1)
    accuracy = {factor: _centroid_accuracy(rows, _labels(described, factor)) for factor in FACTORS}
    assert accuracy["place"] > 0.65 and accuracy["time"] > 0.8 and accuracy["weather"] > 0.75, accuracy
    assert accuracy["tonic"] < 0.25 and 0.28 < accuracy["mode"] < 0.72, accuracy


def test_picture_is_rgb_and_varies_between_scenes_of_equal_factors():
    picture = scenes.draw(scenes.Scene(1, 0, "sea", "noon", "clear", "C", "major"))
    again = scenes.draw(scenes.Scene(1, 0, "sea", "noon", "clear", "G", "minor"))
    other = scenes.draw(scenes.Scene(2, 0, "sea", "noon", "clear", "C", "major"))
    assert picture.mode == "RGB" and picture.size == (128, 128)
    assert picture.tobytes() == again.tobytes() != other.tobytes()


def test_clouds_are_the_pixels_of_the_whole_layer_enlarged():
    ground = Image.effect_noise((512, 512), 80).convert("RGB")
    for place in ((0, -20, 128, 30), (30, 40, 70, 70), (0, 100, 60, 140)):
        layer = Image.new("RGBA", (128, 128), (88, 96, 112, 0))
        ImageDraw.Draw(layer).ellipse(place, fill=(88, 96, 112, 235))
        whole, part = layer.resize((512, 512), Image.Resampling.BICUBIC), enlarged(layer)
        wanted, made = ground.copy(), ground.copy()
        wanted.paste(whole, (0, 0), whole)
        made.paste(part, (0, 0), part)
        assert part.height <= min(512, 4 * place[3] + 40) and made.tobytes() == wanted.tobytes()
    assert enlarged(Image.new("RGBA", (128, 128), (88, 96, 112, 0))) is None


def test_composition_stays_in_its_key():
    for index in range(200):
        scene = scenes.describe(0, index)
        notes = [note for note in scenes.compose(scene) if not note.drum]
        tonic = scenes.TONICS.index(scene.tonic)
        degrees = {(note.pitch - tonic) % 12 for note in notes}
        assert degrees <= {*scenes_music.SCALES[scene.mode], *([11] if scene.mode == "minor" else [])}
        assert {0, 7, 4 if scene.mode == "major" else 3} <= degrees
        first = [note for note in notes if note.start_s == 0]
        assert min(first, key=lambda note: note.pitch).pitch % 12 == tonic
        assert all(0 <= note.start_s < DURATION_S and 21 <= note.pitch <= 108 and 0 < note.velocity <= 1 for note in notes)


def test_tempo_is_the_times_with_little_jitter():
    for index in range(100):
        scene = scenes.describe(0, index)
        assert abs(scenes.tempo_bpm(scene) / scenes_music.TEMPOS_BPM[scene.time] - 1) <= scenes_music.TEMPO_JITTER


@needs_sound
def test_sound_is_finite_exact_in_length_and_never_clips(pieces):
    for waveform in pieces[1]:
        assert waveform.dtype == np.float32 and waveform.shape == (round(DURATION_S * SAMPLE_RATE_HZ),)
        assert np.isfinite(waveform).all()
        assert np.abs(waveform).max() == pytest.approx(scenes_sound.PEAK, abs=1e-3)
        assert np.abs(waveform[: SAMPLE_RATE_HZ // 10]).max() > 0.02  # the music begins at once
        assert abs(waveform[-1]) < 1e-3
    scene = pieces[0][0]
    assert scenes.render(scene, 0.51, 22050).shape == (round(0.51 * 22050),)
    with pytest.raises(ValueError, match="at least 0.1 s"):
        scenes.render(scene, 0.0)


@needs_sound
def test_sound_tells_place_time_and_weather(pieces):
    described, waveforms = pieces
    spectra = [_log_spectrogram(waveform) for waveform in waveforms]
    timbre = np.stack([np.concatenate([s.mean(0), s.std(0)]) for s in spectra])
    rhythm = np.stack([_rhythm(s) for s in spectra])
    accuracy = {
        "place": _centroid_accuracy(timbre, _labels(described, "place")),
        "time": _centroid_accuracy(rhythm, _labels(described, "time")),
        "weather": _centroid_accuracy(np.concatenate([timbre, rhythm], 1), _labels(described, "weather")),
    }
    assert accuracy["place"] > 0.75 and accuracy["time"] > 0.75 and accuracy["weather"] > 0.6, accuracy


@needs_sound
def test_a_sample_is_the_same_bytes_whatever_was_made_before():
    first = scenes.sample(7, 11, "train")
    scenes.sample(7, 12, "train")
    assert scenes.sample(7, 11, "train") == first
    audio, rate = soundfile.read(io.BytesIO(first.audio))
    assert rate == SAMPLE_RATE_HZ and audio.shape == (81920,)
    assert soundfile.info(io.BytesIO(first.audio)).subtype == "PCM_16"
    assert Image.open(io.BytesIO(first.image)).size == (128, 128)
    assert set(first.meta["labels"]) == {*FACTORS, "tempo_bpm"}
    assert (first.audio_ext, first.image_ext) == ("flac", "png")


@needs_sound
def test_splits_are_disjoint_and_do_not_move_when_another_grows():
    def keys(counts: dict[str, int]) -> dict[str, set[str]]:
        made = list(scenes.samples(0, counts, 0.2, SAMPLE_RATE_HZ, 32))
        assert all(re.fullmatch("[A-Za-z0-9_-]+", sample.key) for sample in made)
        return {split: {s.key for s in made if s.meta["split"] == split} for split in counts}

    small, large = keys({"train": 3, "test": 4}), keys({"train": 8, "extra": 2, "test": 4})
    assert small["test"] == large["test"] and small["train"] < large["train"]
    assert len(set.union(*large.values())) == 14
    with pytest.raises(ValueError, match="-1"):
        next(scenes.samples(0, {"train": -1}, 0.2, SAMPLE_RATE_HZ, 32))


@needs_sound
def test_contract_names_version_and_sound():
    contract = scenes.contract()
    assert contract["version"] == scenes.VERSION and len(contract["soundfont_sha256"]) == 64
    assert contract["tinysoundfont"]


def test_a_missing_soundfont_tells_the_command(monkeypatch):
    monkeypatch.setattr(scenes_sound, "SOUNDFONT", ("no_such_package", "none.sf2"))
    with pytest.raises(DataError, match="pip install --no-deps"):
        scenes.soundfont_path()


def test_several_processes_draw_the_same_bytes_in_the_same_order():
    splits = {"train": 9, "val": 2}
    one, two = (list(scenes.samples(3, splits, duration_s=0.5, processes=n)) for n in (1, 2))
    assert [s.key for s in one] == [s.key for s in two] and len(one) == 11
    assert all((a.audio, a.image, a.meta) == (b.audio, b.image, b.meta) for a, b in zip(one, two, strict=True))
