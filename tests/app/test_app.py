"""The page through its own interface: what it makes, restores, refuses and keeps apart."""

import json
import threading
import time
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
import soundfile
from data_fixtures import write_film
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from pages import page, tiny
from PIL import Image

from melfusion.app.actions import Actions
from melfusion.app.server import accounts
from melfusion.assembly.provenance import read
from melfusion.errors import ConfigError
from melfusion.verbs import app as verb

PICTURE, SENTENCE, SEED, N, STEPS, SECONDS, MODEL = 0, 1, 2, 3, 5, 8, 9
OTHERS = (
    {4: "", 6: 3.0, 7: 3.0, 10: None, 11: "nothing", 12: 0.6, 13: 5, 14: 0, 15: 1}
    | {16: None, 17: ""}
    | dict.fromkeys(range(18, 25), "")
    | {25: None}
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """(address, actions) of one page for all tests."""
    with page(tmp_path_factory.mktemp("page")) as found:
        yield found


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(file)
    return file


def values(**given):
    """The page's inputs in their order, with what differs."""
    usual = OTHERS | {PICTURE: None, SENTENCE: "rain", SEED: "", N: 1, STEPS: 2, SECONDS: 1.02, MODEL: "small"}
    usual |= {globals()[name]: value for name, value in given.items()}
    usual[PICTURE] = usual[PICTURE] and handle_file(usual[PICTURE])
    return [usual[i] for i in range(26)]


def client(shown):
    return Client(shown[0], verbose=False)


def generated(visitor, lock=False, **given):
    """What `generate` shows: words, seed box, history, …, players, choice, spectrogram and files."""
    status, seed, past, _, *rest = visitor.predict(*values(**given), lock, api_name="/generate")
    players = [value(one) for one in rest[:4]]
    return status, seed, past, [one for one in players if one], [value(one) for one in rest[5:10]]


def value(one):
    return one.get("value", one.get("path")) if isinstance(one, dict) else one


def test_a_picture_and_a_sentence_become_clips_with_what_made_them_inside(shown, picture):
    status, seed, past, players, files = generated(client(shown), PICTURE=str(picture), N=2, SEED="7", lock=True)
    assert "Seed 7 to 8, 1.02 s, model small" in status and seed == "7"
    assert [len(soundfile.read(one)[0]) for one in players] == [8192, 8192]
    assert [read(one)["seed"] for one in players] == [7, 8]
    spectrogram, wav, flac, mp3, made = files
    assert Image.open(spectrogram).width > 300
    for file in (wav, flac, mp3):
        assert read(file) == json.loads(Path(made).read_text()) and read(file)["prompt"] == "rain"
    assert read(wav)["image"]["path"] == "cat.png" and read(wav)["settings"]["num_inference_steps"] == 2
    direct = tiny("concat")("rain", picture, seed=7, n=2, num_inference_steps=2, guidance_scale=3.0, image_guidance_scale=3.0)
    np.testing.assert_allclose(soundfile.read(players[1])[0], direct.audios[1], atol=1e-4)


def test_the_seed_is_drawn_shown_and_kept_where_that_is_wished(shown):
    visitor = client(shown)
    first, again = generated(visitor), generated(visitor, lock=True)
    assert first[1] == "" and again[1].isdecimal() and first[0] != again[0] and f"Seed {again[1]}," in again[0]


def test_history_restores_everything_and_two_visitors_have_their_own(shown, picture):
    one, two = client(shown), client(shown)
    generated(one, PICTURE=str(picture), SEED="3", STEPS=1, SECONDS=2.05)
    past = generated(one, SENTENCE="snow", SEED="4")[2]
    assert len(past["choices"]) == 2 and len(generated(two, SENTENCE="wind")[2]["choices"]) == 1
    assert past["choices"][1][0] == "rain + picture, seed 3, 1 clip"
    back = one.predict(1, api_name="/restore")
    assert Path(value(back[0])).read_bytes() == picture.read_bytes() and value(back[5]) == 1
    assert [value(one) for one in back[1:4]] == ["rain", "3", 1]
    assert value(back[8]) == 2.05 and read(value(back[26]))["seed"] == 3
    with pytest.raises(AppError, match="not in the list of choices"):
        two.predict(1, api_name="/restore")
    with pytest.raises(AppError, match="not in the list of choices"):
        client(shown).predict(0, api_name="/choose")


def test_it_stops_between_two_steps_and_only_for_the_visitor_who_asked(shown, monkeypatch):
    url, actions = shown
    begun, system = threading.Event(), actions.models.get("small").system
    denoise = system.denoise

    def slow(*args):
        begun.set()
        time.sleep(0.1)
        return denoise(*args)

    monkeypatch.setattr(system, "denoise", slow)
    one, two = client(shown), client(shown)
    job = one.submit(*values(STEPS=100), False, api_name="/generate")
    waiting = two.submit(*values(STEPS=2, SEED="5"), False, api_name="/generate")
    assert begun.wait(10)
    started = time.perf_counter()
    one.predict(api_name="/stop")
    assert "Stopped: nothing was made." in job.result()[0] and time.perf_counter() - started < 5
    assert "Seed 6," in generated(one, SEED="6")[0]  # the wish was of that call
    assert "Seed 5," in waiting.result()[0]


def test_where_the_picture_acted_is_a_picture(shown, picture):
    maps = {}
    for how, said in (("occlusion", "hiding this part"), ("attention", "gets most attention")):
        words, image = client(shown).predict(*values(PICTURE=str(picture), SEED="1"), how, api_name="/influence")
        maps[how] = Image.open(value(image)).tobytes()
        assert said in words and Image.open(value(image)).height > 200
    assert maps["occlusion"] != maps["attention"]
    with pytest.raises(AppError, match="There is no picture"):
        client(shown).predict(*values(), "occlusion", api_name="/influence")


def test_another_model_shows_its_own_inputs(shown, picture):
    found = client(shown).predict("plain", api_name="/model")
    assert found[0] == "Model plain." and found[6]["visible"] is False and found[2]["value"] == 4
    with pytest.raises(AppError, match="trained from text alone"):
        generated(client(shown), MODEL="plain", PICTURE=str(picture))
    visitor = client(shown)
    generated(visitor, PICTURE=str(picture))
    assert "model plain" in generated(visitor, MODEL="plain")[0]
    assert visitor.predict(0, api_name="/restore")[0]["visible"] is False  # a model without pictures shows no place for one
    assert visitor.predict(1, api_name="/restore")[0]["visible"] is True


def test_a_clip_is_the_start_of_the_next_one(shown):
    """The three ways to edit, and every weight of the sampling, reach the model from the page."""
    visitor = client(shown)
    (first,) = generated(visitor, SEED="1")[3]
    start, mode, end = visitor.predict(0, "nothing", api_name="/use")
    assert mode == "change all of it" and end == 1.02 and Path(value(start)).read_bytes() == Path(first).read_bytes()
    assert visitor.predict(0, api_name="/span")[1] == "make a span of it anew"
    sound = {10: handle_file(value(start))}
    for given, made in (
        ({11: mode, 12: 0.5, 4: "drums", 6: 2.0, 7: 4.0}, {"strength": 0.5, "negative_prompt": "drums", "guidance_scale": 2.0}),
        ({11: "make a span of it anew", 14: 0.2, 15: 0.8}, {"repaint": [0.2, 0.8]}),
        ({11: "go on after its end", 13: 1}, {"extend_s": 1}),
    ):
        inputs = values(SEED="2")
        for place, one in (sound | given).items():
            inputs[place] = one
        *_, player = visitor.predict(*inputs, False, api_name="/generate")[:5]
        said = read(value(player))["settings"]
        assert {name: said[name] for name in made} == made and read(value(player))["files"]["audio"]["path"].endswith(".wav")


def test_pictures_with_times_become_one_piece(shown, picture, tmp_path):
    visitor, other = client(shown), tmp_path / "hill.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(other)
    inputs = values(SECONDS=3.0, SEED="4")
    inputs[16], inputs[17] = [handle_file(picture), handle_file(other)], "0; 1.5"
    _, _, past, _, player, *_ = visitor.predict(*inputs, False, api_name="/generate")
    made = read(value(player))
    assert [made["files"][f"scene {k}"]["path"] for k in (1, 2)] == ["cat.png", "hill.png"]
    assert len(soundfile.read(value(player))[0]) == 24000 and past["choices"][0][0] == "rain + 2 pictures, seed 4, 1 clip"
    back = visitor.predict(0, api_name="/restore")
    assert [Path(one).name for one in value(back[16])] == ["cat.png", "hill.png"] and value(back[17]) == "0; 1.5"
    inputs[17] = "0"
    with pytest.raises(AppError, match="The times '0' are not 2 numbers of seconds"):
        visitor.predict(*inputs, False, api_name="/generate")


def scored(visitor, film, **given):
    """What `film` shows: words, seed box, the film, and the file to take home."""
    film = film and handle_file(film)
    words, seed, shown, file, past = visitor.predict(*values(**given), False, film, api_name="/film")
    return words, seed, value(shown), value(file), past


def test_a_film_comes_back_with_its_music(shown, tmp_path):
    frames = np.repeat(np.uint8([0, 200]), 12 * 48 * 64 * 3).reshape(24, 48, 64, 3)
    film, visitor = write_film(tmp_path / "holiday.mp4", frames), client(shown)
    words, seed, video, file, past = scored(visitor, film, SEED="5")
    video = video["video"] if isinstance(video, dict) else video
    assert words == "Seed 5, 2 scenes, model small." and seed == ""
    assert Path(video).read_bytes() == Path(file).read_bytes() and read(file)["files"]["film"]["path"] == "holiday.mp4"
    assert read(file)["settings"]["num_inference_steps"] == 2 and read(file)["prompt"] == "rain"
    with av.open(str(file)) as made:
        assert abs(sum(frame.samples for frame in made.decode(audio=0)) - 2.4 * 8000) < 3000
    assert past["choices"][0][0] == "rain + holiday.mp4, seed 5, film"
    *_, asked, again, other = visitor.predict(0, api_name="/restore")
    assert Path(value(asked)).read_bytes() == film.read_bytes()
    again = value(again)["video"] if isinstance(value(again), dict) else value(again)
    assert Path(again).read_bytes() == Path(value(other)).read_bytes() == Path(file).read_bytes()
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    (tmp_path / "tune.wav").write_bytes(b"no film")
    (tmp_path / "large.mp4").write_bytes(bytes(2 << 20))
    for one, said in (
        (None, "Give a film"),
        (tmp_path / "bad.mp4", r"bad\.mp4 cannot be read"),
        (tmp_path / "tune.wav", "Invalid file type"),
        (write_film(tmp_path / "long.mp4", np.zeros((90, 48, 64, 3), np.uint8)), r"long\.mp4 is longer than 8 s"),
        (tmp_path / "large.mp4", "413|size"),
    ):
        with pytest.raises(Exception, match=said):
            scored(visitor, one)


def test_more_visitors_than_the_queue_holds_are_sent_away(shown, monkeypatch):
    system, free = shown[1].models.get("small").system, threading.Event()
    denoise = system.denoise
    monkeypatch.setattr(system, "denoise", lambda *args: [free.wait(20), denoise(*args)][1])
    jobs = [client(shown).submit(*values(STEPS=1), False, api_name="/generate") for _ in range(8)]
    time.sleep(1.0)
    free.set()
    found = [job.exception(60) for job in jobs]
    refused = [str(error) for error in found if error]
    assert 0 < len(refused) < 8 and all("full" in words for words in refused), refused


def test_every_answer_forbids_requests_to_others(shown):
    answer = httpx.get(shown[0])
    assert "default-src 'self'" in answer.headers["content-security-policy"] and "no-referrer" in answer.headers["referrer-policy"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"SENTENCE": " "}, "Give a picture, a sentence, or both"),
        ({"SEED": "x"}, "'x' is no whole number"),
        ({"SEED": "9" * 19}, "seed: .* must be from 0"),
        ({"SECONDS": 9.0}, "greater than maximum value 8"),
        ({"STEPS": 10_000}, "must be|greater|maximum|more than"),
        ({"N": 5}, "must be|greater|maximum|more than"),
        ({"MODEL": "/etc"}, "/etc"),
        ({"SENTENCE": "x" * 5000}, "longer than 4000 characters"),
    ],
)
def test_wrong_requests_are_sentences(shown, given, words):
    with pytest.raises(AppError, match=words):
        generated(client(shown), **given)


