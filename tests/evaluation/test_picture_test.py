"""The picture test bites: systems whose use of the picture is known get their verdict, and bad answers are counted."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import planted
import pytest
import soundfile
import torch
from data_fixtures import data_set, encoded, make_sample, sound, tone
from PIL import Image

from melfusion.assembly.configuration import load_config
from melfusion.errors import ConfigError, DataError
from melfusion.evaluation.picture_test import items as asking
from melfusion.evaluation.picture_test import scenes, statistics
from melfusion.evaluation.picture_test.making import make, read_sound, reasons, sound_file
from melfusion.evaluation.picture_test.measuring import LOG_MEL, Measured
from melfusion.evaluation.picture_test.report import card
from melfusion.evaluation.picture_test.run import ITEMS, MANIFEST, Asked, check_manifest, claim, picture_test, prepare
from melfusion.evaluation.picture_test.systems import Command, Request, one_by_one
from melfusion.evaluation.picture_test.verdict import DEPENDS, FOLLOWS, NO, dependence, judged
from melfusion.evaluation.scores import load_listeners
from melfusion.evaluation.scoring import Listeners
from melfusion.verbs import picture_test as verb

N, SEED, SECONDS = 16, 90027, 2.56  # of a clip: half of what the judge was trained on is enough for it
DECISIVE = ("right", "again", "other", "as bright")


@pytest.fixture(scope="module")
def config():
    found = load_config("scenes", ["evaluation.embedders={judge: same}", f"audio.clip_duration_s={SECONDS}"])
    found.towers.weights = None
    return found


@pytest.fixture(scope="module")
def listeners(config):
    return load_listeners(config)


@pytest.fixture(scope="module")
def drawn(config, tmp_path_factory):
    """A prepared test; take a copy of it by `copied`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "SIZE_PX", 64)
        return prepare(Asked(SEED, N), config, tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def short(monkeypatch):
    """Planted systems play as long as a clip is here."""
    monkeypatch.setattr(planted, "SECONDS", SECONDS)
    planted.waveform.cache_clear()


def copied(test, folder, rows=tuple(asking.ROWS)):
    shutil.copytree(test.folder, folder, dirs_exist_ok=True)
    return dataclasses.replace(test, folder=folder, calls=[call for call in test.calls if call.row in rows])


# --- systems whose use of the picture is known --------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, verdict, follows, brightness_alone",
    [("never", NO, [], False), ("brightness", DEPENDS, [], True), ("release", DEPENDS, [], False)],
)
def test_planted_systems_are_told_apart(kind, verdict, follows, brightness_alone, drawn, listeners, tmp_path, short):
    test = copied(drawn, tmp_path, DECISIVE)
    results = picture_test(kind, test, listeners, one_by_one(functools.partial(planted.play, kind)))
    assert (results["verdict"], results["follows"], results["brightness_alone"]) == (verdict, follows, brightness_alone)
    assert results["about"]["failed"] == 0


def test_a_bridge_that_reads_the_place_follows_it_and_nothing_else_and_the_words_are_kept(drawn, listeners, tmp_path, short):
    test = copied(drawn, tmp_path)
    results = picture_test("bridge", test, listeners, one_by_one(functools.partial(planted.play, "bridge")))
    assert (results["verdict"], results["follows"]) == (FOLLOWS, ["place"])
    judge = results["following"]["place"]["judge"]
    assert judge["lower half"]["accuracy"] > 0.9 > 0.5 > judge["upper half"]["accuracy"]
    assert results["words"]["tonic"]["right"]["accuracy"] > 0.9 and results["words"]["tonic"]["lost to the picture"]["mean"] < 0.1
    assert results["contradiction"]["place"]["words"]["accuracy"] < 0.3
    text, page = ((tmp_path / f"picture_test.{kind}").read_text() for kind in ("md", "html"))
    assert "**The system follows the picture.** What it follows: place." in text and text == card(results)
    assert FOLLOWS in page and page.count("<audio") > 40
    assert json.loads((tmp_path / "picture_test.json").read_text())["verdict"] == FOLLOWS


