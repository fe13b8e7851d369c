"""What the games' files say and show: one reader per game for Hedgewars, SuperTux, Flare and Extreme Tux Racer.

Each `read_*` walks one game's data folder and yields, for everything in it that names a track, either a `Scene` or a
short reason why there is none. Files are data from strangers: paths may not leave the game's folder, sizes are bounded,
and whatever is malformed becomes a reason, never an exception.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

SIZE = (256, 192)  # pixels, width and height of every picture
MAX_TEXT_BYTES, MAX_PIXELS = 8 << 20, 1 << 24
MISSING = "names a file that is not there"


class Skip(Exception):
    """Something cannot become a scene; the message says why and is counted."""


@dataclass(frozen=True)
class Scene:
    """One place in a game, its picture [256x192 RGB] and the track that plays there."""

    title: str
    theme: str  # lower-case words for the place or its mood, from the files; may be empty
    track: Path
    image: Image.Image
    art: Path  # the file whose licence is the picture's
    artist: str | None = None
    own_license: str | None = None  # as the level itself states it
    parts: tuple[str, ...] = ()  # art that other pictures may show too: such pictures belong in one split


Found = Iterator[Scene | str]
Find = Callable[[str], Path]


def attempt(items: Iterable, build: Callable[..., Iterable[Scene | str]]) -> Found:
    """`build(item)` for every item, with what goes wrong turned into a reason."""
    for item in items:
        try:
            yield from build(item)
        except Skip as skip:
            yield str(skip)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
            yield "malformed file"


def read_text(path: Path) -> str:
    """A text file's content: UTF-8, or Latin-1 where it is not."""
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise Skip("text file too large")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def inside(root: Path, name: str) -> Path:
    """The file `name` (which may start with a slash or use backslashes) below `root`."""
    path = (root / re.sub(r"[\\/]+", "/", name).lstrip("/")).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise Skip(MISSING)
    return path


def settings(path: Path) -> list[tuple[str, str]]:
    """The `key = value` lines of a file, in order."""
    pairs = (line.partition("=") for line in read_text(path).splitlines() if "=" in line)
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def words(name: str) -> str:
    """'BlueRock_Forest' -> 'Blue Rock Forest'."""
    return " ".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_\-]", " ", name).split())


def open_rgba(path: Path, scale: float = 1) -> Image.Image:
    """A picture file as RGBA."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Skip("picture too large")
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            return image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    except Skip:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on broken files
        raise Skip("unreadable picture") from error


def cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled to fill `size` (width, height), centre-cropped; a picture much narrower than that is stretched."""
    scale = max(size[0] / image.width, size[1] / image.height)
    wide, high = size[0] / scale, size[1] / scale
    if high < image.height / 2:
        wide, high = image.size
    left, top = max(0, (image.width - wide) / 2), max(0, (image.height - high) / 2)  # rounding may end just below 0
    return image.resize(size, Image.Resampling.LANCZOS, box=(left, top, image.width - left, image.height - top))


def finish(canvas: Image.Image) -> Image.Image:
    """The picture of a scene; one where nothing changes from left to right (a plain or gradient sky) is refused."""
    picture = cover(canvas.convert("RGB"), SIZE)
    if np.asarray(picture, np.float32).std(axis=1).mean() < 3:
        raise Skip("picture nearly empty")
    return picture


def tile(canvas: Image.Image, image: Image.Image, x: float, y: float, rows: Callable[[int], Image.Image] | None = None):
    """Repeat `image` sideways through (x, y); with `rows` also up and down, `rows(n)` being the n-th row's image."""
    width, height = image.size
    numbers = range(math.floor(-y / height), math.ceil((canvas.height - y) / height)) if rows else (0,)
    for number in numbers:
        piece = rows(number) if rows else image
        for left in range(round(x) % width - width, canvas.width, width):
            canvas.paste(piece, (left, round(y) + number * height), piece)


# --- Hedgewars: a theme names a track, a map names a theme ---------------------------------------------------------


