"""What a visitor asks for becomes a call of the pipeline, or a sentence; without gradio."""

import dataclasses
import json
import threading
from pathlib import Path

import av
import building as build
import numpy as np
import pytest
import soundfile
from data_fixtures import one_sentence, write_film
from pages import Tiny

from melfusion.app.actions import Actions, Cancelled, Stops, errors_as, watched
from melfusion.app.models import Models, offered
from melfusion.app.requests import EXTEND, FRESH, REPAINT, RESTYLE, Limits, PageRequest
from melfusion.app.server import accounts
from melfusion.assembly.configuration import load_config
from melfusion.assembly.film import film as film_of
from melfusion.assembly.pipeline import Pipeline
from melfusion.assembly.provenance import read
from melfusion.errors import ConfigError
from melfusion.media.video import duration_s

RATE = 8000


@pytest.fixture(scope="module")
def actions(tmp_path_factory):
    return Actions(Tiny(), Limits(longest_s=4.0), tmp_path_factory.mktemp("clips"))


@pytest.fixture
def sound(tmp_path):
    """1.5 s of noise at the tiny model's rate, as 16 bits."""
    file = tmp_path / "tune.wav"
    soundfile.write(file, 0.1 * np.random.default_rng(0).standard_normal(3 * RATE // 2), RATE, "PCM_16")
    return str(file)


def quiet(share, words):
    """A report that nobody reads."""


def asked(**given):
    return PageRequest("small", prompt="rain", seed=3, **{"num_inference_steps": 2} | given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompt": " "}, "Give a picture, a sentence, or both"),
        ({"n": 5}, "variations: 5 must be from 1 to 4"),
        ({"num_inference_steps": 201}, "steps: 201 must be from 1 to 200"),
        ({"duration_s": 500.0}, "500 must be from 0.1 to 120"),
        ({"fields": {"lyrics": "x" * 4001}}, "longer than 4000 characters"),
        ({"mode": RESTYLE}, "Give the sound to start from"),
    ],
)
def test_too_little_and_too_much_are_sentences(given, words):
    with pytest.raises(ConfigError, match=words):
        PageRequest(**{"model": "small", "prompt": "rain"} | given).checked(Limits())


def test_a_bad_start_is_named_without_its_folder(sound, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no sound")
    with pytest.raises(ConfigError, match=r"^bad\.wav is no sound"):
        asked(start=str(bad), mode=RESTYLE).checked(Limits())
    with pytest.raises(ConfigError, match=r"^tune\.wav: 121\.5 s is longer than 120 s"):
        asked(start=sound, mode=EXTEND, extend_s=120.0).checked(Limits())
    assert asked(start=sound, mode=FRESH).checked(Limits(longest_s=1.0))  # it is not used
    with pytest.raises(ConfigError, match=r"^bad\.wav is no sound"):
        asked(fields={"timbre": str(bad)}).checked(Limits())
    assert asked(fields={"timbre": ""}).checked(Limits())


def test_a_story_is_equal_spans_or_times_and_goes_with_nothing_else(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    pictures = [str(Path(__file__).parents[2] / "data" / "examples" / "sea-night-clear.png")] * 2
    assert [scene["start_s"] for scene in asked(scenes=pictures).checked(Limits()).story(5.0)] == [0.0, 2.5]
    assert [scene["start_s"] for scene in asked(scenes=pictures, times="0, 4").story(5.0)] == [0.0, 4.0]
    for given, words in (
        ({"image": pictures[0]}, "pictures of its own"),
        ({"times": "0, x"}, "are not 2 numbers"),
        ({"scenes": [str(tmp_path / "bad.png")]}, r"^bad\.png is an unreadable image"),
        ({"scenes": pictures * 11}, "pictures of a story: 22 must be from 0 to 20"),
    ):
        with pytest.raises(ConfigError, match=words):
            asked(**{"scenes": pictures, **given}).checked(Limits())


def test_a_drawn_seed_is_kept_with_the_request():
    drawn = PageRequest("small", prompt="rain").drawn()
    assert drawn.seed is not None and drawn.drawn() == drawn and PageRequest("small").drawn().seed != drawn.seed


def test_a_start_is_restyled_repainted_and_gone_on_from(actions, sound):
    before, _ = soundfile.read(sound)
    made = {}
    for mode, given in ((RESTYLE, {"strength": 0.5}), (REPAINT, {"start_s": 0.5, "end_s": 1.0}), (EXTEND, {"extend_s": 1.0})):
        _, (clip,) = actions.generate(asked(start=sound, mode=mode, **given), "a", quiet)
        made[mode] = soundfile.read(clip.wav)[0]
        settings = read(clip.wav)["settings"]
        assert next(iter(given)) in settings or "repaint" in settings
        assert str(actions.folder) not in json.dumps(read(clip.wav)) and "tune.wav" in json.dumps(read(clip.wav))
    assert len(made[RESTYLE]) == len(made[REPAINT]) == len(before) and len(made[EXTEND]) == len(before) + RATE
    outside = np.r_[0 : RATE // 2, RATE : len(before)]
    np.testing.assert_array_equal(made[REPAINT][outside], before[outside])
    assert np.abs(made[REPAINT] - before)[RATE // 2 : RATE].max() > 0.01 and np.abs(made[RESTYLE] - before).max() > 0.01
    with pytest.raises(ConfigError, match="outside the sound"):
        actions.generate(asked(start=sound, mode=REPAINT, start_s=1.0, end_s=2.0), "a", quiet)


def test_a_film_gets_its_music_and_keeps_no_folder(actions, tmp_path):
    film = write_film(tmp_path / "holiday.mp4", np.repeat(np.uint8([0, 200]), 12 * 48 * 64 * 3).reshape(24, 48, 64, 3))
    done, file, scenes = actions.film(asked(film=str(film), image="not used"), "a", quiet)
    record = read(file)
    assert Path(file).name == "holiday-3.mp4" and scenes == 2 and done.seed == record["seed"] == 3
    assert record["verb"] == "film" and record["files"]["film"]["path"] == "holiday.mp4" and record["prompt"] == "rain"
    assert duration_s(file) == pytest.approx(2.4) and str(tmp_path) not in json.dumps(record)
    direct, _ = film_of(actions.models.get("small"), film, tmp_path / "direct.mp4", prompt="rain", seed=3, num_inference_steps=2)
    assert direct.made[0]["settings"].items() <= record["settings"].items()


def test_a_film_stops_between_two_steps_and_leaves_no_file(actions, tmp_path):
    film = write_film(tmp_path / "a.mp4", np.zeros((10, 48, 64, 3), np.uint8))
    before, seen = set(actions.folder.rglob("*")), []

    def report(share, words):
        seen.append(words)
        if words == "step 1 of 2":
            actions.stops.of("b").set()

    with pytest.raises(Cancelled, match="nothing was made"):
        actions.film(asked(film=str(film)), "b", report)
    assert seen == ["loading the model", "looking for shots", "step 1 of 2"] and set(actions.folder.rglob("*")) == before


def test_what_is_no_film_for_the_page_is_a_sentence_without_its_folder(actions, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    long = write_film(tmp_path / "long.mp4", np.zeros((41, 48, 64, 3), np.uint8))
    with av.open(str(empty := tmp_path / "empty.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    for file, words in (
        (tmp_path / "bad.mp4", r"^bad\.mp4 cannot be read"),
        (empty, r"^empty\.mkv (cannot be read|has no frame)"),
        (long, r"^long\.mp4 is longer than 4 s: cut it into parts"),
        ("", "^Give a film such as an MP4"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            actions.film(asked(film=str(file)), "a", quiet)
        one_sentence(caught.value)


def test_a_timbre_goes_to_a_model_that_takes_one(sound, tmp_path):
    config = load_config("ace_step,tiny", ["codec.chunk_s=4", "conditioner.seconds_of_timbre=3"])
    models = Models({"ace": None}, "cpu")
    models.name, models.pipe = "ace", Pipeline(build.system(config).eval(), config)
    actions = Actions(models, Limits(), tmp_path)
    wish = PageRequest("ace", prompt="rain", seed=3, num_inference_steps=1, fields={"timbre": sound, "lyrics": ""})
    (clip,) = actions.generate(wish, "a", quiet)[1]
    assert read(clip.wav)["files"]["timbre"]["path"] == "tune.wav" and "lyrics" not in read(clip.wav)["settings"]
    (plain,) = actions.generate(dataclasses.replace(wish, fields={"timbre": ""}), "a", quiet)[1]
    assert "files" not in read(plain.wav)
    assert not np.array_equal(soundfile.read(plain.wav)[0], soundfile.read(clip.wav)[0])


def test_a_clip_stops_between_two_steps_of_the_sampler_and_leaves_no_file(actions):
    before = set(actions.folder.rglob("*"))
    seen = []

    def report(share, words):
        seen.append(words)
        if words == "step 2 of 4":
            actions.stops.of("a").set()

    with pytest.raises(Cancelled, match="nothing was made"):
        actions.generate(asked(num_inference_steps=4), "a", report)
    assert seen[-1] == "step 2 of 4" and set(actions.folder.rglob("*")) == before
    actions.stops.of("a").clear()
    assert actions.generate(asked(), "a", quiet)[1][0].seed == 3


def test_a_wish_to_stop_is_of_one_visitor():
    stops = Stops()
    stops.of("a").set()
    assert not stops.of("b").is_set() and stops.of("a").is_set()
    stops.forget("a")
    assert not stops.of("a").is_set()
    stop = threading.Event()
    assert list(watched(range(3), stop, quiet, "step")) == [0, 1, 2]


def test_only_offered_models_are_read(tmp_path):
    for name in ("run/checkpoints", "empty/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    assert offered(["mine"], str(tmp_path)) == {"mine": "mine", "shipped": None, str(tmp_path / "run"): str(tmp_path / "run")}
    with pytest.raises(ConfigError, match="There is no model '/etc/passwd' here: choose one of shipped"):
        Models({"shipped": None}, "cpu").get("/etc/passwd")


def test_accounts_are_lines_of_name_and_password(tmp_path):
    file = tmp_path / "visitors"
    file.write_text("ann:a:b\n\nbob:c\n")
    assert accounts(str(file)) == [("ann", "a:b"), ("bob", "c")] and accounts(None) is None
    for text in ("", "ann\n", ":x\n"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="NAME:PASSWORD"):
            accounts(str(file))


def test_a_bug_is_told_as_one_and_a_mistake_as_its_sentence(caplog):
    with pytest.raises(ValueError, match="a bug of melfusion"), errors_as(ValueError):
        {}["x"]
    assert "KeyError" in caplog.text
    with pytest.raises(ValueError, match="^Give more"), errors_as(ValueError):
        raise ConfigError("Give more.")