@pytest.fixture(scope="module")
def tuples(config, tmp_path_factory):
    """A prepared test on real tuples: 12 tracks of two games, chords of their own, with a picture each, all as bright."""
    samples = []
    for i in range(12):
        waveform = sum(tone(SECONDS, 16000, 110 * 2 ** ((5 * i + step) / 12), 0.1) for step in (0, 4 + i % 2, 12, 19))
        picture = np.random.default_rng(i).permutation(np.arange(64 * 48 * 3) % 256).reshape(48, 64, 3).astype(np.uint8)
        labels = {"game": f"game {i % 2}", "track": f"track {i}", "image_id": f"picture {i}"}
        picture = encoded(Image.fromarray(picture))
        samples.append(make_sample(f"s{i:02d}", "test", sound(waveform, 16000), image=picture, labels=labels))
    folder = tmp_path_factory.mktemp("tuples")
    given = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(data_set(folder / "set", samples))))
    return prepare(Asked(1, 12, given.data.path), given, folder)


@pytest.mark.parametrize("kind, verdict", [("noise", NO), ("some_track", DEPENDS), ("own_track", FOLLOWS)])
def test_planted_systems_are_told_apart_on_real_tuples(kind, verdict, tuples, config, tmp_path, short):
    test = copied(tuples, tmp_path, DECISIVE)  # log-mels alone tell
    results = picture_test(kind, test, Listeners(config.audio), one_by_one(functools.partial(planted.play_track, kind)))
    assert results["verdict"] == verdict and results["about"]["failed"] == 0
    assert results["follows"] == (["own track by log-mel"] if verdict == FOLLOWS else [])


# --- the rule, without sounds -------------------------------------------------------------------------------------


def simulated(system, n=48, seed=0):
    """Measured of n items, where system(rng, class shown (None for none), brightness, picture's number, item) → (class, vector)."""
    rng = np.random.default_rng(seed)
    classes = {"place": ["sea", "forest", "desert"], "time": ["dawn", "noon", "dusk"], "weather": ["clear", "rain", "snow"]}
    measured = Measured(vectors={LOG_MEL: {}}, classes={"place": {}})
    items = []
    for i in range(n):
        labels = {name: str(rng.choice(some)) for name, some in classes.items()}
        own, others = labels["place"], [c for c in classes["place"] if c != labels["place"]]
        bright, labels = rng.random(), labels | {"tonic": "C", "mode": "major"}
        items.append(asking.Item(f"k{i}", "", "", i, labels, labels, differing=["place"], group=f"k{i}"))
        shown = dict.fromkeys(("right", "again", "contradicted", "upper half", "lower half"), (own, bright, i))
        shown["other"] = str(rng.choice(others)), rng.random(), i + n
        shown["as bright"] = str(rng.choice(others)), bright, i + 2 * n
        for row, (place, luminance, number) in (shown | {"none": (None, 0.0, -1)}).items():
            predicted, vector = system(rng, place, luminance, number, i)
            measured.classes["place"].setdefault(row, {})[i] = predicted
            measured.vectors[LOG_MEL].setdefault(row, {})[i] = vector
            measured.features.setdefault(row, {})[i] = vector.double()
    return measured, items


def random_vector(*numbers):
    return torch.randn(6, generator=torch.Generator().manual_seed(abs(hash(numbers)) % 2**31))


CODE = {"sea": 0, "forest": 1, "desert": 2}


@pytest.mark.parametrize(
    "system, verdict, follows",
    [
        (lambda rng, place, light, number, i: ("sea", random_vector(i)), NO, []),
        (lambda rng, place, light, number, i: ("sea", torch.from_numpy(rng.normal(size=6))), NO, []),  # ignores its seed
        (lambda rng, place, light, number, i: ("sea", random_vector(i) + light), DEPENDS, []),
        (lambda rng, place, light, number, i: ("sea", random_vector(i, number)), DEPENDS, []),
        (lambda rng, place, light, number, i: (place or "sea", random_vector(i, number)), FOLLOWS, ["place"]),
        # a code of its own, which the judge does not know
        (lambda rng, p, light, n, i: ("sea", 0.1 * random_vector(i) + torch.eye(6)[CODE.get(p, 5)]), FOLLOWS, ["place"]),
    ],
    ids=["never", "noise", "brightness", "unrelated", "judged", "own code"],
)
def test_the_verdict_follows_its_rule(system, verdict, follows):
    results = judged(*simulated(system))
    assert (results["verdict"], results["follows"]) == (verdict, follows)


