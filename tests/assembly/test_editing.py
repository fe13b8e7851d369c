"""Long pieces, edited sounds and stories through the pipeline: what stays to the bit, and sentences for what cannot be meant."""

import json
from pathlib import Path

import building as build
import numpy as np
import pytest
import soundfile
import torch
from data_fixtures import write_film
from PIL import Image

from melfusion.assembly.edit_request import Editing
from melfusion.assembly.edit_sound import EditedSound, in_its_key
from melfusion.assembly.music import Music
from melfusion.assembly.pipeline import Pipeline
from melfusion.assembly.provenance import read
from melfusion.assembly.story import read_story
from melfusion.errors import ConfigError
from melfusion.models.diffusion.editing import Edit
from melfusion.models.generation import Piece, PieceScene
from melfusion.verbs.show import command

STEPS = {"num_inference_steps": 2}
RATE, CLIP = 8000, 8192


@pytest.fixture(scope="module")
def pipe():
    from melfusion.assembly.configuration import load_config

    config = load_config("tiny")
    return Pipeline(build.system(config).eval(), config)


def picture(seed):
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tone(seconds, rate=RATE, seed=0):
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.2 * np.sin(2 * np.pi * 330 * time) + 0.02 * noise).astype(np.float32)


# --- windows ----------------------------------------------------------------------------------------------------------


def test_a_piece_no_longer_than_a_window_is_as_without_windows_to_the_bit(pipe):
    system = pipe.system
    for seconds in (None, 0.5, 1.024):
        plain = system.generate(["rain"], picture(0), [3], **STEPS, duration_s=seconds)
        assert torch.equal(system.generate(["rain"], picture(0), [3], **STEPS, duration_s=seconds, piece=Piece()), plain)
    long = system.generate(["rain"], picture(0), [3], **STEPS, duration_s=3.0)
    assert torch.equal(system.generate(["rain"], picture(0), [3], **STEPS, duration_s=3.0, piece=Piece(window_s=3.0)), long)
    assert not torch.equal(system.generate(["rain"], picture(0), [3], **STEPS, duration_s=3.0, piece=Piece()), long)


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 1.024, 1.0241, 2.5])
def test_a_clip_is_as_long_as_asked_for_to_the_sample(pipe, seconds):
    assert pipe("rain", duration_s=seconds, **STEPS).audios.shape == (1, round(seconds * RATE))
    assert pipe.system.codec.duration_s(pipe.system.latent_shape(seconds)) >= seconds - 0.5 / RATE


def test_the_length_of_training_is_whole_frames_and_nothing_of_it_is_cut(pipe):
    codec, shape = pipe.system.codec, pipe.system.latent_shape()
    decoded = torch.zeros(1, 1, shape[1] * codec.music_vae.downsampling, shape[2] * codec.music_vae.downsampling)
    assert codec.cut(decoded, pipe.system.clip_duration_s).shape == decoded.shape
    assert pipe("rain", **STEPS).audios.shape == (1, CLIP)


def test_the_network_sees_one_window_at_a_time_and_no_more_rows_than_the_cap(pipe, monkeypatch):
    from melfusion.models import generation

    monkeypatch.setattr(generation, "ROWS_AT_ONCE", 4)
    seen, denoiser = [], pipe.system.denoiser
    monkeypatch.setattr(denoiser, "forward", lambda x, *a, f=denoiser.forward, **k: [seen.append(x.shape), f(x, *a, **k)][1])
    music = pipe("rain", picture(0), seed=1, n=2, duration_s=5.0, guidance_scale=2.0, **STEPS)
    assert len(music.audios) == 2 and abs(music.audios.shape[1] - 40000) < 1024
    assert {shape[2] for shape in seen} == {16} and max(shape[0] for shape in seen) <= 4 * 2  # under two conditions each


def test_a_clip_of_a_long_piece_does_not_depend_on_the_clips_beside_it(pipe):
    both = pipe("rain", picture(0), seed=1, n=2, duration_s=2.0, **STEPS).log_mels
    assert np.allclose(pipe("rain", picture(0), seed=2, duration_s=2.0, **STEPS).log_mels[0], both[1], atol=1e-3)


def test_progress_sees_the_steps_and_may_cancel(pipe):
    class Cancelled(Exception):
        pass

    seen = []

    def cancel(steps):
        for step in steps:
            yield step
            seen.append(step)
            raise Cancelled

    with pytest.raises(Cancelled):
        pipe("rain", duration_s=3.0, progress=cancel, **STEPS)
    assert len(seen) == 1