def read_hedgewars(data: Path) -> Found:
    """Themes (sky, horizon and ground drawn from their art) and maps (their preview before their theme's sky)."""
    credits = dict(settings(data / "Music/credits.txt")) if (data / "Music/credits.txt").is_file() else {}
    artists = {name.lower(): re.sub(r"<.*?>", "", artist).strip() for name, artist in credits.items()}

    def scene(folder: Path, theme: Path, preview: Path | None) -> Found:
        config = settings(inside(theme, "theme.cfg"))
        if "music" not in dict(config):
            raise Skip("names no music")
        track = inside(data / "Music", dict(config)["music"])
        canvas = _hedgewars_sky(theme, dict(config))
        if preview is None:
            _hedgewars_ground(canvas, theme, [value for key, value in config if key == "object"])
        else:
            land = open_rgba(preview).resize((512, 256), Image.Resampling.LANCZOS)
            canvas.paste(land, (0, canvas.height - land.height), land)
        place, artist = words(theme.name).lower(), artists.get(track.name.lower())
        yield Scene(words(folder.name), place, track, finish(canvas), preview or theme / "theme.cfg", artist)

    def map_scene(folder: Path) -> Found:
        theme = read_text(inside(folder, "map.cfg")).split("\n", 1)[0].strip()
        return scene(folder, inside(data, f"Themes/{theme}/theme.cfg").parent, inside(folder, "preview.png"))

    yield from attempt(sorted(data.glob("Themes/*/")), lambda theme: scene(theme, theme, None))
    yield from attempt(sorted(data.glob("Maps/*/")), map_scene)


def _hedgewars_sky(theme: Path, config: dict[str, str]) -> Image.Image:
    """[512x384 RGB]: the sky's colour, its picture over the canvas, the horizon along the bottom."""
    colour = tuple(int(n.strip().replace("$", "0x"), 0) & 255 for n in config.get("sky", "0, 0, 0").split(","))
    canvas = Image.new("RGB", (512, 384), colour[:3])
    if (theme / "Sky.png").is_file():
        sky = cover(open_rgba(theme / "Sky.png"), canvas.size)
        canvas.paste(sky, (0, 0), sky)
    if (theme / "horizont.png").is_file():
        horizon = open_rgba(theme / "horizont.png", 0.5)
        tile(canvas, horizon, (512 - horizon.width) / 2, 344 - horizon.height)
    return canvas