def test_a_system_that_varies_by_itself_is_seldom_said_to_depend():
    def noise(rng, place, light, number, i):
        return "sea", torch.from_numpy(rng.normal(size=6))

    groups = [f"k{i}" for i in range(24)]
    assert sum(dependence(simulated(noise, 24, seed)[0], groups)["depends"] for seed in range(60)) <= 3


def test_what_brightness_explains_is_not_followed():
    dark = dict.fromkeys(range(30), "night")
    found = statistics.followed(dark, dark, {}, dark, range(30), 4, [f"k{i}" for i in range(30)])
    assert found["permuted"] == 1 and not found["brightness"]  # of one class nothing is more than chance
    wanted = {i: ("night", "noon")[i % 2] for i in range(30)}
    found = statistics.followed(wanted, wanted, {}, wanted, range(30), 4, [f"k{i}" for i in range(30)])
    assert found["brightness"] and not found["follows"]


def test_items_of_one_piece_of_music_count_once():
    differences = dict.fromkeys(range(40), 1.0)
    found = statistics.paired(differences, dict.fromkeys(range(40), 0.0), [f"track {i % 2}" for i in range(40)])
    assert found["n"] == 2 and found["p"] > 0.2


def test_on_real_tuples_nearness_to_the_own_track_decides():
    def near(rng, place, light, number, i):
        return "sea", random_vector(i) * (number == i) + random_vector(i, number)

    for pull, verdict in ((1.0, FOLLOWS), (0.0, DEPENDS)):
        measured, items = simulated(lambda *a, pull=pull: ("sea", near(*a)[1] - (1 - pull) * random_vector(a[4]) * (a[3] == a[4])))
        measured.tracks[LOG_MEL] = {i: 2 * random_vector(i) for i in range(len(items))}
        items = [dataclasses.replace(item, track="t.wav", labels={}) for item in items]
        assert judged(measured, items)["verdict"] == verdict


def test_too_few_sounds_give_no_verdict():
    with pytest.raises(DataError, match="Only 8 items"):
        judged(*simulated(lambda rng, place, light, number, i: ("sea", random_vector(i)), n=8))


# --- items --------------------------------------------------------------------------------------------------------


def test_items_ask_what_they_should(drawn):
    assert {call.row for call in drawn.calls} == set(asking.ROWS)
    for item in drawn.items:
        assert item.pictures["right"] == item.pictures["again"] != item.pictures["other"]
        assert item.shows["other"]["place"] != item.labels["place"] and item.shows["other"]["time"] != item.labels["time"]
        assert item.said["place"] != item.labels["place"] and item.said["weather"] != item.labels["weather"]
        assert item.prompt in item.contradicting
    manifest = [json.loads(line) for line in (drawn.folder / MANIFEST).read_text().splitlines()]
    assert len(manifest) == len(drawn.calls) and {line["image"] for line in manifest} >= {None}
    assert not any(word in (drawn.folder / MANIFEST).read_text() for word in ("right", "other", "half"))  # names tell nothing


def test_pictures_that_are_as_bright_are_and_a_half_is_hidden(drawn):
    for item in drawn.items:
        pictures = {row: Image.open(drawn.folder / "pictures" / name) for row, name in item.pictures.items() if name}
        if "as bright" in pictures:
            light, other = (asking.brightness(pictures[row]) for row in ("right", "as bright"))
            assert abs(light - other) < asking.TOLERANCE + 1 and item.differing
        upper = np.asarray(pictures["lower half"])[: pictures["right"].height // 2]
        assert (upper == asking.GREY).all()


def test_the_same_folder_goes_on_and_another_test_is_refused(drawn, config, tmp_path):
    test = copied(drawn, tmp_path)
    again = prepare(Asked(SEED, N), config, tmp_path)
    assert again.items == test.items and again.calls == test.calls
    with pytest.raises(ConfigError, match=f"of seed={SEED}"):
        prepare(Asked(SEED + 1, N), config, tmp_path)
    claim(tmp_path, {"command": "a"})
    with pytest.raises(ConfigError, match="another system"):
        claim(tmp_path, {"command": "b"})
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / MANIFEST).write_text("{}")
    with pytest.raises(ConfigError, match="is not the manifest"):
        check_manifest(test, tmp_path / "theirs")
    assert (tmp_path / ITEMS).is_file()


