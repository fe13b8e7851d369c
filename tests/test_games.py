"""The games corpus: what is read from each game's layout, the split, captions, tempo, clips, and fetching."""

import io
import os
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from melfusion.data import games, games_flare
from melfusion.data.shards import DataError

RATE_HZ = 16000


def picture(path: Path, size=(64, 48), seed=0, alpha=255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    pixels[..., 3] = alpha
    Image.fromarray(pixels).save(path)


def track(path: Path, seconds=3.0, silent_from_s=None, seed=0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = np.random.default_rng(seed).uniform(-0.3, 0.3, (int(seconds * RATE_HZ), 2))
    if silent_from_s is not None:
        audio[int(silent_from_s * RATE_HZ) :] = 0
    soundfile.write(path, audio, RATE_HZ, format="OGG", subtype="VORBIS")


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def package(root: Path, name: str, licences: str) -> Path:
    text(root / name / "usr/share/doc" / name / "copyright", licences)
    return root / name / "usr/share/games" / games.GAMES[name].data


def hedgewars(root: Path) -> Path:
    licences = (
        "Files: *\nLicense: GPL-2\n\nFiles: share/hedgewars/Data/Themes/Cave/*\nLicense: GFDL-1.3\n text\n .\n more\n"
    )
    data = package(root, "hedgewars-data", licences)
    for seed, theme in enumerate(["EarthRise", "Cave"]):
        folder = data / "Themes" / theme
        text(
            folder / "theme.cfg",
            f"sky = 19, $12, 82\nmusic = {theme}.ogg\nobject = tree, 1, 5, 20, 9, 3, 1, 0, 0, 9, 9\n",
        )
        for number, name in enumerate(["Sky", "horizont", "LandTex", "Border", "tree"]):
            picture(folder / f"{name}.png", seed=10 * seed + number)
        track(data / f"Music/{theme}.ogg", seconds=3 + seed, seed=seed)
    text(data / "Music/credits.txt", "earthrise.ogg=Ann Onym <http://example.org>\n")
    text(data / "Maps/Old_Town/map.cfg", "EarthRise\n64\n")
    picture(data / "Maps/Old_Town/preview.png", (256, 128), seed=30, alpha=200)
    return data


def supertux(root: Path) -> Path:
    data = package(root, "supertux-data", "Files: *\nLicense: GPL-3+\n\nFiles: data/music/*\nLicense: GPL-2+\n")
    picture(data / "images/background/ice_cave/deep.png", (80, 60), seed=40)
    picture(data / "images/background/misc/fog.png", (80, 60), seed=41, alpha=90)
    track(data / "music/antarctic/cold.ogg", seed=42)
    text(data / "music/antarctic/cold.music", '(supertux-music (file "cold.ogg") (loop-begin 0))')
    layer = '(background (speed 0.5) (z-pos {z}) (image "{image}"))'
    deep = layer.format(z=-200, image="/images/background/deep.png")  # the path of an older release
    fog = layer.format(z=50, image="images/background/misc/fog.png")
    sky = "(gradient (top_color 0.1 0.2 0.9) (bottom_color 1 1 1)) (tilemap (width 60) (height 40) (tiles 0 1 2))"
    sectors = [
        f'(sector (name "main") (music (file "/music/antarctic/cold.music")) {sky} {fog} {deep})',
        f'(sector (music (file "music/antarctic/cold.ogg")) {deep})',
        f'(sector (music (file "music/antarctic/cold.ogg")) {sky})',
        f"(sector {deep})",
        f'(sector (music (file "../../../../secret.ogg")) {deep})',
    ]
    head = '(name (_ "Cold \\"Feet\\"")) (author "X") (license "CC-BY-SA 4.0")'
    text(data / "levels/world1/one.stl", f"; a level\n(supertux-level (version 3) {head} {' '.join(sectors)})")
    text(data / "levels/world1/broken.stl", "(supertux-level (sector (music")
    return data


def flare(root: Path) -> Path:
    mods = package(root, "flare-game", "Files: *\nLicense: CC-BY-SA-3.0+\n")
    picture(mods / "core/images/tiles.png", (128, 32), seed=50)
    text(
        mods / "core/tilesetdefs/tileset_cave.txt",
        "img=images/tiles.png\ntile=1,0,0,64,32,32,16\ntile=2,64,0,64,32,32,16\n",
    )
    track(mods / "core/music/deep.ogg", seed=51)
    rows = "\n".join(",".join(str(1 + (c + r) % 2) for c in range(30)) + "," for r in range(30))
    header = "[header]\nwidth=30\nheight=30\nhero_pos=15,15\nmusic=music/deep.ogg\n"
    header += "tileset=tilesetdefs/tileset_cave.txt\ntitle=The Pit\n"
    layer = "\n[layer]\ntype={kind}\ndata=\n{rows}\n"
    text(
        mods / "quest/maps/pit.txt",
        header + layer.format(kind="background", rows=rows) + layer.format(kind="collision", rows="x"),
    )
    text(mods / "quest/maps/void.txt", header + layer.format(kind="background", rows=re.sub("[12]", "0", rows)))
    text(mods / "quest/maps/mute.txt", "[header]\nwidth=1\n")
    return mods


def etr(root: Path) -> Path:
    data = package(root, "extremetuxracer-data", "Files: *\nLicense: GPL-2+\n")
    text(
        data / "courses/default/courses.lst",
        "# list\n*[name] Bunny Hill [dir] bunny\n*[name] Ice [dir] ice*[name] Gone [dir] gone",
    )
    text(
        data / "courses/events.lst", "*[struct] 0 [race] r [course] bunny [light] night\n[herring] 1 2 3 [theme] calm\n"
    )
    text(data / "music/racing_themes.lst", "*[name] normal [race] a [wonrace] w\n*[name] calm [race] b")
    text(data / "music/music.lst", "*[name] a [file] a.ogg\n*[name] b [file] b.ogg")
    text(
        data / "music/readme",
        "Authors\n-------\n\nJo Doe <jo@example.org> composed:\n\ta.ogg\n\tc.ogg\n\nK. Roe composed:\n\tb.ogg\n",
    )
    for seed, name in enumerate(["bunny", "ice"]):
        text(data / f"courses/default/{name}/course.dim", "*[width] 9 [author] Somebody\n*[desc] Cold.")
        picture(data / f"courses/default/{name}/preview.png", seed=60 + seed)
    for seed, name in enumerate(["a", "b"]):
        track(data / f"music/{name}.ogg", seed=62 + seed)
    return data


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("games")
    for build in (hedgewars, supertux, flare, etr):
        build(root)
    return root


@pytest.fixture(scope="module")
def read(tree):
    return games.read_games(tree)


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
    facts = dict(zip((t.image_id for t in read[0]), games.assign(read[0]), strict=True))
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
    text(
        mods / "quest/maps/pit.txt",
        "[header]\nmusic=../../../../../etc/passwd\ntileset=/etc/passwd\n[layer]\ndata=\n1,2\n3\n",
    )
    text(
        tmp_path / "supertux-data/usr/share/games/supertux2/levels/a.stl",
        "(supertux-level (sector (music (file)) (background))",
    )
    found, skipped = games.read_games(tmp_path)
    assert found == []
    assert skipped["Hedgewars: unreadable picture"] == 1 and skipped["Hedgewars: unreadable track"] == 2
    assert skipped["Flare: malformed file"] == 1 and skipped["Extreme Tux Racer: not unpacked"] == 1
    with pytest.raises(DataError, match="GAMES_DIR="):
        next(games.samples(tmp_path))


def test_random_damage_never_raises(tmp_path):
    for build in (hedgewars, supertux, flare, etr):
        build(tmp_path)
    files = sorted(
        p for p in tmp_path.rglob("*") if p.suffix in (".stl", ".txt", ".cfg", ".lst", ".dim", ".music", ".png")
    )
    rng = random.Random(0)
    for _ in range(4):
        for path in rng.sample(files, 8):
            raw = bytearray(path.read_bytes())
            for _ in range(6):
                raw[rng.randrange(len(raw))] = rng.randrange(256)
            path.write_bytes(raw[: rng.randrange(1, len(raw) + 1)])
        games.read_games(tmp_path)


def test_sexpr_reads_nesting_strings_and_comments():
    text = '(a "b (c" ";" ")" "\\"d\\"" ; no ) \n (e 1.5) #t)'
    assert games_flare.parse_sexpr(text) == [["a", "b (c", ";", ")", '"d"', ["e", "1.5"], "#t"]]
    for broken in ("(a", "a)", '(a "b'):
        with pytest.raises(games_flare.Skip):
            games_flare.parse_sexpr(broken)


@pytest.mark.parametrize("seed", range(8))
def test_split_never_separates_what_is_connected(seed):
    rng = random.Random(seed)
    pairs = [(f"t{rng.randrange(40)}", f"p{rng.randrange(60)}") for _ in range(50)]
    splits = games.split_components(pairs, seed=seed)
    for side in (0, 1):
        seen = {}
        for pair, split in zip(pairs, splits, strict=True):
            assert seen.setdefault(pair[side], split) == split
    assert set(splits) == {"train", "val", "test"}
    assert splits == games.split_components(pairs, seed=seed)
    shuffled = list(range(len(pairs)))
    rng.shuffle(shuffled)
    again = games.split_components([pairs[i] for i in shuffled], seed=seed)
    assert [again[shuffled.index(i)] for i in range(len(pairs))] == splits


def test_split_keeps_to_its_shares_and_fills_every_split():
    many = [(f"t{i}", f"p{i}") for i in range(1000)]
    assert Counter(games.split_components(many)) == {"train": 800, "val": 100, "test": 100}
    assert games.split_components(many) != games.split_components(many, seed=1)
    assert sorted(games.split_components(many[:3])) == ["test", "train", "val"]
    assert games.split_components(many[:1]) == ["train"] and games.split_components([]) == []
    heavy = games.split_components(many[:20], weights=[100.0] + [1.0] * 19)
    assert heavy[0] == "train" and {"val", "test"} <= set(heavy)
    assert len(set(games.components([("a", "x"), ("b", "x"), ("x", "a")]))) == 2  # a track is not a picture
    with pytest.raises(ValueError, match="three shares"):
        games.split_components(many, ratios=(1, 2))


@pytest.mark.parametrize("bpm", [70, 90, 120, 145, 160])
def test_tempo_of_a_click_track(bpm):
    audio = np.random.default_rng(0).normal(0, 1e-3, 20 * RATE_HZ).astype(np.float32)
    for beat in np.arange(0, 19.9, 60 / bpm):
        at = int(beat * RATE_HZ)
        audio[at : at + 400] += np.sin(np.arange(400) * 0.4) * np.exp(-np.arange(400) / 80)
    assert games.estimate_tempo(audio, RATE_HZ) == bpm


def test_tempo_of_what_has_none():
    assert games.estimate_tempo(np.zeros(10 * RATE_HZ, np.float32), RATE_HZ) is None
    assert games.estimate_tempo(np.ones(RATE_HZ, np.float32), RATE_HZ) is None


def test_captions_state_the_facts_once(read):
    by_title = {item.title: item for item in read[0]}
    assert games.caption(by_title["Old Town"], 120) == (
        "Game music for Old Town, an earth rise battlefield in Hedgewars, by Ann Onym, 120 BPM."
    )
    assert games.caption(by_title["Cave"], None) == "Game music for Cave, a battlefield in Hedgewars."
    assert games.caption(by_title["Bunny Hill"], 90).startswith(
        "Game music for Bunny Hill, a calm night downhill race in "
    )


def test_samples_hold_every_clip_once(tree, read):
    made = list(games.samples(tree, clip_duration_s=0.5, sample_rate_hz=8000, image_size_px=32))
    assert len({s.key for s in made}) == len(made) == 5 * 6 + 8
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", s.key) for s in made)
    places = [(s.meta["labels"]["track"], s.meta["labels"]["start_s"]) for s in made]
    assert len(set(places)) == len(places)
    assert {s.meta["labels"]["image_id"] for s in made} == {t.image_id for t in read[0]}
    per_picture = Counter(
        s.meta["labels"]["image_id"] for s in made if s.meta["labels"]["track"].endswith("EarthRise.ogg")
    )
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
    caplog.set_level("INFO", logger=games.__name__)
    made = list(games.samples(tmp_path, clip_duration_s=0.5, max_clips_per_tuple=2))
    assert Counter(s.meta["title"] for s in made) == {"Earth Rise": 2, "Old Town": 2, "Cave": 2}
    assert "'clip beyond max_clips_per_tuple': 4" in caplog.text and "'silent clip': 4" in caplog.text


def fake_tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_download_fetches_unpacks_and_keeps_licences(tmp_path, monkeypatch):
    tools, out = tmp_path / "bin", tmp_path / "out"
    tools.mkdir()
    fake_tool(tools, "apt-get", 'echo "$2" >> "$LOG"; echo deb > "$2_1.0_all.deb"')
    fake_tool(
        tools, "dpkg-deb", 'd="$3/usr/share/doc/$(basename "$3")"; mkdir -p "$d"; echo "Files: *" > "$d/copyright"'
    )
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    games.download(out)
    games.download(out)  # a second call fetches nothing again
    assert (tmp_path / "log").read_text().split() == list(games.GAMES)
    assert sorted(p.stem for p in (out / "licences").iterdir()) == sorted(games.GAMES)
    assert len(list((out / "debs").iterdir())) == 4


def test_download_says_in_one_sentence_what_is_missing(tmp_path, monkeypatch):
    fake_tool(tmp_path, "apt-get", "echo 'E: Unable to locate package' >&2; exit 100")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="dpkg-deb is not on this machine: .* GAMES_DIR="):
        games.download(tmp_path / "out")
    fake_tool(tmp_path, "dpkg-deb", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(RuntimeError, match="Unable to locate package.*GAMES_DIR="):
        games.download(tmp_path / "out")


@pytest.mark.skipif(not os.environ.get("GAMES_DIR"), reason="GAMES_DIR= names no folder of unpacked games")
def test_the_real_games():
    found, _ = games.read_games(Path(os.environ["GAMES_DIR"]))
    counts = Counter(item.game for item in found)
    assert counts["Hedgewars"] >= 70 and counts["SuperTux"] >= 100 and counts["Flare"] >= 50
    assert counts["Extreme Tux Racer"] >= 40 and len({item.track for item in found}) >= 65
    assert {facts["split"] for facts in games.assign(found)} == {"train", "val", "test"}
    assert not any("not stated" in item.license for item in found)