def test_a_long_clip_is_decoded_in_windows_as_the_whole_is(pipe, monkeypatch):
    """Its vocoder is Griffin-Lim, which sees a whole clip: the windows of the sound are cross-faded."""
    from melfusion.models import mel_codec

    codec, waveform = pipe.system.codec, torch.from_numpy(tone(6.144))[None]
    whole = codec.encode(waveform)
    mel = codec.decode(whole)
    monkeypatch.setattr(mel_codec, "CHUNK_S", 2.0)
    monkeypatch.setattr(mel_codec, "OVERLAP_S", 0.5)
    assert codec.window < whole.shape[2]
    assert np.allclose(codec.encode(waveform), whole, atol=1e-4) and np.allclose(codec.decode(whole), mel, atol=1e-4)
    sound = codec.vocode(mel)
    assert sound.shape == waveform.shape and sound.abs().max() <= 1


# --- a sound that is edited -------------------------------------------------------------------------------------------


def test_strength_1_is_from_noise_to_the_bit_and_0_is_the_codec_s_reconstruction(pipe):
    plain = pipe("rain", picture(0), seed=3, **STEPS).audios
    assert np.array_equal(pipe("rain", picture(0), seed=3, audio=(tone(1.024), RATE), strength=1.0, **STEPS).audios, plain)
    codec, sound = pipe.system.codec, torch.from_numpy(tone(1.024))
    still = pipe("rain", picture(0), seed=3, audio=(sound, RATE), strength=0.0, **STEPS)
    gain = 0.1 / float(sound.square().mean().sqrt())  # to -20 dBFS
    rebuilt = pipe.system.vocode(codec.decode(codec.encode(sound[None] * gain)))[0] / gain
    assert np.allclose(still.audios[0], rebuilt, atol=1e-4)


def test_a_sound_that_a_picture_restyles_keeps_its_key(pipe):
    """Its key is measured and told where the call says nothing of it; the record says it, and makes the same again."""
    sound = (0.1 * sum(np.sin(2 * np.pi * f * np.arange(RATE) / RATE) for f in (220.0, 261.63, 329.63))).astype(np.float32)
    changed = {"audio": (sound, RATE), "strength": 0.6, **STEPS}
    music = pipe("", picture(0), seed=3, **changed)
    assert music.made[0]["prompt"] == "music in the key of A minor"
    assert np.array_equal(pipe("music in the key of A minor", picture(0), seed=3, **changed).audios, music.audios)
    for other in (changed | {"keep_key": False}, changed | {"strength": 1.0}, {"audio": (sound, RATE), "extend_s": 0.5, **STEPS}):
        assert pipe("", picture(0), seed=3, **other).made[0]["prompt"] == ""
    assert pipe("rain", picture(0), seed=3, **changed).made[0]["prompt"] == "rain"
    takes = ("key",)  # as ACE-Step
    edited = EditedSound(torch.from_numpy(sound), None, None, 1.0, 1.0, RATE, False)
    assert in_its_key(edited, [""], {}, takes) == ([""], {"key": "A minor"})
    assert in_its_key(edited, [""], {"key": "C major"}, takes) == ([""], {"key": "C major"})
    sharp = EditedSound(
        torch.from_numpy(np.interp(np.arange(RATE) * 2 ** (1 / 12), np.arange(RATE), sound)), None, None, 1.0, 1.0, RATE, False
    )
    assert in_its_key(sharp, [""], {}, takes)[1] == {"key": "Bb minor"}
    silent = EditedSound(torch.zeros(RATE), None, None, 1.0, 1.0, RATE, False)
    assert in_its_key(silent, [""], {}, ()) == ([""], {})


@pytest.mark.parametrize(
    ("asked", "kept"), [({}, False), ({"strength": 1.0}, False), ({"strength": 0.5}, True), ({"repaint": "0.2-0.4"}, True)]
)
def test_what_is_made_of_a_sound_keeps_its_level_whatever_the_model_does_to_peaks(pipe, monkeypatch, asked, kept):
    told, vocode = [], pipe.system.codec.vocode
    monkeypatch.setattr(pipe.system.codec, "vocode", lambda decoded, keep_level: [told.append(keep_level), vocode(decoded)][1])
    pipe("rain", seed=3, **(asked and {"audio": (tone(1.024), RATE), **asked}), **STEPS)
    assert told == [kept]


