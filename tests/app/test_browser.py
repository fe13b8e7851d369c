"""The page in headless Chromium: what a visitor sees and plays, at a desk and on a phone."""

import time

import av
import numpy as np
import pytest
import soundfile
from browser import CHROMIUM, browser
from pages import page
from PIL import Image

from melfusion.assembly.provenance import read

SLOW = pytest.mark.slow  # a browser and a page, minutes
pytestmark = [SLOW, pytest.mark.skipif(CHROMIUM is None, reason="no chromium in PATH")]
pytest.importorskip("aiohttp", reason="the browser is driven through aiohttp")

STATUS, PLAYER = "document.querySelector('#status').innerText", "document.querySelector('#clip-1')"
PICTURE, SENTENCE = "#picture input[type=file]", "#sentence textarea"

# the sound that the browser was given, decoded by it: [samples a second, samples, loudest]
DECODED = """(async url => {
  const bytes = await (await fetch(url)).arrayBuffer();
  const sound = await new OfflineAudioContext(1, 1, 8000).decodeAudioData(bytes);
  return [sound.sampleRate, sound.length, Math.max(...sound.getChannelData(0).map(Math.abs))];
})"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """(address, actions) of one page for all tests."""
    with page(tmp_path_factory.mktemp("page")) as found:
        yield found


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(file)
    return file


@pytest.fixture
def visitor(chromium, shown):
    """visitor(width=…) → a tab with the page. Tabs are closed at the end: each keeps one of the six connections to a host."""
    tabs = []

    def come(**how):
        tabs.append(chromium.tab())
        tabs[-1].open(shown[0], **how)
        return tabs[-1]

    yield come
    for tab in tabs:
        tab.close()


def press(tab, words, said):
    """A sentence, the button, and wait for words of the page."""
    tab.type(SENTENCE, words)
    tab.click("#generate")
    tab.until(f"{STATUS}.includes('{said}')")


def sounds(tab):
    """Addresses of the sounds that the page asked for."""
    tab.js("0")  # what has arrived meanwhile
    return [url for url in tab.asked if url.endswith(".wav")]


def newest(shown):
    """The clip that was made last."""
    return max(shown[1].folder.glob("*/*.wav"), key=lambda file: file.stat().st_mtime)


def test_a_picture_goes_in_and_the_player_plays_a_clip_of_the_right_length(visitor, shown, picture):
    tab = visitor()
    tab.upload(PICTURE, picture)
    tab.until("document.querySelector('#picture img')")
    press(tab, "rain", "Seed ")
    tab.until(f"{PLAYER}.innerText.includes('0:01')")
    rate, length, loudest = tab.js(f"{DECODED}({sounds(tab)[-1]!r})")
    assert (rate, length) == (8000, 8192) and loudest > 0.001
    tab.js(f"{PLAYER}.querySelector('button[aria-label=Play]').click()")
    tab.until(f"{PLAYER}.querySelector('#time, .timestamps time').innerText != '0:00'", 20)
    tab.until("document.querySelector('#spectrogram img').naturalWidth > 300")
    tab.click("#ask")
    tab.until("document.querySelector('#influence img')?.naturalWidth > 200")
    assert all(url.startswith((shown[0], "data:", f"blob:{shown[0]}")) for url in tab.asked), tab.asked
    assert not tab.said


def test_two_visitors_make_their_own_and_one_stops(visitor, shown, monkeypatch):
    system = shown[1].models.get("small").system
    denoise = system.denoise
    monkeypatch.setattr(system, "denoise", lambda *args: time.sleep(0.5) or denoise(*args))
    one, two = visitor(), visitor()
    for tab, words in ((one, "snow"), (two, "wind")):
        tab.type(SENTENCE, words)
        tab.click("#generate")
    one.until(f"{STATUS}.includes('waiting') || document.querySelector('#status').innerHTML.includes('step')")
    one.click("#stop")
    one.until(f"{STATUS}.includes('Stopped: nothing was made')")
    two.until(f"{STATUS}.includes('Seed ')")
    two.until(f"{PLAYER}.innerText.includes('0:01')")
    assert sounds(two) and not sounds(one)


def test_files_that_are_none_are_sentences(visitor, shown, tmp_path):
    tab, bad = visitor(), tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    tab.upload(PICTURE, bad)
    time.sleep(1)
    tab.type(SENTENCE, "rain")
    tab.click("#generate")
    tab.until("document.body.innerText.includes('bad.png is an unreadable image')")


def test_a_clip_becomes_the_start_of_the_next(visitor, shown):
    tab = visitor()
    press(tab, "rain", "Seed ")
    first = newest(shown)
    tab.click("#reuse")
    tab.until("document.querySelector('#start')?.innerText.includes('0:01')")
    tab.type(SENTENCE, "snow and wind")
    tab.click("#generate")
    end = time.monotonic() + 60
    while newest(shown) == first and time.monotonic() < end:
        time.sleep(0.1)
    tab.until(f"{STATUS}.includes('Seed ')")
    made = newest(shown)
    assert made != first and read(made)["settings"]["strength"] == 0.8 and len(soundfile.read(made)[0]) == 8192
    assert soundfile.read(first)[0].tolist() != soundfile.read(made)[0].tolist()


# what is seen of a film: [seconds, pixels of width, bytes of sound that were decoded]
FILM = """(async () => {
  const film = document.querySelector('#film-shown video');
  film.muted = true; await film.play();
  await new Promise(done => setTimeout(done, 700)); film.pause();
  return [film.duration, film.videoWidth, film.webkitAudioDecodedByteCount];
})()"""


def test_a_film_is_shown_with_its_music(visitor, shown, tmp_path):
    tab, film = visitor(), tmp_path / "walk.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in [0] * 10 + [200] * 10:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    tab.js("[...document.querySelectorAll('button')].find(one => one.innerText.trim().startsWith('Film')).click()")
    tab.until("document.querySelector('#film input[type=file]')")
    tab.upload("#film input[type=file]", film)
    tab.until("document.querySelector('#film').innerText.includes('walk.mp4')")
    tab.click("#score")
    tab.until(f"{STATUS}.includes('2 scenes')")
    tab.until("document.querySelector('#film-shown video')?.readyState > 0")
    seconds, width, sound = tab.js(FILM)
    assert seconds == pytest.approx(2.0, abs=0.2) and width == 64 and sound > 0
    tab.until("document.querySelector('#film-file')?.offsetHeight > 0")
    assert read(max(shown[1].folder.glob("*/*.mp4")))["files"]["film"]["path"] == "walk.mp4"


@pytest.mark.parametrize("width", [390, 320])
def test_nothing_is_wider_than_a_phone(visitor, shown, width):
    tab = visitor(width=width, height=700, phone=True)
    press(tab, "rain", "Seed ")
    tab.until(f"{PLAYER}.innerText.includes('0:01')")
    assert tab.js("document.documentElement.scrollWidth") <= width
    assert tab.js("Math.min(...['#generate', '#stop'].map(one => document.querySelector(one).offsetHeight))") >= 40


def test_a_sound_that_is_made_is_what_the_file_holds(visitor, shown):
    tab = visitor()
    press(tab, "hail", "Seed ")
    tab.until(f"{PLAYER}.innerText.includes('0:01')")
    made = newest(shown)
    loudest = tab.js(f"{DECODED}({sounds(tab)[-1]!r})")[2]
    assert loudest == pytest.approx(np.abs(soundfile.read(made)[0]).max(), rel=1e-3)
