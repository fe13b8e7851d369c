"""A described game: what its globs find, and how its pictures belong to its tracks."""

import dataclasses
import gzip

import pytest
from games_tree import TOY, picture, scene, text, toy, track

from melfusion.data.games import described, drawing
from melfusion.data.games.describe import Package, Script, matches
from melfusion.data.games.scene import Skip
from melfusion.data.games.sound import named


@pytest.fixture(scope="module", autouse=True)
def short_tracks():
    """The toy tracks last 3 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(described, "LEAST_TRACK_S", 2.0)
        yield


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    toy(root := tmp_path_factory.mktemp("toy"))
    return described.read(root, TOY)


def test_globs_find_tracks_and_scenes_alone(found):
    assert {name.rpartition("/")[2] for name in found.tracks} == {
        "deep.ogg",
        "cold.ogg",
        "forest_a.ogg",
        "town_a.ogg",
        "03_Ann_Onym_-_Free.ogg",
    }
    assert {name.rpartition("/")[2] for name in found.pictures} >= {"pit.png", "forest1.png", "logo.png"}
    assert len(found.pictures) == 10
    assert found.skipped["Toy: picture with holes: a sprite or an overlay"] == 1
    assert found.skipped["Toy: picture smaller than 256 x 192 px"] == 1
    assert found.skipped["Toy: track shorter than 2 s or longer than 1800 s"] == 1
    free = found.tracks["toy-music/music/03_Ann_Onym_-_Free.ogg"]
    assert (free.title, free.artist, free.seconds) == ("Free", "Ann Onym", 3.0)


def test_licences_come_from_the_copyright_file_or_from_the_package(found):
    licences = {name.rpartition("/")[2]: track.licence for name, track in found.tracks.items()}
    assert licences["cold.ogg"] == "Expat" and licences["deep.ogg"] == "GPL-2+"
    assert {p.licence for p in found.pictures.values()} == {"CC0-1.0"}


def test_scripts_give_level_links_and_paths_give_themes(found):
    links = {(k.track.split("/")[-1], k.picture.split("/")[-1], k.pairing, k.title, k.theme) for k in found.links}
    assert links == {
        ("deep.ogg", "pit.png", "level", "The Pit", "two"),
        ("cold.ogg", "pit.png", "level", "The Pit", "two"),
        ("cold.ogg", "ice.png", "level", "ice", "cold"),
        ("forest_a.ogg", "forest1.png", "theme", "forest a", "forest"),
        ("forest_a.ogg", "forest2.png", "theme", "forest a", "forest"),
        ("town_a.ogg", "city.png", "theme", "town a", "busy town"),
    }
    assert ("toy-data/art/forest1.png", "Toy forest") in found.ties


def test_folders_and_compressed_maps_are_scripts_too(tmp_path):
    data = tmp_path / "toy-data/usr/share/toy"
    track(data / "music/wave.ogg")
    scene(data / "shots/a/back.png", 1)
    scene(data / "shots/b/back.png", 2)
    text(data / "levels/a/code.lua", 'play("wave.ogg")')
    text(data / "levels/a/models.lua", 'room("x/back.png")')
    packed = data / "packed/b.mpz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(b"\x00\xffmusic\x00wave\x00"))
    rules = (
        Script("levels/*/", track=r"play\(\"(\w+)", picture=r"/(back\.png)", picture_name="shots/{stem}/{0}"),
        Script("packed/*.mpz", track=r"music\x00(\w+)", picture_name="shots/{stem}/*"),
    )
    game = dataclasses.replace(TOY, packages=(Package("toy-data", "usr/share/toy"),), pictures=("shots/*.png",), pairs=rules)
    links = {(k.picture, k.title) for k in described.read(tmp_path, game).links}
    assert links == {("toy-data/shots/a/back.png", "a"), ("toy-data/shots/b/back.png", "b")}
    assert game.wants("levels/a/code.lua") and game.wants("shots/a/back.png") and not game.wants("models/a.md3")


def test_packages_that_are_not_there_are_counted(tmp_path):
    found = described.read(tmp_path, TOY)
    assert not found.tracks and found.skipped == {"Toy: toy-music not unpacked": 1, "Toy: toy-data not unpacked": 1}


def test_hostile_files_are_left_out(tmp_path):
    data = toy(tmp_path)
    (data / "art/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (data / "art/passwd.png").symlink_to("/etc/passwd")
    (tmp_path / "toy-music/usr/share/toy/music/deep.ogg").write_bytes(b"OggS" + bytes(500))
    text(data / "maps/evil.cfg", "song ../../../../etc/passwd\nsong [*\nsong *\n")
    found = described.read(tmp_path, TOY)
    assert found.skipped["Toy: unreadable picture"] == 1 and found.skipped["Toy: unreadable track"] == 1
    assert not any("passwd" in name for name in found.pictures)
    assert not any("evil" in link.title for link in found.links)


def test_globs_and_names():
    assert matches("Music/A.OGG", ("music/*",)) and not matches("music/a.ogg", ("music/*", "!*a.ogg"))
    assert named("03_Ann_Onym_-_Cold_Sea") == ("Ann Onym", "Cold Sea") and named("2112") == ("", "2112")


def test_scenes_are_cropped_and_bounded(tmp_path):
    scene(tmp_path / "long.png", 1, (1200, 300))
    assert drawing.open_scene(tmp_path / "long.png").size == (512, 256)
    scene(tmp_path / "padded.png", 1, (512, 512))
    assert drawing.open_scene(tmp_path / "padded.png", (400, 300)).size == (341, 256)
    picture(tmp_path / "strip.png", (2000, 200))
    with pytest.raises(Skip, match="too long"):
        drawing.open_scene(tmp_path / "strip.png")