def test_items_of_real_tuples(tiny, tiny_corpus, tmp_path):
    config = tiny(f"data.path={tiny_corpus}")
    test = prepare(Asked(1, 12, str(tiny_corpus), "train"), config, tmp_path)
    assert len(test.items) == 12 and {call.row for call in test.calls} >= {"right", "other", "none"}
    for item in test.items:
        assert item.pictures["other"] != item.pictures["right"] and (tmp_path / item.track).is_file()
        assert item.prompt.startswith("tune number") and item.contradicting.startswith(f"{item.prompt}, ")
    with pytest.raises(ConfigError, match="4 items with pictures of split=test .* come from 4 pieces of music"):
        prepare(Asked(1, 12, str(tiny_corpus)), config, tmp_path / "few")


# --- sounds -------------------------------------------------------------------------------------------------------


def play_tone(request, rate=16000, seconds=5.12, channels=1):
    wave = 0.3 * np.sin(2 * np.pi * (220 + request.seed) * np.arange(int(rate * seconds)) / rate)
    soundfile.write(request.out, np.repeat(wave[:, None], channels, 1), rate, format="WAV")


def test_failing_calls_are_counted_and_what_is_there_is_not_made_again(drawn, config, tmp_path):
    test, made = copied(drawn, tmp_path, ("right",)), []

    def moody(request):
        made.append(request.out.name)
        if request.seed == 1:
            raise RuntimeError("no mood")
        if request.seed == 2:
            soundfile.write(request.out, np.zeros(80000), 16000)
        elif request.seed == 3:
            request.out.write_bytes(b"RIFF nonsense")
        elif request.seed != 4:
            play_tone(request)

    failed = make(one_by_one(moody), test.calls, tmp_path, config.audio)
    assert sorted(reasons(failed)) == sorted(
        ["RuntimeError: no mood", "silence (RMS below audio.silence_dbfs=-55 dBFS)", "unreadable audio", "no such file was written"]
    )
    assert len(made) == N
    make(one_by_one(moody), test.calls, tmp_path, config.audio)
    assert len(made) == N + 4  # those that failed are tried again


def test_a_system_that_makes_nothing_is_told_at_once(drawn, config, tmp_path):
    def broken(request):
        raise RuntimeError("no weights")

    with pytest.raises(ConfigError, match="first 8 calls all failed, the last one so: RuntimeError: no weights"):
        make(one_by_one(broken), copied(drawn, tmp_path).calls, tmp_path, config.audio)


def test_what_a_killed_run_left_is_taken_but_for_the_last(drawn, config, tmp_path):
    test = copied(drawn, tmp_path, ("right",))
    (tmp_path / "making").mkdir()
    for age, call in enumerate(test.calls[:3]):
        out = sound_file(tmp_path / "making", call)
        play_tone(Request(None, "", call.seed, out))
        os.utime(out, (1000 + age, 1000 + age))
    made = []
    make(one_by_one(lambda request: (made.append(request.out.stem), play_tone(request))), test.calls, tmp_path, config.audio)
    assert sorted(made) == sorted(call.name for call in test.calls[2:])


@pytest.mark.parametrize("rate, seconds, channels", [(44100, 8, 2), (48000, 2, 1), (8000, 5.12, 2)])
def test_any_rate_length_and_number_of_channels_is_brought_to_one_clip(rate, seconds, channels, config, tmp_path):
    play_tone(Request(None, "", 0, tmp_path / "a.wav"), rate, seconds, channels)
    waveform = read_sound(tmp_path / "a.wav", config.audio)
    assert waveform.shape == (SECONDS * 16000,)
    kept = waveform[: round(min(seconds, SECONDS) * 16000)]
    assert 20 * np.log10(np.sqrt(np.mean(kept**2))) == pytest.approx(config.audio.loudness_dbfs, abs=0.1)


# --- commands -----------------------------------------------------------------------------------------------------

WRITER = "import sys, shutil; open(sys.argv[2] + '.txt', 'w').write(repr(sys.argv[1:])); shutil.copy(sys.argv[3], sys.argv[2])"


