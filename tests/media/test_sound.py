"""Sound bytes → waveform → log-mel, against formulas written out here and with the inputs people really have."""

import dataclasses
import io
import math
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr
import torch
from data_fixtures import chord, sound, tone
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from melfusion.assembly.configuration import load_config
from melfusion.errors import BadSample
from melfusion.media.mel import AudioGeometry, LogMel
from melfusion.media.options import AudioConfig
from melfusion.media.sound import crop_clip, normalise_level, pad_clip, read_audio, write_wav
from melfusion.models.griffin_lim import GriffinLim

PUBLISHED = AudioConfig()
SMALL = AudioConfig(
    sample_rate_hz=8000, n_fft_samples=256, hop_length_samples=128, n_mels=16, f_max_hz=4000.0, clip_duration_s=1.024
)


def db(amplitude: float) -> float:
    return 20 * math.log10(amplitude)


def rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


def slaney_filters(audio: AudioConfig) -> np.ndarray:
    """(n_fft/2 + 1, F): triangles at equal steps of Slaney's mel scale, each of area 1 Hz⁻¹."""

    def mel(hz):
        return 3 * hz / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)

    def hz(mel):
        return 200 * mel / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)

    edges = [hz(m) for m in np.linspace(mel(audio.f_min_hz), mel(audio.f_max_hz), audio.n_mels + 2)]
    bins = np.arange(audio.n_fft_samples // 2 + 1) * audio.sample_rate_hz / audio.n_fft_samples
    filters = np.zeros((len(bins), audio.n_mels))
    for i, (low, top, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rising, falling = (bins - low) / (top - low), (high - bins) / (high - top)
        filters[:, i] = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return filters


def reference_log_mel(waveform: np.ndarray, audio: AudioConfig) -> np.ndarray:
    """(S,) → (T, F) in float64: frame by frame, each centred on the middle of its hop, or on its first sample."""
    n, hop = audio.n_fft_samples, audio.hop_length_samples
    pad = n // 2 if audio.framing == "centred" else (n - hop) // 2
    padded = np.concatenate([waveform[pad:0:-1], waveform, waveform[-2 : -pad - 2 : -1]]).astype(np.float64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    frames = [padded[i * hop : i * hop + n] * window for i in range(len(waveform) // hop)]
    return np.log(np.maximum(np.abs(np.fft.rfft(frames)) @ slaney_filters(audio), 1e-5))


TANGO = load_config("melfusion").audio
FRONT_ENDS = {"published": PUBLISHED, "tiny": SMALL, "scenes": load_config("scenes").audio, "tango": TANGO}


@pytest.mark.parametrize("audio", FRONT_ENDS.values(), ids=FRONT_ENDS)
def test_log_mel_equals_the_formulas(audio):
    rng = np.random.default_rng(0)
    length = 40 * audio.hop_length_samples
    noise = rng.standard_normal(length) * np.linspace(0, 0.3, length)
    for waveform in (noise, chord(length / audio.sample_rate_hz, audio.sample_rate_hz), np.zeros(length)):
        waveform = waveform.astype(np.float32)
        got = LogMel(audio)(torch.from_numpy(waveform)[None])[0, 0].numpy()
        wanted = reference_log_mel(waveform, audio)
        assert got.shape == wanted.shape == (40, audio.n_mels)
        loud = wanted > -9  # below it float32's rounding of a loud frame shows
        np.testing.assert_allclose(got[loud], wanted[loud], atol=1e-4)
        np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_a_batch_has_the_log_mel_bits_of_its_spectrogram():
    mel = LogMel(AudioConfig())
    waveform = torch.randn(3, 16000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mel(waveform), mel.mel(mel.spectrum(waveform).abs()).log()[:, None])


def test_the_centred_log_mel_is_that_of_another_library():
    """As Tango's code computes it: `center=True` with n_fft/2 reflected, and 1025 frames cut to 1024."""
    waveform = chord(TANGO.clip_duration_s, TANGO.sample_rate_hz).astype(np.float32)
    filters = mel_filter_bank(513, 64, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney")
    wanted = spectrogram(
        waveform,
        window_function(1024, "hann"),
        1024,
        160,
        1024,
        power=1.0,
        center=True,
        pad_mode="reflect",
        mel_filters=filters,
        mel_floor=1e-5,
        log_mel="log",
    ).T
    got = LogMel(TANGO)(torch.from_numpy(waveform)[None])[0, 0].numpy()
    assert wanted.shape == (1025, 64) and got.shape == (1024, 64)
    np.testing.assert_allclose(got, wanted[:1024], atol=2e-3)


def test_published_framings_lie_half_a_hop_apart():
    click = torch.zeros(1, 16000)
    click[0, 8000] = 1  # sample 50 · 160
    loud = {f: LogMel(AudioConfig(framing=f))(click)[0, 0].exp().sum(-1).numpy() for f in ("centred", "hifigan")}
    assert loud["centred"].argmax() == 50 and loud["centred"][49] == pytest.approx(loud["centred"][51], rel=1e-3)
    assert loud["hifigan"][49] == pytest.approx(loud["hifigan"][50], rel=1e-3)  # their middles are 80 samples away


def test_silence_is_the_floor_and_louder_is_larger():
    mel = LogMel(SMALL)
    waveform = torch.from_numpy(chord(1.024, 8000)).float()[None]
    assert torch.equal(mel(torch.zeros(1, 8192)), torch.full((1, 1, 64, 16), math.log(1e-5)))
    audible = mel(waveform) > -8
    assert audible.float().mean() > 0.5
    gained = (mel(2 * waveform) - mel(waveform))[audible]
    torch.testing.assert_close(gained, torch.full_like(gained, math.log(2)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("hops", [3, 10, 64])
def test_frames_are_samples_over_hop(hops):
    assert LogMel(SMALL)(torch.zeros(2, 128 * hops)).shape == (2, 1, hops, 16)
    assert LogMel(SMALL)(torch.zeros(1, 128 * hops + 127)).shape == (1, 1, hops, 16)


def test_frames_are_samples_over_hop_for_an_odd_hop():
    audio = AudioConfig(sample_rate_hz=44100, n_fft_samples=2048, hop_length_samples=441, f_max_hz=16000.0)
    assert LogMel(audio)(torch.zeros(1, 4410)).shape[2] == 10


def test_geometry_of_the_published_model():
    geometry = AudioGeometry(PUBLISHED)
    assert (geometry.num_samples, geometry.num_frames) == (163840, 1024)
    assert geometry.latent_shape(8, 4) == (8, 256, 16)


# The error of the whole way back, so that a change of either side shows: measured 0.155 nats (1.3 dB) and 0.005
@pytest.mark.parametrize(("audio", "bound"), [(PUBLISHED, 0.18), (SMALL, 0.01), (TANGO, 0.18)], ids=["published", "tiny", "tango"])
def test_griffin_lim_brings_the_mel_of_a_chord_back(audio, bound):
    waveform = torch.from_numpy(chord(1.024, audio.sample_rate_hz)).float()[None]
    mel = LogMel(audio)
    wanted = mel(waveform)
    back = mel(GriffinLim(audio, iterations=32)(wanted))
    loud = wanted > wanted.amax() - 7  # 60 dB
    error = float((back - wanted)[..., 4:-4, :][loud[..., 4:-4, :]].abs().mean())
    assert error < bound, f"{error:.3f} nats"


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_channels_are_averaged(kind):
    channels = np.stack([tone(1, 8000, f, 0.2) for f in (300, 500, 700)], axis=1)
    waveform = read_audio(sound(channels, 8000, kind), SMALL)
    assert waveform.dtype == np.float32 and waveform.shape == (8000,)
    np.testing.assert_allclose(waveform, channels.mean(1), atol=1e-4)


@pytest.mark.parametrize("kind", ["OGG", "MP3"])
def test_lossy_formats_are_read(kind):
    wanted = tone(2, 44100, 440)
    waveform = read_audio(sound(wanted, 44100, kind), SMALL)
    assert abs(len(waveform) - 16000) < 800
    spectrum = np.abs(np.fft.rfft(waveform[2000:10000]))
    assert spectrum.argmax() == 440 and rms(waveform[2000:10000]) == pytest.approx(rms(wanted), rel=0.05)


@pytest.mark.parametrize("rate", [4000, 22050, 44100, 48000])
def test_resampling_keeps_length_pitch_and_level(rate):
    waveform = read_audio(sound(tone(1.5, rate, 1000), rate), SMALL)
    assert len(waveform) == 12000
    middle = waveform[2000:10000]
    assert np.abs(np.fft.rfft(middle)).argmax() == 1000 and rms(middle) == pytest.approx(0.3 / 2**0.5, rel=0.01)


def test_resampling_leaves_no_alias():
    middle = read_audio(sound(tone(1.5, 44100, 7000), 44100), SMALL)[2000:10000]  # would fold to 1 kHz
    assert db(rms(middle)) < -80


def test_unreadable_audio_says_so():
    for data in (b"", b"RIFF", b"not a sound" * 99, sound(tone(1, 8000), kind="FLAC")[:60]):
        with pytest.raises(BadSample, match="^unreadable audio$"):
            read_audio(data, SMALL)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(value):
    waveform = tone(1, 8000)
    waveform[500] = value
    with pytest.raises(BadSample, match="^audio holds NaN or infinity$"):
        read_audio(sound(waveform, 8000, subtype="FLOAT"), SMALL)


def test_too_long_audio_is_refused_before_it_is_decoded(monkeypatch):
    data = sound(np.zeros(8000 * 3), 8000, "FLAC")
    read_audio(data, SMALL, max_audio_s=3.0)

    def read(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    with pytest.raises(BadSample, match="^audio longer than data.max_audio_s=2.9 s$"):
        read_audio(data, SMALL, max_audio_s=2.9)


def test_memory_is_bounded_by_the_length_not_by_channels_and_rate():
    data = sound(np.zeros((10 * 96000, 8), np.float32), 96000, "FLAC")
    assert len(data) < 20_000
    tracemalloc.start()
    try:
        assert len(read_audio(data, SMALL)) == 80_000
        assert tracemalloc.get_traced_memory()[1] < 16e6  # one channel is 3.8 MB, all of them 31 MB
    finally:
        tracemalloc.stop()


def test_an_empty_file_is_too_short():
    with pytest.raises(BadSample, match="shorter than audio.min_duration_s=1 s"):
        crop_clip(read_audio(sound(np.zeros((0, 1)), 44100), SMALL), SMALL, 0.0)


# --- crop and loudness ----------------------------------------------------------------------------------------------


def test_crop_covers_every_start_and_no_more():
    waveform = np.arange(8192 + 4, dtype=np.float32)
    starts = [int(crop_clip(waveform, SMALL, where)[0]) for where in np.linspace(0, 1, 500, endpoint=False)]
    assert starts[0] == 0 and sorted(set(starts)) == [0, 1, 2, 3, 4]
    assert np.array_equal(crop_clip(waveform, SMALL, np.nextafter(1, 0)), waveform[4:])
    assert min(np.bincount(starts)) >= 95  # evenly


def test_short_audio_is_padded_at_its_end_and_too_short_is_refused():
    for where in (0.0, 0.99):
        clip = pad_clip(crop_clip(np.ones(8000, np.float32), SMALL, where), SMALL)
        assert clip.shape == (8192,) and clip[:8000].all() and not clip[8000:].any()
    assert np.array_equal(pad_clip(clip, SMALL), clip)
    with pytest.raises(BadSample, match="^audio shorter than audio.min_duration_s=1 s$"):
        crop_clip(np.ones(7999, np.float32), SMALL, 0.0)


def test_loudness_is_brought_to_its_level():
    for level in (0.9, 0.01, 0.003):
        waveform = normalise_level(tone(1, 8000, level=level), SMALL)
        assert waveform.dtype == np.float32 and db(rms(waveform)) == pytest.approx(-20, abs=0.01)


def test_no_peak_is_lifted_above_the_limit():
    clicks = np.zeros(8000, np.float32)
    clicks[::2000] = 0.5
    waveform = normalise_level(clicks, SMALL)
    assert db(np.abs(waveform).max()) == pytest.approx(-1, abs=0.01) and db(rms(waveform)) < -20
    np.testing.assert_allclose(waveform / waveform.max(), clicks / 0.5, atol=1e-6)


def test_silence_is_refused_at_the_stated_level():
    with pytest.raises(BadSample, match="silence.*-55 dBFS"):
        normalise_level(np.zeros(8000, np.float32), SMALL)
    just = tone(1, 8000) / rms(tone(1, 8000)) * 10 ** (-55 / 20)
    assert db(rms(normalise_level(just * 1.01, SMALL))) == pytest.approx(-20, abs=0.01)
    with pytest.raises(BadSample, match="silence"):
        normalise_level(just * 0.99, SMALL)


def test_written_wav_is_16_bit_and_clipped_not_wrapped(tmp_path):
    write_wav(str(tmp_path / "a.wav"), torch.tensor([0.0, 0.5, 1.5, -1.5]), 8000)
    values, rate = soundfile.read(io.BytesIO((tmp_path / "a.wav").read_bytes()))
    assert rate == 8000 and soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    np.testing.assert_allclose(values, [0, 0.5, 1, -1], atol=1e-4)


def test_the_peak_level_is_that_of_the_published_data_sets():
    """Mean removed, then a peak of 0.5, however loud the clip was (Tango's and AudioLDM's `normalize_wav`)."""
    rng = np.random.default_rng(0)
    for loud in (0.01, 1.7):
        clip = (loud * rng.standard_normal(16000).clip(-3, 3) / 3 + 0.1).astype(np.float32)
        wanted = clip.astype(np.float64) - clip.astype(np.float64).mean()
        wanted = wanted / np.abs(wanted).max() * 0.5
        np.testing.assert_allclose(normalise_level(clip, TANGO), wanted, atol=2e-6)
    with pytest.raises(BadSample, match="silence"):
        normalise_level(np.full(16000, 0.3, np.float32), TANGO)  # a constant is no sound


# --- counted work -------------------------------------------------------------------------------------------------------


def test_more_samples_than_the_limit_are_refused_before_they_are_decoded(monkeypatch):
    data = sound(np.zeros((8000, 3)), 8000)
    assert len(read_audio(data, SMALL, max_samples=24_000)) == 8000
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    with pytest.raises(BadSample, match="^audio of more frames × channels than data.max_audio_samples=23999$"):
        read_audio(data, SMALL, max_samples=23_999)


@pytest.mark.parametrize("rate, frames", [(44100, 0), (44100, 1), (11025, 100), (48000, 16385), (96000, 99_991), (22050, 40_000)])
def test_blocks_are_resampled_to_the_bits_of_the_whole(rate, frames):
    waveform = np.random.default_rng(0).uniform(-1, 1, frames).astype(np.float32)
    assert np.array_equal(read_audio(sound(waveform, rate, subtype="FLOAT"), SMALL), soxr.resample(waveform, rate, 8000))


def test_a_long_sound_of_a_high_rate_takes_the_memory_of_its_result():
    """16 million samples, 64 MB as floats, of which 0.7 million stay."""
    data = sound(np.zeros(16_000_000, np.int16), 192_000, "FLAC")
    tracemalloc.start()
    waveform = read_audio(data, SMALL)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(waveform) == round(16_000_000 / 24) and peak < 12e6


# --- two channels ----------------------------------------------------------------------------------------------------

STEREO = dataclasses.replace(SMALL, channels=2)


def pair(rate: int, seconds: float = 1.0) -> np.ndarray:
    """(S, 2): another tone in each channel."""
    return np.stack([tone(seconds, rate, 300, 0.3), tone(seconds, rate, 500, 0.1)], axis=1)


def test_two_channels_are_kept_in_order_and_resampled_each_alone():
    waveform = read_audio(sound(pair(8000), subtype="FLOAT"), STEREO)
    assert waveform.shape == (2, 8000) and waveform.flags.c_contiguous
    assert np.array_equal(waveform, pair(8000).astype(np.float32).T)
    resampled = read_audio(sound(pair(11025), 11025, subtype="FLOAT"), STEREO)
    for channel, alone in zip(resampled, pair(11025).T, strict=True):
        np.testing.assert_allclose(channel, read_audio(sound(alone, 11025, subtype="FLOAT"), SMALL), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_not_stereo_is_doubled(channels):
    file = sound(np.stack([tone(1, 8000, 300 + 100 * i, 0.2) for i in range(channels)], axis=1))
    waveform = read_audio(file, STEREO)
    assert waveform.shape == (2, 8000) and all(np.array_equal(channel, read_audio(file, SMALL)) for channel in waveform)


@pytest.mark.parametrize("level", ["rms", "peak"])
def test_the_level_is_that_of_both_channels_together(level):
    audio = dataclasses.replace(STEREO, level=level)
    waveform = pair(8000).astype(np.float32).T + np.float32([[0.05], [-0.02]])
    made = normalise_level(waveform, audio)
    steady = waveform - waveform.mean(1, keepdims=True) if level == "peak" else waveform
    np.testing.assert_allclose(made / made[0, 100], steady / steady[0, 100], rtol=1e-3, atol=1e-4)  # one gain for both
    assert db(rms(made) if level == "rms" else np.abs(made).max()) == pytest.approx(-20 if level == "rms" else -1, abs=0.01)
    one_is_silent = np.stack([waveform[0], np.zeros(8000, np.float32)])
    assert normalise_level(one_is_silent, audio).shape == (2, 8000)
    with pytest.raises(BadSample, match="silence"):
        normalise_level(one_is_silent[::-1] * 1e-4, audio)


def test_clips_of_two_channels_are_cut_filled_and_written(tmp_path):
    waveform = pair(8000, 3.0).astype(np.float32).T
    assert np.array_equal(crop_clip(waveform, STEREO, 0.5), waveform[:, 7904 : 7904 + 8192])
    short = pad_clip(waveform[:, :8100], STEREO)
    assert short.shape == (2, 8192) and not short[:, 8100:].any()
    with pytest.raises(BadSample, match="shorter"):
        crop_clip(waveform[:, :100], STEREO, 0.0)
    write_wav(tmp_path / "a.wav", short, 8000)
    np.testing.assert_allclose(soundfile.read(tmp_path / "a.wav")[0].T, short, atol=1 / 32000)


def test_what_is_stored_names_channels_only_where_there_are_two():
    assert "channels" not in SMALL.stated() and set(SMALL.stated()) | {"channels"} == set(dataclasses.asdict(SMALL))
    assert STEREO.stated() == dataclasses.asdict(STEREO)
