"""The page in headless Chromium: what a visitor sees and hears, at a desk and on a phone."""

import time

import numpy as np
import pytest
import soundfile
from browser import CHROMIUM, browser
from PIL import Image

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="the page needs gradio: pip install 'melfusion[app]'")
pytest.importorskip("aiohttp", reason="the browser is driven through aiohttp")
if CHROMIUM is None:
    pytest.skip("no chromium in PATH", allow_module_level=True)

from pages import page

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


def visitor(chromium, shown, **how):
    tab = chromium.tab()
    tab.open(shown[0], **how)
    return tab


def press(tab, words, said):
    """A sentence, the button, and wait for words of the page."""
    tab.type(SENTENCE, words)
    tab.click("#generate")
    tab.until(f"{STATUS}.includes('{said}')")


def sounds(tab):
    """Addresses of the sounds that the page asked for."""
    tab.js("0")  # what has arrived meanwhile
    return [url for url in tab.asked if url.endswith(".wav")]


def test_a_picture_goes_in_and_the_player_plays_a_clip_of_the_right_length(chromium, shown, picture):
    tab = visitor(chromium, shown)
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


def test_two_visitors_make_their_own_and_one_stops(chromium, shown, monkeypatch):
    system = shown[1].models.get("small").system
    denoise = system.denoise
    monkeypatch.setattr(system, "denoise", lambda *args: time.sleep(0.5) or denoise(*args))
    one, two = visitor(chromium, shown), visitor(chromium, shown)
    for tab, words in ((one, "snow"), (two, "wind")):
        tab.type(SENTENCE, words)
        tab.click("#generate")
    one.until(f"{STATUS}.includes('waiting') || document.querySelector('#status').innerHTML.includes('step')")
    one.click("#stop")
    one.until(f"{STATUS}.includes('Stopped: nothing was made')")
    two.until(f"{STATUS}.includes('Seed ')")
    two.until(f"{PLAYER}.innerText.includes('0:01')")
    assert sounds(two) and not sounds(one)


def test_files_that_are_none_are_sentences(chromium, shown, tmp_path):
    tab, bad = visitor(chromium, shown), tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    tab.upload(PICTURE, bad)
    time.sleep(1)
    tab.type(SENTENCE, "rain")
    tab.click("#generate")
    tab.until("document.body.innerText.includes('bad.png is an unreadable image')")


def test_a_clip_becomes_the_start_of_the_next(chromium, shown):
    tab = visitor(chromium, shown)
    press(tab, "rain", "Seed ")
    first = sounds(tab)
    tab.click("#reuse")
    tab.until("document.querySelector('#start')?.innerText.includes('0:01')")
    press(tab, "snow and wind", "Seed ")
    tab.until("document.querySelector('#past')")
    end = time.monotonic() + 30
    while len(set(sounds(tab))) < len(set(first)) + 2 and time.monotonic() < end:  # the start, and the new clip
        time.sleep(0.2)
    rate, length, _ = tab.js(f"{DECODED}({sounds(tab)[-1]!r})")
    assert (rate, length) == (8000, 8192)


@pytest.mark.parametrize("width", [390, 320])
def test_nothing_is_wider_than_a_phone(chromium, shown, width):
    tab = visitor(chromium, shown, width=width, height=700, phone=True)
    press(tab, "rain", "Seed ")
    tab.until(f"{PLAYER}.innerText.includes('0:01')")
    assert tab.js("document.documentElement.scrollWidth") <= width
    assert tab.js("Math.min(...['#generate', '#stop'].map(one => document.querySelector(one).offsetHeight))") >= 40


def test_a_sound_that_is_made_is_what_the_file_holds(chromium, shown):
    tab = visitor(chromium, shown)
    press(tab, "hail", "Seed ")
    tab.until(f"{PLAYER}.innerText.includes('0:01')")
    made = max(shown[1].folder.glob("*/*.wav"), key=lambda file: file.stat().st_mtime)
    loudest = tab.js(f"{DECODED}({sounds(tab)[-1]!r})")[2]
    assert loudest == pytest.approx(np.abs(soundfile.read(made)[0]).max(), rel=1e-3)
