"""The corpus of chosen games: duplicates, splits, held-out games, licences, samples and the data card."""

import dataclasses
import io
import itertools
import re
import shutil
from collections import Counter

import pytest
from games_tree import TOY, flare, scene, supertux, toy, track
from PIL import Image

from melfusion.data.games import card, corpus, described, licences, material, pairing
from melfusion.data.games.describe import Package
from melfusion.data.games.material import Link, Material, Picture, Track
from melfusion.errors import DataError


@pytest.fixture(autouse=True)
def toy_games(monkeypatch):
    """Two toy games, of which the second is held out."""
    other = dataclasses.replace(TOY, name="Other", packages=(Package("other", "usr/share/toy"),), held_out=True)
    monkeypatch.setattr(described, "LEAST_TRACK_S", 2.0)
    monkeypatch.setattr(corpus, "DESCRIBED", {"other": other, "toy": TOY})


def made(tracks: int, pictures: int, links=(), game="G") -> Material:
    """Numbered tracks of 10 s and pictures that do not look alike."""
    found = Material()
    for n in range(tracks):
        found.tracks[f"t{n}"] = Track(f"t{n}", game, None, 10.0, f"T{n}", None, "Expat", f"{game} t{n}")
    for n in range(pictures):
        found.pictures[f"p{n}"] = Picture(f"p{n}", game, "Expat", f"{game} p{n}", 0)
    found.links = [Link(f"t{t}", f"p{p}", kind, "A", theme, "level") for t, p, kind, theme in links]
    return found


def test_pairs_never_leave_a_split_and_the_nearest_pairing_counts():
    links = [(0, 0, "level", ""), (0, 1, "level", ""), (1, 1, "level", ""), (2, 2, "theme", "sea")]
    found = pairing.pair(made(12, 30, links))
    for side in ("track", "picture"):
        splits = {}
        for one in found:
            assert splits.setdefault(getattr(one, side).id, one.split) == one.split
    assert pairing.count(found) == {"level": 2, "theme": 1, "game": 9}
    assert {one.picture.id for one in found if one.track.id == "t0"} == {"p0", "p1"}
    assert not {"p0", "p1", "p2"} & {one.picture.id for one in found if one.pairing == "game"}
    assert {one.split for one in found} == {"train", "val", "test"}
    orders = [[one.picture.id for one in found if one.track.id == t] for t in ("t3", "t4", "t5", "t6", "t7") if t]
    assert any(a != b for a, b in itertools.combinations(orders, 2))


def test_a_large_theme_is_divided_and_a_small_one_is_not():
    many = [(t, p, "theme", "war") for t in range(10) for p in range(10)]
    found = pairing.pair(made(10, 10, many))
    assert {one.split for one in found} == {"train", "val", "test"} and pairing.count(found)["theme"] == 10
    assert len({(one.picture.id, one.split) for one in found}) == 10  # no picture is seen in two splits
    few = [(t, p, "theme", "war") for t in range(4) for p in range(4)]
    assert len({one.split for one in pairing.pair(made(4, 4, few))}) == 1


def test_ties_hold_pictures_together():
    whole = made(2, 9, [(0, 0, "level", ""), (1, 1, "level", "")])
    whole.ties = [("p0", "one place"), ("p1", "one place")]
    assert len({one.component for one in pairing.pair(whole)}) == 1


def test_a_track_without_pictures_in_its_split_moves_or_is_left_out():
    found = pairing.pair(made(9, 1))
    assert len({one.track.id for one in found}) == 9 and len({one.split for one in found}) == 1
    lost = made(2, 0)
    assert pairing.pair(lost) == [] and lost.skipped == {"G: track without a picture": 2}


def test_duplicates_are_found_by_bytes_and_by_looks(tmp_path):
    toy(tmp_path)
    other = tmp_path / "other/usr/share/toy"
    track(other / "music/new.ogg", seconds=3, seed=99)
    shutil.copy(tmp_path / "toy-music/usr/share/toy/music/deep.ogg", other / "music/same.ogg")
    scene(other / "maps/same.png", 0)
    scene(other / "art/nearly.png", 1, noise=3)  # looks like toy's ice.png
    scene(other / "art/new.png", 77)
    scene(tmp_path / "toy-data/usr/share/toy/art/ice_again.png", 1, noise=2)
    whole = corpus.read(tmp_path, ["other", "toy"])
    assert not any(name.endswith(("same.ogg", "same.png", "nearly.png")) for name in [*whole.tracks, *whole.pictures])
    assert any(name.endswith("other/music/new.ogg") for name in whole.tracks)
    assert whole.skipped["Other: track of another game"] == 1 and whole.skipped["Other: picture of another game"] == 2
    twins = [item for item, part in whole.ties if part.startswith("looks like")]
    assert sorted(name.rpartition("/")[2] for name in twins) == ["ice.png", "ice_again.png"]


def test_held_out_games_lie_in_the_test_split_alone(tmp_path):
    toy(tmp_path)
    for seed in range(4):
        track(tmp_path / f"other/usr/share/toy/music/{seed}.ogg", seconds=3, seed=50 + seed)
        scene(tmp_path / f"other/usr/share/toy/art/{seed}.png", 60 + seed)
    found, _ = corpus.pairs(tmp_path, ["other", "toy"])
    assert {(one.split, one.held_out) for one in found if one.track.game == "Other"} == {("test", True)}
    assert {one.split for one in found if one.track.game == "Toy"} > {"test"}
    assert not any(one.held_out for one in found if one.track.game == "Toy")


