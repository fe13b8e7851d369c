"""The games corpus: captions and the clips that every track is cut into."""

import io
import re
from collections import Counter
from pathlib import Path

import pytest
import soundfile
from games_tree import build_tree, hedgewars, track
from PIL import Image

from melfusion.data.games import clips, tuples


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("games")
    build_tree(root)
    return root


@pytest.fixture(scope="module")
def read(tree):
    return tuples.read_games(tree)


def test_captions_state_the_facts_once(read):
    by_title = {item.title: item for item in read[0]}
    assert clips.caption(by_title["Old Town"], 120) == (
        "Game music for Old Town, an earth rise battlefield in Hedgewars, by Ann Onym, 120 BPM."
    )
    assert clips.caption(by_title["Cave"], None) == "Game music for Cave, a battlefield in Hedgewars."
    assert clips.caption(by_title["Bunny Hill"], 90).startswith("Game music for Bunny Hill, a calm night downhill race in ")


def test_samples_hold_every_clip_once(tree, read):
    made = list(clips.samples(tree, clip_duration_s=0.5, sample_rate_hz=8000, image_size_px=32))
    assert len({s.key for s in made}) == len(made) == 5 * 6 + 8
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", s.key) for s in made)
    places = [(s.meta["labels"]["track"], s.meta["labels"]["start_s"]) for s in made]
    assert len(set(places)) == len(places)
    assert {s.meta["labels"]["image_id"] for s in made} == {t.image_id for t in read[0]}
    per_picture = Counter(s.meta["labels"]["image_id"] for s in made if s.meta["labels"]["track"].endswith("EarthRise.ogg"))
    assert sorted(per_picture.values()) == [3, 3]  # two pictures share the track's six clips
    for sample in made:
        audio, rate_hz = soundfile.read(io.BytesIO(sample.audio))
        assert (audio.shape, rate_hz, sample.audio_ext) == ((4000,), 8000, "flac")
        assert Image.open(io.BytesIO(sample.image)).size == (32, 32)
        assert {"caption", "title", "source", "license", "split", "labels"} == set(sample.meta)
    split = {}
    for sample in made:
        for side in ("track", "image_id", "component"):
            assert split.setdefault(sample.meta["labels"][side], sample.meta["split"]) == sample.meta["split"]


def test_samples_skip_silence_and_stop_at_the_limit(tmp_path, caplog):
    data = hedgewars(tmp_path)
    track(data / "Music/Cave.ogg", seconds=4, silent_from_s=1.85)
    caplog.set_level("INFO", logger=clips.__name__)
    made = list(clips.samples(tmp_path, clip_duration_s=0.5, max_clips_per_tuple=2))
    assert Counter(s.meta["title"] for s in made) == {"Earth Rise": 2, "Old Town": 2, "Cave": 2}
    assert "clip beyond max_clips_per_tuple: 4" in caplog.text and "silent clip: 4" in caplog.text