def test_a_command_gets_its_arguments_verbatim_and_no_shell(tmp_path):
    sound, out = tmp_path / "a.wav", tmp_path / "b.wav"
    play_tone(Request(None, "", 0, sound))
    prompt = "a 'tune'; $(touch x) {seed} & \"two\""
    command = Command(f'{sys.executable} -IS -c "{WRITER}" --p={{prompt}} {{out}} {sound} {{image}} {{seed}}')
    assert [list(batch) for batch in command([Request(None, prompt, 7, out)])] == [[(Request(None, prompt, 7, out), "")]]
    assert Path(f"{out}.txt").read_text() == repr([f"--p={prompt}", str(out), str(sound), "", "7"]) and out.is_file()


@pytest.mark.parametrize(
    "code, limit_s, reason",
    [
        ("import sys; print('one', flush=True); sys.exit('weights are missing')", 60, "exit code 1: weights are missing"),
        ("import time; time.sleep(60)", 1, "longer than 1 s"),
        ("", 60, ""),
    ],
)
def test_why_a_command_failed(code, limit_s, reason, tmp_path):
    command = Command(f'{sys.executable} -IS -c "{code}" {{image}} {{out}}', limit_s)
    assert [said for batch in command([Request(None, "", 0, tmp_path / "a.wav")]) for _, said in batch] == [reason]


def test_a_command_with_a_manifest_starts_once(tmp_path):
    code = "import json, sys; [open(json.loads(line)['out'], 'w') for line in list(open(sys.argv[1]))[1:]]; sys.exit('later')"
    requests = [Request(tmp_path / "p.png" if i else None, f"tune {i}", i, tmp_path / f"{i}.wav") for i in range(3)]
    (answers,) = Command(f'{sys.executable} -IS -c "{code}" {{manifest}}')(requests)
    assert [reason for _, reason in answers] == ["exit code 1: later", "", ""]
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert lines[0] == {"image": None, "prompt": "tune 0", "seed": 0, "out": str(tmp_path / "0.wav")}


@pytest.mark.parametrize(
    "command, words",
    [
        ("nosuchprogram {image} {out}", "which is no program here"),
        ("python theirs.py", "it holds none of them"),
        ("python {manifest} {out}", "holds {manifest} and others"),
        ("python 'theirs.py {image} {out}", "cannot be split"),
        ("", "it is empty"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused(command, words):
    with pytest.raises(ConfigError, match=words.replace("{", r"\{")):
        Command(command)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"command": "a", "sounds": "b"}, "command= and sounds= name different systems"),
        ({"only": "sounds"}, "give only=manifest"),
        ({"only": "manifest", "command": "a"}, "tests no system"),
        ({"sounds": "/nowhere"}, "there is no such folder"),
        ({"data": "/nowhere"}, "there is no such folder"),
        ({"n": 5000}, "more than limit=1000"),
    ],
)
def test_a_call_that_cannot_be_meant_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        verb.check(verb.Options(**options), [])


# --- the verb -----------------------------------------------------------------------------------------------------


@pytest.mark.slow  # five systems of 24 items; the fast tests judge planted systems within this process
@pytest.mark.parametrize(
    "kind, verdict, follows, brightness_alone",
    [
        ("never", NO, [], False),
        ("brightness", DEPENDS, [], True),
        ("release", DEPENDS, [], False),
        ("bridge", FOLLOWS, ["place"], False),
        (None, FOLLOWS, ["place", "time", "weather"], False),  # the shipped model
    ],
)
def test_by_command(kind, verdict, follows, brightness_alone, tmp_path):
    command = kind and f"{sys.executable} {planted.__file__} {kind} --manifest {{manifest}}"
    results = verb.run(verb.Options(command=command, n=24, out=str(tmp_path)), [])
    assert (results["verdict"], results["follows"], results["brightness_alone"]) == (verdict, follows, brightness_alone)


@pytest.mark.slow  # drawn pictures, another program and the listeners at real size
def test_a_folder_of_sounds_that_was_made_from_the_manifest(tmp_path):
    assert verb.run(verb.Options(only="manifest", n=12, out=str(tmp_path)), []) == {}
    (tmp_path / "sounds").mkdir()
    made = [sys.executable, planted.__file__, "never", "--manifest", MANIFEST]
    subprocess.run(made, cwd=tmp_path, check=True)  # the paths of a manifest are relative to it
    given = verb.run(verb.Options(sounds=str(tmp_path / "sounds"), n=12, out=str(tmp_path)), [])
    assert given["verdict"] == NO and given["about"]["failed"] == 0
