"""Small made-up packages of the four games, in the layouts the readers know; what the tests of the corpus read."""

import re
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from melfusion.data.games.describe import Described, Package, Script, Theme
from melfusion.data.games.tuples import GAMES

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
    return root / name / "usr/share/games" / GAMES[name].data


def hedgewars(root: Path) -> Path:
    licences = "Files: *\nLicense: GPL-2\n\nFiles: share/hedgewars/Data/Themes/Cave/*\nLicense: GFDL-1.3\n text\n .\n more\n"
    data = package(root, "hedgewars-data", licences)
    for seed, theme in enumerate(["EarthRise", "Cave"]):
        folder = data / "Themes" / theme
        text(folder / "theme.cfg", f"sky = 19, $12, 82\nmusic = {theme}.ogg\nobject = tree, 1, 5, 20, 9, 3, 1, 0, 0, 9, 9\n")
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
    text(mods / "core/tilesetdefs/tileset_cave.txt", "img=images/tiles.png\ntile=1,0,0,64,32,32,16\ntile=2,64,0,64,32,32,16\n")
    track(mods / "core/music/deep.ogg", seed=51)
    rows = "\n".join(",".join(str(1 + (c + r) % 2) for c in range(30)) + "," for r in range(30))
    header = "[header]\nwidth=30\nheight=30\nhero_pos=15,15\nmusic=music/deep.ogg\n"
    header += "tileset=tilesetdefs/tileset_cave.txt\ntitle=The Pit\n"
    layer = "\n[layer]\ntype={kind}\ndata=\n{rows}\n"
    text(
        mods / "quest/maps/pit.txt", header + layer.format(kind="background", rows=rows) + layer.format(kind="collision", rows="x")
    )
    text(mods / "quest/maps/void.txt", header + layer.format(kind="background", rows=re.sub("[12]", "0", rows)))
    text(mods / "quest/maps/mute.txt", "[header]\nwidth=1\n")
    return mods


def tuxracer(root: Path) -> Path:
    data = package(root, "extremetuxracer-data", "Files: *\nLicense: GPL-2+\n")
    text(
        data / "courses/default/courses.lst", "# list\n*[name] Bunny Hill [dir] bunny\n*[name] Ice [dir] ice*[name] Gone [dir] gone"
    )
    text(data / "courses/events.lst", "*[struct] 0 [race] r [course] bunny [light] night\n[herring] 1 2 3 [theme] calm\n")
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


def build_tree(root: Path) -> None:
    for build in (hedgewars, supertux, flare, tuxracer):
        build(root)


TOY = Described(
    "Toy",
    (
        Package("toy-music", "usr/share/toy", "upstream/"),
        Package("toy-data", "usr/share/toy", archives=("*.pk3",), licence="CC0-1.0"),
    ),
    tracks=("music/*.ogg", "!music/test_*"),
    pictures=("maps/*.png", "data.pk3.d/maps/*.png", "art/*.png"),
    pairs=(
        Script(
            "maps/*.cfg",
            track=r"song (\w+)",
            tracks={"two": "deep|cold"},
            picture_name="maps/{stem}",
            title=r"name (.+)",
            theme="{0}",
        ),
        Theme(r"music/(forest|town)_.*", r"art/(\w+?)\d*\.png", same={"town": "city"}, words={"town": "busy town"}),
    ),
    together=r"art/([a-z]+)\d*\.",
)


def toy(root: Path) -> Path:
    """The packages of `TOY`: three maps that name songs, two themes, one track and some art of nothing closer."""
    text(
        root / "toy-music/usr/share/doc/toy-music/copyright",
        "Files: *\nLicense: GPL-2+\n\nFiles: upstream/music/cold*\nLicense: Expat\n",
    )
    music, data = root / "toy-music/usr/share/toy/music", root / "toy-data/usr/share/toy"
    for seed, name in enumerate(["deep", "cold", "forest_a", "town_a", "03_Ann_Onym_-_Free", "test_tone", "short"]):
        track(music / f"{name}.ogg", seconds=1 if name == "short" else 3, seed=seed)
    for seed, name in enumerate(["pit", "ice", "void"]):
        scene(data / f"maps/{name}.png", seed)
    text(data / "maps/pit.cfg", "name The Pit\nsong two\n")
    text(data / "maps/ice.cfg", "song cold\n")
    text(data / "maps/void.cfg", "song gone\n")
    for seed, name in enumerate(["forest1", "forest2", "city", "sky1", "sky2", "sky3", "logo"]):
        scene(data / f"art/{name}.png", seed + 10)
    picture(data / "art/sprite.png", (300, 300), alpha=100)
    picture(data / "art/small.png", (128, 96))
    return data


def scene(path: Path, seed: int, size=(320, 240), noise=0) -> None:
    """A picture of smooth patches, which looks the same with a little noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size)
    pixels = np.asarray(coarse, np.int16) + np.random.default_rng(seed + 1).integers(-noise, noise + 1, (size[1], size[0], 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