def test_a_file_of_a_clip_above_full_scale_is_scaled_and_not_cut_off(tmp_path):
    loud = np.array([[0.5, -2.0, 1.0]], dtype=np.float32)
    (file,) = Music(loud, 8000, [0], loud).save(tmp_path / "loud.wav")
    assert np.allclose(soundfile.read(file)[0], [0.25, -1.0, 0.5], atol=1e-4)


def test_a_span_is_made_anew_and_all_around_it_stays_to_the_bit(pipe, tmp_path):
    samples = np.round(tone(4.0) * 32768).astype(np.int16)
    soundfile.write(tmp_path / "in.wav", samples, RATE)
    music = pipe("rain", picture(0), seed=3, audio=tmp_path / "in.wav", repaint="1.5-2.25", **STEPS)
    music.save(tmp_path / "out.wav")
    made, _ = soundfile.read(tmp_path / "out.wav", dtype="int16")
    assert np.array_equal(made[:12000], samples[:12000]) and np.array_equal(made[18000:], samples[18000:])
    assert len(made) == len(samples) and (made[12400:17600] != samples[12400:17600]).mean() > 0.9
    other = pipe("rain", picture(0), seed=4, audio=music, repaint=(0, 1.0), n=2, **STEPS).audios
    assert other.shape == (2, 32000) and np.array_equal(other[:, 8000:], music.audios.repeat(2, 0)[:, 8000:])
    assert not np.array_equal(other[0], other[1])


def test_a_sound_goes_on_after_its_end(pipe):
    sound = tone(1.7)
    made = pipe("rain", picture(0), seed=3, audio=(sound, RATE), extend_s=2.5, **STEPS).audios[0]
    assert len(made) == len(sound) + 20000
    assert np.array_equal(made[: len(sound) - 400], sound[:-400])  # 50 ms are cross-faded
    assert np.abs(made[len(sound) :]).max() > 0
    short = tone(0.05)
    with pytest.raises(ConfigError, match="audio is too short to go on from"):
        pipe("rain", audio=(short, RATE), extend_s=1.0, **STEPS)


def test_the_network_is_told_what_is_known_of_a_span(pipe, monkeypatch):
    told, sample = [], pipe.system.objective.sample
    monkeypatch.setattr(pipe.system.objective, "sample", lambda *a: [told.append(a[5]), sample(*a)][1])
    pipe("rain", audio=(tone(4.0), RATE), repaint=(1.5, 2.25), **STEPS)
    kept = told[0].kept
    frame = CLIP / 16 / RATE
    assert (kept == 0).sum() * frame == pytest.approx(0.75, abs=2 * frame) and kept[0] == kept[-1] == 1
    pipe("rain", audio=(tone(1.024), RATE), extend_s=0.5, **STEPS)
    assert told[1].kept.tolist() == sorted(told[1].kept.tolist(), reverse=True)  # known, then not


def test_a_sound_of_another_rate_and_two_channels_is_mixed_and_resampled(pipe, tmp_path):
    soundfile.write(tmp_path / "in.wav", np.stack([tone(2.0, 44100), tone(2.0, 44100, seed=1)], 1), 44100)
    made = pipe("rain", audio=tmp_path / "in.wav", repaint=(0.5, 1.0), **STEPS)
    again = pipe("rain", audio=(soundfile.read(tmp_path / "in.wav", dtype="float32")[0].T, 44100), repaint=(0.5, 1.0), **STEPS)
    assert made.audios.shape == (1, 16000) and made.sample_rate_hz == RATE
    assert np.allclose(made.audios[:, :4000], again.audios[:, :4000], atol=1e-3)


def test_the_made_span_has_the_level_of_the_sound_around_it(pipe):
    loud = pipe("rain", audio=(0.05 * tone(3.0), RATE), repaint=(1.0, 2.0), seed=1, **STEPS).audios[0, 8800:15200]
    quiet = pipe("rain", audio=(0.02 * tone(3.0), RATE), repaint=(1.0, 2.0), seed=1, **STEPS).audios[0, 8800:15200]
    assert np.allclose(quiet, 0.4 * loud, atol=0.003 * np.abs(loud).max())


# --- stories ----------------------------------------------------------------------------------------------------------


