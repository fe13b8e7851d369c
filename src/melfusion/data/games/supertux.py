"""SuperTux: the sectors of a level, written as S-expressions, name music and layers of background."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from melfusion.data.games.drawing import finish, open_rgba, tile
from melfusion.data.games.scene import Find, Found, GameScene, Skip, attempt, inside, read_text, words

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


def read(data: Path) -> Found:
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
            drawn[parts] = _picture(sector, layers, find)
        places = dict.fromkeys(words(p.parent.name).lower() for p in art if p.parent.name not in ("misc", "background"))
        title, own = string(level, "name"), string(level, "license")
        yield GameScene(title or "untitled", ", ".join(places), track, drawn[parts], art[0], None, own or None, parts)

    def level_scenes(path: Path) -> Found:
        tree = parse_sexpr(re.sub(r"\(tiles[\s\d]*\)", "", read_text(path)))  # tiles are most of the text, and not used
        level, sectors = nodes(tree, "supertux-level")[0], [s for s in tree[0] if s[:1] == ["sector"]]
        yield from attempt(sectors, lambda sector: sector_scene(level, sector))

    levels = sorted(data.glob("levels/**/*.stl"), key=lambda path: ("world" not in path.parent.name, path))
    yield from attempt(levels, level_scenes)  # the main story first: of equal pairs, the first gives the title


def _picture(sector: list, layers: list[Fields], find: Find) -> Image.Image:
    """[800x600 RGB]: gradient and backgrounds, back to front, seen from where the player enters, else the middle."""
    screen = np.array([800.0, 600.0])
    tiles = [[number(t, side, 0) for side in ("width", "height")] for t in nodes(sector, "tilemap")]
    level = np.maximum(32 * np.max(tiles, axis=0), screen) if tiles else screen
    gradient = (nodes(sector, "gradient") or [{}])[0]
    ends = [[float(v) for v in gradient.get(name, [0, 0, 0])[:3]] for name in ("top_color", "bottom_color")]
    top, bottom = np.clip(ends, 0, 1).tolist()
    ramp = (np.linspace(top, bottom, 600)[:, None].repeat(800, 1) * 255).astype(np.uint8)
    spawns = [[number(s, "x", 0), number(s, "y", 0)] for s in nodes(sector, "spawnpoint")[:1]]
    for middle in [*spawns, level / 2]:
        canvas = Image.fromarray(ramp)
        for layer in layers:
            _draw_layer(canvas, layer, find, level, np.clip(np.array(middle) - screen / 2, 0, level - screen))
        try:
            return finish(canvas)
        except Skip as skip:
            reason = skip
    raise reason


def _draw_layer(canvas: Image.Image, layer: Fields, find: Find, level: np.ndarray, camera: np.ndarray) -> None:
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