def test_files_that_are_no_pictures_or_too_large_are_sentences(shown, tmp_path):
    for name, data, words in (
        ("a.png", b"no picture", r"a\.png is an unreadable image: give a PNG, JPEG or WebP picture"),
        ("b.png", b"<svg xmlns='x'></svg>", r"b\.png is an SVG drawing: convert it to PNG"),
        ("c.png", b"", r"c\.png is empty"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(AppError, match=words):
            generated(client(shown), PICTURE=str(tmp_path / name))
    Image.new("1", (8000, 8000)).save(tmp_path / "d.png")
    with pytest.raises(AppError, match="pixels"):
        generated(client(shown), PICTURE=str(tmp_path / "d.png"))
    (tmp_path / "e.png").write_bytes(bytes(2 << 20))
    with pytest.raises(Exception, match="413|size"):
        generated(client(shown), PICTURE=str(tmp_path / "e.png"))


def posted(url, path):
    """What the page answers to a request that names a file, and did not come from the page."""
    data = values()
    data[PICTURE] = {"path": path, "meta": {"_type": "gradio.FileData"}}
    with httpx.Client(base_url=f"{url}gradio_api/", trust_env=False) as sent:
        event = sent.post("call/generate", json={"data": [*data, False]}).json()["event_id"]
        return sent.get(f"call/generate/{event}").text, sent.get(f"file={path}").status_code


def test_no_file_of_the_server_and_no_address_is_read_for_a_visitor(shown):
    for path, words in (
        ("/etc/passwd", "not uploaded by a user"),
        (__file__, "not uploaded by a user"),
        ("http://127.0.0.1:9/a.png", "upload the file"),
        ("https://example.com/a.png", "upload the file"),
    ):
        said, status = posted(shown[0], path)
        assert "event: error" in said and words in said and status == 403


def test_who_has_no_password_does_not_come_in(tmp_path):
    file = tmp_path / "visitors"
    file.write_text("ann:a:b\n")
    with page(tmp_path / "page", accounts(str(file))) as (url, _):
        with pytest.raises(Exception, match="(?i)auth|credentials|401"):
            Client(url, verbose=False)
        assert Client(url, auth=("ann", "a:b"), verbose=False)
    for text, words in (("", "NAME:PASSWORD"), ("ann\n", "NAME:PASSWORD")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            accounts(str(file))


def test_a_bug_is_told_as_one_and_logged(shown, monkeypatch, caplog):
    monkeypatch.setattr(Actions, "_kept", lambda *args: [][1])
    with pytest.raises(AppError, match="a bug of melfusion"):
        generated(client(shown))
    assert "IndexError" in caplog.text


def test_mistakes_on_the_command_line_are_sentences(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="There is no checkpoint in nowhere"):
        verb.run(verb.Options(ckpt="nowhere"), [])
    with pytest.raises(ConfigError, match="there is no such file"):
        verb.run(verb.Options(auth=str(tmp_path / "none")), [])
    monkeypatch.setattr(verb.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'melfusion\[app\]'"):
        verb.run(verb.Options(), [])