def test_each_scene_of_a_story_follows_its_own_picture_and_prompt(pipe):
    scenes = [PieceScene(0.0, ["rain"], picture(0)), PieceScene(1.5, ["sun"], picture(1)), PieceScene(3.0, ["wind"], None)]

    def make(some):
        return pipe.system.generate(["rain"], None, [1], **STEPS, duration_s=4.6, piece=Piece(scenes=some))[0, 0]

    made = make(scenes)
    mel_per_s = made.shape[0] / 4.608
    for k, other in enumerate(
        (PieceScene(0.0, ["rain"], picture(7)), PieceScene(1.5, ["sea"], picture(1)), PieceScene(3.0, ["wind"], picture(2)))
    ):
        changed = (make([other if i == k else scene for i, scene in enumerate(scenes)]) - made).abs().mean(1)
        first, last = (round(t * mel_per_s) for t in ((0, 1.5, 3.0, 4.6)[k], (0, 1.5, 3.0, 4.6)[k + 1]))
        inside = changed[first:last].mean()
        outside = torch.cat([changed[: max(0, first - 16)], changed[last + 16 :]]).mean()
        assert inside > 0 and outside < inside / 3


def test_a_story_is_read_from_a_file_beside_its_pictures(pipe, tmp_path):
    for i in range(2):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    scenes = [{"image": f"{i}.png", "start_s": 1.2 * i} for i in range(2)]
    (tmp_path / "s.json").write_text(json.dumps({"duration_s": 2.4, "scenes": scenes}))
    (tmp_path / "s.yaml").write_text("- {image: 0.png, start_s: 0}\n- {image: 1.png, start_s: 1.2, end_s: 2.4}\n")
    first = pipe("rain", story=tmp_path / "s.json", seed=1, **STEPS)
    assert np.array_equal(pipe("rain", story=str(tmp_path / "s.yaml"), seed=1, **STEPS).audios, first.audios)
    given = [{"image": Image.open(tmp_path / f"{i}.png"), "start_s": 1.2 * i} for i in range(2)]
    assert np.array_equal(pipe("rain", story=given, duration_s=2.4, seed=1, **STEPS).audios, first.audios)
    swapped = pipe(
        "rain",
        story=[{"image": scene["image"], "start_s": 1.2 * i} for i, scene in enumerate(given[::-1])],
        duration_s=2.4,
        **STEPS,
    )
    assert not np.array_equal(swapped.audios, first.audios)


# --- what cannot be meant ---------------------------------------------------------------------------------------------

