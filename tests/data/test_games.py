"""The games corpus: what is read from each game's layout, and that damaged and hostile files are skipped."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from games_tree import build_tree, flare, hedgewars, text

from melfusion.data.games import clips, tuples
from melfusion.data.games.scene import Skip
from melfusion.data.games.supertux import parse_sexpr
from melfusion.errors import DataError


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    build_tree(root := tmp_path_factory.mktemp("games"))
    return tuples.read_games(root)


def test_tuples_are_what_the_files_say(read):
    found = {(t.game, t.title, t.theme, t.track.name, t.artist, t.license) for t in read[0]}
    level = "music GPL-2+, picture GPL-3+, level CC-BY-SA 4.0"
    assert found == {
        ("Hedgewars", "Earth Rise", "earth rise", "EarthRise.ogg", "Ann Onym", "GPL-2"),
        ("Hedgewars", "Old Town", "earth rise", "EarthRise.ogg", "Ann Onym", "GPL-2"),
        ("Hedgewars", "Cave", "cave", "Cave.ogg", None, "music GPL-2, picture GFDL-1.3"),
        ("SuperTux", 'Cold "Feet"', "ice cave", "cold.ogg", None, level),
        ("Flare", "The Pit", "cave", "deep.ogg", None, "CC-BY-SA-3.0+"),
        ("Extreme Tux Racer", "Bunny Hill", "calm night", "b.ogg", "K. Roe", "GPL-2+"),
        ("Extreme Tux Racer", "Ice", "", "a.ogg", "Jo Doe", "GPL-2+"),
    }
    assert len(read[0]) == 8  # SuperTux has two sectors with different pictures
    assert len({t.image_id for t in read[0]}) == 8
    assert all(t.image.size == (256, 192) and t.image.mode == "RGB" for t in read[0])
    assert not any(str(t.track).startswith(t.track_id) or t.track_id.startswith("/") for t in read[0])


def test_what_gives_no_tuple_is_counted_with_its_reason(read):
    assert read[1] == {
        "SuperTux: brackets do not match": 1,
        "SuperTux: no background picture, only plain colour": 1,
        "SuperTux: names no music": 1,
        "SuperTux: names a file that is not there": 1,
        "Flare: picture nearly empty": 1,
        "Flare: names no music": 1,
        "Extreme Tux Racer: names a file that is not there": 1,
    }


def test_pictures_that_share_art_share_a_component(read):
    facts = dict(zip((t.image_id for t in read[0]), clips.assign(read[0]), strict=True))
    by_game = {}
    for item in read[0]:
        by_game.setdefault(item.game, []).append(facts[item.image_id]["component"])
    assert len(set(by_game["SuperTux"])) == 1 and len(by_game["SuperTux"]) == 2
    assert len(set(by_game["Hedgewars"])) == 2 and len(set(by_game["Extreme Tux Racer"])) == 2
    assert {fact["split"] for fact in facts.values()} == {"train", "val", "test"}


def test_hostile_files_are_skipped(tmp_path):
    data, mods = hedgewars(tmp_path), flare(tmp_path)
    (data / "Themes/Cave/Sky.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (data / "Music/EarthRise.ogg").write_bytes(b"OggS" + bytes(500))
    (data / "Music/credits.txt").write_bytes(b"\xff\xfe=\x00")
    text(mods / "quest/maps/pit.txt", "[header]\nmusic=../../../../../etc/passwd\ntileset=/etc/passwd\n[layer]\ndata=\n1,2\n3\n")
    text(tmp_path / "supertux-data/usr/share/games/supertux2/levels/a.stl", "(supertux-level (sector (music (file)) (background))")
    found, skipped = tuples.read_games(tmp_path)
    assert found == []
    assert skipped["Hedgewars: unreadable picture"] == 1 and skipped["Hedgewars: unreadable track"] == 2
    assert skipped["Flare: malformed file"] == 1 and skipped["Extreme Tux Racer: not unpacked"] == 1
    with pytest.raises(DataError, match="GAMES_DIR="):
        next(clips.samples(tmp_path))


def test_random_damage_never_raises(tmp_path):
    build_tree(tmp_path)
    files = sorted(p for p in tmp_path.rglob("*") if p.suffix in (".stl", ".txt", ".cfg", ".lst", ".dim", ".music", ".png"))
    rng = random.Random(0)
    for _ in range(4):
        for path in rng.sample(files, 8):
            raw = bytearray(path.read_bytes())
            for _ in range(6):
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            path.write_bytes(raw[: rng.randrange(1, len(raw) + 1)])
        tuples.read_games(tmp_path)


def test_sexpr_reads_nesting_strings_and_comments():
    text = '(a "b (c" ";" ")" "\\"d\\"" ; no ) \n (e 1.5) #t)'
    assert parse_sexpr(text) == [["a", "b (c", ";", ")", '"d"', ["e", "1.5"], "#t"]]
    for broken in ("(a", "a)", '(a "b'):
        with pytest.raises(Skip):
            parse_sexpr(broken)


@pytest.mark.skipif(not os.environ.get("GAMES_DIR"), reason="GAMES_DIR= names no folder of unpacked games")
def test_the_real_games():
    found, _ = tuples.read_games(Path(os.environ["GAMES_DIR"]))
    counts = Counter(item.game for item in found)
    assert counts["Hedgewars"] >= 70 and counts["SuperTux"] >= 100 and counts["Flare"] >= 50
    assert counts["Extreme Tux Racer"] >= 40 and len({item.track for item in found}) >= 65
    assert {facts["split"] for facts in clips.assign(found)} == {"train", "val", "test"}
    assert not any("not stated" in item.license for item in found)