def test_the_filter_of_licences(tmp_path):
    toy(tmp_path)
    for wanted, names in (("permissive", {"cold.ogg"}), ("any", {"cold.ogg", "deep.ogg"})):
        whole = corpus.read(tmp_path, ["toy"], wanted)
        assert {name.rpartition("/")[2] for name in whole.tracks} & {"cold.ogg", "deep.ogg"} == names
        assert all(link.track in whole.tracks for link in whole.links)
    for name, kind in {
        "CC0-1.0": "permissive",
        "CC-BY-3.0": "permissive",
        "CC-BY-SA-3.0+": "copyleft",
        "GPL-2+ or Expat": "permissive",
        "GPL-3.0+ and Expat": "copyleft",
        "music Expat, picture GPL-2": "copyleft",
        "music Expat, picture Expat, level CC-BY-SA 4.0": "copyleft",
        "not stated": "other",
        "Battle-Tanks-License": "copyleft",  # the GPL with an exception
        "Bitstream-Vera": "other",
    }.items():
        assert licences.kind_of(name) == kind, name


def test_samples_carry_how_they_are_paired(tmp_path):
    toy(tmp_path)
    found, counts = corpus.pairs(tmp_path, ["toy"])
    made = list(corpus.samples(found, 0.5, 8000, counts.skipped))
    assert len({sample.key for sample in made}) == len(made) == 5 * 6
    labels = [sample.meta["labels"] for sample in made]
    assert Counter(label["pairing"] for label in labels) == {"level": 12, "theme": 12, "game": 6}
    assert {label["held_out"] for label in labels} == {False}
    pit = next(s for s in made if s.meta["labels"]["track"].endswith("deep.ogg"))
    assert pit.meta["caption"].startswith("Game music for The Pit, a two level in Toy")
    assert pit.meta["license"] == "music GPL-2+, picture CC0-1.0"
    assert pit.image_ext == "jpg" and Image.open(io.BytesIO(pit.image)).size == (341, 256)
    shown = [s.meta["labels"]["image_id"] for s in made if s.meta["labels"]["track"].endswith("Free.ogg")]
    assert len(set(shown)) == len({one.picture.id for one in found if one.track.title == "Free"})


def test_drawn_games_are_levels_and_their_art_ties_them(tmp_path):
    supertux(tmp_path)
    flare(tmp_path)
    found, counts = corpus.pairs(tmp_path, ["supertux", "flare"])
    assert {(one.track.game, one.pairing) for one in found} == {("SuperTux", "level"), ("Flare", "level")}
    assert len({one.component for one in found if one.track.game == "SuperTux"}) == 1
    made = list(corpus.samples(found, 0.5, 8000, counts.skipped))
    assert len(made) == 12 and all(Image.open(io.BytesIO(s.image)).size == (256, 192) for s in made)
    assert made[0].meta["caption"].startswith('Game music for Cold "Feet", an ice cave level in SuperTux')


def test_captions_of_themes_and_games(tmp_path):
    toy(tmp_path)
    said = {one.track.title: corpus.caption(one, 90) for one in corpus.pairs(tmp_path, ["toy"])[0]}
    assert said["town a"] == "Game music town a, for a busy town level in Toy, 90 BPM."
    assert said["Free"] == "Game music Free, for Toy, by Ann Onym, 90 BPM."


def test_names_of_games_and_what_is_not_there(tmp_path):
    assert corpus.chosen("small") == ["hedgewars", "supertux", "flare", "extremetuxracer"]
    assert corpus.chosen("all") == [*corpus.chosen("small"), "other", "toy"] and corpus.chosen("toy") == ["toy"]
    with pytest.raises(DataError, match="no game 'tetris'; known are all, small, hedgewars"):
        corpus.chosen("toy,tetris")
    with pytest.raises(DataError, match="holds none of the games toy: .* GAMES_DIR="):
        corpus.pairs(tmp_path, ["toy"])
    wanted = corpus.packages_of(["flare", "toy"])
    assert list(wanted) == ["flare-game", "toy-music", "toy-data"] and wanted["toy-data"].globs == ("*.pk3",)


def test_the_card_counts_what_is_there(tmp_path):
    toy(tmp_path)
    card.write_card(tmp_path / "games.md", tmp_path, ["toy"])
    text = (tmp_path / "games.md").read_text()
    assert "1 games, 5 tracks" in text and "| level | 2 |" in text and "| Toy | toy-data, toy-music | 5 | 2 / 2 |" in text
    found, _ = corpus.pairs(tmp_path, ["toy"])
    assert f"`{card.whole(found)}`" in text
    assert re.search(r"\| permissive \| \d \| 0\.0 \| 6 \|", text) and re.search(r"\| copyleft \| \d \| 0\.0 \| 0 \|", text)
    assert "2 packages are fetched. Neither a track nor a picture is of: -." in text
    assert card.card(found, material.Material(), "", ["toy-data", "toy-music", "idle"]).count("is of: idle.") == 1
    assert card.whole(found[1:]) != card.whole(found) == card.whole(found[::-1])


def test_likeness_ignores_noise_and_tells_scenes_apart(tmp_path):
    for name, seed, noise in (("a", 1, 0), ("b", 1, 4), ("c", 2, 0)):
        scene(tmp_path / f"{name}.png", seed, noise=noise)
    listed = [Picture(n, "G", "", n, material.likeness(Image.open(tmp_path / f"{n}.png").convert("RGB"))) for n in ("a", "b", "c")]
    assert material.near(listed) == [(0, 1)]
    assert material.near([Picture(n, "G", "", n, 0) for n in "ab"]) == []  # hashes of plain pictures say nothing