SOUND = (tone(2.0), RATE)
A, B = {"prompt": "a", "start_s": 0}, {"prompt": "b", "start_s": 2}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"strength": 0.5}, "strength says what happens to a sound: give audio=FILE"),
        ({"audio": SOUND, "extend_s": 1.0, "keep_key": False}, "keep_key is of a sound that is changed as a whole"),
        ({"audio": SOUND}, "give strength=0.8, repaint=START-END or extend_s=10"),
        ({"audio": SOUND, "strength": 1.5}, "strength=1.5 must be between 0"),
        ({"audio": SOUND, "strength": float("nan")}, "strength=nan must be between 0"),
        ({"audio": SOUND, "repaint": "1-3"}, "repaint=1-3 is outside the sound, which lasts 2 s"),
        ({"audio": SOUND, "repaint": "3-1"}, "repaint=3-1 is no span"),
        ({"audio": SOUND, "repaint": "1"}, "repaint=1 is no span"),
        ({"audio": SOUND, "extend_s": 1.0, "strength": 0.5}, "extend_s and strength do not go together"),
        ({"audio": SOUND, "extend_s": -1.0}, "extend_s=-1.0 must be a number of seconds greater than 0"),
        ({"audio": SOUND, "strength": 0.5, "duration_s": 4.0}, "duration_s does not go with audio"),
        ({"audio": "nowhere.wav", "strength": 0.5}, "audio=nowhere.wav: there is no such file"),
        ({"audio": 3, "strength": 0.5}, "audio is no sound"),
        ({"audio": (0 * SOUND[0], RATE), "strength": 0.5}, "audio is silence"),
        ({"window_s": 1.0, "overlap_s": 1.0}, "overlap_s=1 must be less than window_s=1"),
        ({"overlap_s": 2.0, "duration_s": 5.0}, "overlap_s=2 must be less than"),
        ({"story": [A, B], "duration_s": 5.0, "image": "x.png"}, "story brings its own pictures"),
        ({"story": [A, B], "audio": SOUND, "repaint": "0-1"}, "story and repaint do not go together"),
        ({"story": [A, B]}, "story needs the length of the piece"),
        ({"story": [A, B], "duration_s": 2.0}, "the last scene begins at 2 s, but the piece lasts 2 s"),
        ({"story": [B, A], "duration_s": 9.0}, "the first scene begins at 2 s: it must begin at 0"),
        ({"story": [A, B, B], "duration_s": 9.0}, "give them in order of time"),
        ({"story": [A | {"end_s": 3}, B], "duration_s": 9.0}, "scene 1 ends at 3 s and overlaps the next one"),
        ({"story": [A | {"end_s": 1}, B], "duration_s": 9.0}, "leaves a gap before the next one"),
        ({"story": [{"start_s": 0}], "duration_s": 9.0}, "scene 1 has neither image nor prompt"),
        ({"story": [{"prompt": "a"}], "duration_s": 9.0}, "scene 1 lacks start_s"),
        ({"story": [A | {"start": 0}], "duration_s": 9.0}, "there is no key 'start'"),
        ({"story": [A | {"start_s": "0"}], "duration_s": 9.0}, "start_s='0' is no time"),
        ({"story": ["a"], "duration_s": 9.0}, "scene 1 is 'a'"),
        ({"story": [], "duration_s": 9.0}, "story is no story"),
        ({"story": "nowhere.yaml", "duration_s": 9.0}, "story=nowhere.yaml: there is no such file"),
    ],
)
def test_what_cannot_be_meant_gives_one_sentence(pipe, asked, words):
    with pytest.raises(ConfigError) as error:
        pipe("rain", **asked, **STEPS)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_not_what_they_should_be_are_said_before_a_model_is_loaded(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no sound")
    (tmp_path / "p.png").write_bytes(b"no picture")
    (tmp_path / "s.yaml").write_text("{ - ")
    with pytest.raises(ConfigError, match="no sound that can be read"):
        Editing(audio=str(tmp_path / "a.wav"), strength=0.5).checked(None, None)
    with pytest.raises(ConfigError, match="scene 1, image=.*p.png is an unreadable image"):
        read_story([{"image": str(tmp_path / "p.png"), "start_s": 0}])
    with pytest.raises(ConfigError, match="cannot be read"):
        read_story(tmp_path / "s.yaml")


def test_an_edit_is_the_same_on_another_device():
    edit = Edit(torch.zeros(1, 2, 3), torch.ones(3), 0.5).to(torch.device("cpu"))
    assert edit.knows and edit.strength == 0.5


# --- films ------------------------------------------------------------------------------------------------------------


def test_a_film_gets_the_music_of_its_shots(pipe, tmp_path, monkeypatch):
    import av

    from melfusion.assembly.film import film

    monkeypatch.chdir(tmp_path)
    write_film(tmp_path / "in.mp4", np.repeat(np.uint8([0, 200]), 12 * 48 * 64 * 3).reshape(24, 48, 64, 3))
    music, story = film(pipe, "in.mp4", "out.mp4", shortest_s=0.5, prompt="rain", seed=2, **STEPS)
    record = read("out.mp4")
    assert record["files"]["film"]["path"] == "in.mp4" and record["verb"] == "film" and record["seed"] == 2
    assert (
        command(record, ".mp4")
        == "melfusion film prompt=rain film=in.mp4 seed=2 guidance_scale=3.0 num_inference_steps=2 shortest_s=0.5 out=again.mp4"
    )
    film(pipe, "in.mp4", "silent.mp4", shortest_s=0.5, metadata=False, prompt="rain", seed=2, **STEPS)
    assert read("silent.mp4") is None and b"rain" not in Path("silent.mp4").read_bytes()
    film(pipe, "in.mp4", "again.mp4", shortest_s=0.5, prompt="rain", seed=2, **STEPS)
    assert Path("again.mp4").read_bytes() == Path("out.mp4").read_bytes()
    assert [scene.start_s for scene in story.scenes] == pytest.approx([0, 1.2]) and story.duration_s == pytest.approx(2.4)
    assert music.audios.shape[1] == 2.4 * RATE  # no silence at its end
    assert np.asarray(story.scenes[1].image).mean() > 150 > np.asarray(story.scenes[0].image).mean()
    with av.open(str(tmp_path / "out.mp4")) as made:
        assert abs(sum(frame.samples for frame in made.decode(audio=0)) - 2.4 * RATE) < 3000
    with pytest.raises(ConfigError, match=r"out=.*a.avi must end in .mp4"):
        film(pipe, tmp_path / "in.mp4", tmp_path / "a.avi")
    with pytest.raises(ConfigError, match="is the film itself"):
        film(pipe, tmp_path / "in.mp4", tmp_path / "in.mp4")
    monkeypatch.setattr(pipe.system, "vocode", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        film(pipe, tmp_path / "in.mp4", tmp_path / "b.mp4", **STEPS)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["again.mp4", "in.mp4", "out.mp4", "silent.mp4"]