def _hedgewars_ground(canvas: Image.Image, theme: Path, objects: list[str]) -> None:
    """Draw a hill of the theme's land texture with its border and some of its objects; its name decides the shape."""
    seed, x = hashlib.sha256(theme.name.encode()).digest(), np.arange(canvas.width)
    waves = ((22, 1, seed[0]), (12, 2.3, seed[1]), (4, 5, seed[2]))  # pixels high, periods over the width, phase
    top = (306 + sum(h * np.sin(2 * np.pi * f * x / 512 + phase / 40) for h, f, phase in waves)).astype(int)
    for number, (name, *numbers) in enumerate(value.replace(" ", "").split(",") for value in objects[:6]):
        path = theme / f"{Path(name).name}.png"
        if path.is_file() and len(numbers) >= 5:
            left, up, wide, high = (int(n) for n in numbers[1:5])  # the part that is stuck in the ground
            sprite, place = open_rgba(path, 0.5), 30 + (number * 97 + seed[3]) % 452
            canvas.paste(sprite, (place - (left + wide // 2) // 2, int(top[place]) - (up + high // 2) // 2), sprite)
    land, texture = Image.new("RGB", canvas.size), open_rgba(theme / "LandTex.png", 0.5)
    tile(land, texture, 0, 0, lambda _: texture)
    canvas.paste(land, (0, 0), Image.fromarray((np.arange(384)[:, None] >= top).astype(np.uint8) * 255))
    if (theme / "Border.png").is_file():
        border = open_rgba(theme / "Border.png", 0.5)
        for column in x.tolist():  # the upper half of the border picture runs along upper edges
            strip = border.crop((column % border.width, 0, column % border.width + 1, border.height // 2))
            canvas.paste(strip, (column, int(top[column]) - 1), strip)


# --- SuperTux: the sectors of a level name music and layers of background ------------------------------------------

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)|;[^\n]*|[()]|[^\s()"]+', re.DOTALL)
Fields = dict[str, list]


def parse_sexpr(text: str) -> list:
    """S-expressions as nested lists of strings; brackets that do not match are refused."""
    stack: list[list] = [[]]
    for token in _TOKEN.findall(text):
        if token == "(":
            stack.append([])
        elif token == ")" and len(stack) == 1:
            raise Skip("brackets do not match")
        elif token == ")":
            stack[-2].append(stack.pop())
        elif token[0] == '"':
            stack[-1].append(token[1:-1].replace('\\"', '"'))
        elif token[0] != ";":
            stack[-1].append(token)
    if len(stack) != 1:
        raise Skip("brackets do not match")
    return stack[0]


def nodes(node: list, name: str) -> list[Fields]:
    """The children `(name ...)` of a node, each as the fields `(field value ...)` in it, of equal names the first."""
    found = [child for child in node if isinstance(child, list) and child[:1] == [name]]
    named = [[c for c in child if isinstance(c, list) and c and isinstance(c[0], str)] for child in found]
    return [{name: values for name, *values in reversed(children)} for children in named]


def number(fields: Fields, name: str, default: float) -> float:
    value = float(fields[name][0]) if fields.get(name) else default
    return min(1e6, max(-1e6, value))  # also turns NaN into a bound


def string(fields: Fields, name: str) -> str:
    """A string field, also one marked for translation as `(_ "text")`; empty where there is none."""
    value = (fields.get(name) or [""])[0]
    return " ".join((value[-1] if isinstance(value, list) and value else value).split())


def read_supertux(data: Path) -> Found:
    """Every sector of every level that names music and at least one background picture."""
    files = {p.name: p for folder in ("images/background", "music") for p in sorted((data / folder).rglob("*.*"))}
    drawn: dict[tuple[str, ...], Image.Image] = {}  # a set of art files has one picture, whichever level shows it

    def find(name: str) -> Path:
        """By name alone: levels use folders of older releases too, while names have stayed unique."""
        path = files.get(re.split(r"[\\/]", name)[-1])
        return inside(data, str(path.relative_to(data)) if path else "?")

    def sector_scene(level: Fields, sector: list) -> Found:
        music = string((nodes(sector, "music") or [{}])[0], "file")
        if not music:
            raise Skip("names no music")
        track = find(music)
        if track.suffix == ".music":
            track = inside(track.parent, string(nodes(parse_sexpr(read_text(track)), "supertux-music")[0], "file"))
        layers = [layer for layer in nodes(sector, "background") if string(layer, "image")]
        if not layers:
            raise Skip("no background picture, only plain colour")
        layers.sort(key=lambda layer: number(layer, "z-pos", -300))
        art = list(dict.fromkeys(find(string(layer, "image")) for layer in layers))
        parts = tuple(p.name for p in art)
        if parts not in drawn:
            drawn[parts] = _supertux_picture(sector, layers, find)
        places = dict.fromkeys(words(p.parent.name).lower() for p in art if p.parent.name not in ("misc", "background"))
        title, own = string(level, "name"), string(level, "license")
        yield Scene(title or "untitled", ", ".join(places), track, drawn[parts], art[0], None, own or None, parts)

    def level_scenes(path: Path) -> Found:
        tree = parse_sexpr(re.sub(r"\(tiles[\s\d]*\)", "", read_text(path)))  # tiles are most of the text, and not used
        level, sectors = nodes(tree, "supertux-level")[0], [s for s in tree[0] if s[:1] == ["sector"]]
        yield from attempt(sectors, lambda sector: sector_scene(level, sector))

    levels = sorted(data.glob("levels/**/*.stl"), key=lambda path: ("world" not in path.parent.name, path))
    yield from attempt(levels, level_scenes)  # the main story first: of equal pairs, the first gives the title


def _supertux_picture(sector: list, layers: list[Fields], find: Find) -> Image.Image:
    """[800x600 RGB]: gradient and backgrounds, back to front, seen from where the player enters, else the middle."""
    screen = np.array([800.0, 600.0])
    tiles = [[number(t, side, 0) for side in ("width", "height")] for t in nodes(sector, "tilemap")]
    level = np.maximum(32 * np.max(tiles, axis=0), screen) if tiles else screen
    gradient = (nodes(sector, "gradient") or [{}])[0]
    ends = [[float(v) for v in gradient.get(name, [0, 0, 0])[:3]] for name in ("top_color", "bottom_color")]
    ramp = (np.linspace(*np.clip(ends, 0, 1), 600)[:, None].repeat(800, 1) * 255).astype(np.uint8)
    spawns = [[number(s, "x", 0), number(s, "y", 0)] for s in nodes(sector, "spawnpoint")[:1]]
    for middle in [*spawns, level / 2]:
        canvas = Image.fromarray(ramp)
        for layer in layers:
            _supertux_layer(canvas, layer, find, level, np.clip(np.array(middle) - screen / 2, 0, level - screen))
        try:
            return finish(canvas)
        except Skip as skip:
            reason = skip
    raise reason


def _supertux_layer(canvas: Image.Image, layer: Fields, find: Find, level: np.ndarray, camera: np.ndarray) -> None:
    """Draw one background: it moves slower than the camera by `speed`, and hangs on the level's middle or an edge."""

    def load(name: str) -> Image.Image:
        image = open_rgba(find(string(layer, name) or string(layer, "image")))
        tint = [round(255 * min(1.0, max(0.0, float(v)))) for v in layer.get("color", [])[:4]]
        return ImageChops.multiply(image, Image.new("RGBA", image.size, (*tint, *[255] * (4 - len(tint)))))

    image, screen = load("image"), np.array(canvas.size)
    across = number(layer, "speed-x", number(layer, "speed", 0.5))
    speed = np.array([across, number(layer, "speed-y", across)])
    anchor = [number(layer, a, level[i] / 2) + number(layer, f"scroll-offset-{a}", 0) for i, a in enumerate("xy")]
    centre = np.array(anchor) + (camera - (level - screen) / 2) * (1 - speed) - camera  # on the screen
    x, y = centre - np.array(image.size) / 2
    reach = ((1 - speed[1]) * screen[1] + level[1] * speed[1]) / 2
    if layer.get("fill") == ["#t"]:
        filled = image.resize(canvas.size)
        canvas.paste(filled, (0, 0), filled)
    elif (edge := string(layer, "alignment")) in ("top", "bottom"):
        tile(canvas, image, x, centre[1] - reach if edge == "top" else centre[1] + reach - image.height)
    else:
        outer = {-1: load("image-top").resize(image.size), 0: image, 1: load("image-bottom").resize(image.size)}
        tile(canvas, image, x, y, lambda row: outer[(row > 0) - (row < 0)])


# --- Flare: isometric maps made of tiles ---------------------------------------------------------------------------


def read_flare(mods: Path) -> Found:
    """Every map that names music: its tiles, drawn around where the hero enters or near there."""

    def find(name: str) -> Path:
        for mod in sorted(mods.iterdir()):
            if (mod / name).is_file():
                return inside(mod, name)
        raise Skip(MISSING)

    def map_scene(path: Path) -> Found:
        header, layers = _flare_map(path)
        if "music" not in header:
            raise Skip("names no music")
        track, theme = find(header["music"]), Path(header["tileset"]).stem.removeprefix("tileset_")
        picture = finish(_flare_view(header, layers, _flare_tiles(find(header["tileset"]), find)))
        yield Scene(header.get("title") or words(path.stem), words(theme).lower(), track, picture, path)

    yield from attempt(sorted(mods.glob("*/maps/**/*.txt")), map_scene)


def _flare_map(path: Path) -> tuple[dict[str, str], list[np.ndarray]]:
    """The [header] section, and the visible layers [rows, columns] of tile numbers, back to front."""
    header: dict[str, str] = {}
    layers: list[np.ndarray] = []
    for section in re.split(r"^\[", read_text(path), flags=re.MULTILINE)[1:]:
        name, _, body = section.partition("]")
        if name == "header":
            header = dict(re.findall(r"^(\w+)=(.*?)\s*$", body, re.MULTILINE))
        elif name == "layer" and "type=collision" not in body:
            rows = [line.strip().strip(",").split(",") for line in body.partition("data=")[2].split()]
            layers.append(np.array(rows, dtype=np.int64))
    return header, layers


def _flare_tiles(path: Path, find: Find) -> dict[int, tuple[Image.Image, int, int]]:
    """A tile set: number -> picture and the offset of its anchor, pixels."""
    tiles: dict[int, tuple[Image.Image, int, int]] = {}
    sheet = None
    for key, value in settings(path):
        if key == "img":
            sheet = open_rgba(find(value))
        elif key == "tile":
            index, x, y, width, height, left, up = (int(n) for n in value.split(",")[:7])
            tiles[index] = sheet.crop((x, y, x + min(width, 1024), y + min(height, 1024))), left, up
    return tiles


def _flare_view(header: dict[str, str], layers: list[np.ndarray], tiles: dict) -> Image.Image:
    """[768x576 RGB]: all layers; a tile at (column, row) lies at ((column - row) * 32, (column + row) * 16)."""
    colour = header.get("background_color", "0,0,0").split(",")[:3]
    canvas = Image.new("RGB", (768, 576), tuple(int(n) & 255 for n in colour))
    column, row = _flare_middle(header, np.any([layer != 0 for layer in layers], axis=0))
    for layer in layers:
        rows, columns = np.nonzero(layer)
        x, y = (columns - rows - column + row) * 32 + 384, (columns + rows - column - row) * 16 + 288
        seen = np.flatnonzero((abs(x - 384) < 768) & (y > -200) & (y < 976))
        for i in seen[np.argsort(y[seen], kind="stable")]:
            if (index := int(layer[rows[i], columns[i]])) in tiles:
                image, left, up = tiles[index]
                canvas.paste(image, (int(x[i]) - left, int(y[i]) - up), image)
    return canvas


def _flare_middle(header: dict[str, str], filled: np.ndarray) -> tuple[int, int]:
    """(column, row) to look at: where the hero enters, or a place near it whose view lies more on the map."""
    height, width = filled.shape
    hero = np.array([int(n) for n in header.get("hero_pos", f"{width // 2},{height // 2}").split(",")[:2]])
    across, down = (a.ravel() for a in np.meshgrid(np.arange(-336, 337, 96), np.arange(-240, 241, 80)))  # pixels
    probes = np.stack([across / 64 + down / 32, down / 32 - across / 64], -1).round().astype(int)  # columns, rows

    def score(place: np.ndarray) -> float:
        at = place + probes
        at = at[((at >= 0) & (at < (width, height))).all(axis=1)]
        return filled[at[:, 1], at[:, 0]].sum() / len(probes) - 0.004 * math.dist(place, hero)

    grid = np.stack(np.meshgrid(np.arange(2, width, 4), np.arange(2, height, 4)), -1).reshape(-1, 2)
    column, row = max([hero, *grid[:4096]], key=score).tolist()
    return column, row


# --- Extreme Tux Racer: a course has a preview, a race names course and theme, a theme names music -----------------


def _records(path: Path) -> list[dict[str, str]]:
    """A `.lst` file: records start with `*`, fields are `[name] value`."""
    text = re.sub(r"^\s*#.*", "", read_text(path), flags=re.MULTILINE) if path.is_file() else ""
    return [{k: " ".join(v.split()) for k, v in re.findall(r"\[(.*?)\]([^\[]*)", part)} for part in text.split("*")[1:]]


def read_etr(data: Path) -> Found:
    """Every listed course; its racing theme is its race's, else its own, else the first of the list (the default)."""
    files = {r["name"]: r["file"] for r in _records(data / "music/music.lst") if {"name", "file"} <= r.keys()}
    themes = {r["name"]: r["race"] for r in _records(data / "music/racing_themes.lst") if {"name", "race"} <= r.keys()}
    races = {r["course"]: r for r in _records(data / "courses/events.lst") if "course" in r}
    readme = read_text(data / "music/readme") if (data / "music/readme").is_file() else ""
    composers = re.findall(r"^([^<\n]+?) *(?:<.*>)? composed:((?:\s+\S+\.ogg\b)+)", readme, re.MULTILINE)
    artists = {name: artist for artist, names in composers for name in names.split()}

    def course_scene(entry: tuple[Path, dict[str, str]]) -> Found:
        listing, record = entry
        folder = inside(listing.parent, f"{record['dir']}/course.dim").parent
        course = {k: v for r in reversed(_records(folder / "course.dim")) for k, v in r.items()}
        race = races.get(record["dir"], {})
        theme = next((t for t in (race.get("theme"), course.get("theme")) if t in themes), next(iter(themes), ""))
        track = inside(data / "music", files[themes[theme]])
        mood = " ".join(w for w in ("" if theme == "normal" else theme, race.get("light", "")) if w)
        picture = finish(open_rgba(inside(folder, "preview.png")))
        yield Scene(record["name"], mood, track, picture, folder / "preview.png", artists.get(track.name))

    listings = sorted(data.glob("courses/*/courses.lst"))
    yield from attempt([(path, record) for path in listings for record in _records(path)], course_scene)
