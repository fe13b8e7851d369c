"""Flare: isometric maps made of tiles; a map names its music and its tile set."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
from PIL import Image

from melfusion.data.games.drawing import finish, open_rgba
from melfusion.data.games.scene import MISSING, Find, Found, GameScene, Skip, attempt, inside, read_text, settings, words


def read(mods: Path) -> Found:
    """Every map that names music: its tiles, drawn around where the hero enters or near there."""

    def find(name: str) -> Path:
        for mod in sorted(mods.iterdir()):
            if (mod / name).is_file():
                return inside(mod, name)
        raise Skip(MISSING)

    def map_scene(path: Path) -> Found:
        header, layers = _read_map(path)
        if "music" not in header:
            raise Skip("names no music")
        track, theme = find(header["music"]), Path(header["tileset"]).stem.removeprefix("tileset_")
        picture = finish(_view(header, layers, _read_tiles(find(header["tileset"]), find)))
        yield GameScene(header.get("title") or words(path.stem), words(theme).lower(), track, picture, path)

    yield from attempt(sorted(mods.glob("*/maps/**/*.txt")), map_scene)


def _read_map(path: Path) -> tuple[dict[str, str], list[np.ndarray]]:
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


def _read_tiles(path: Path, find: Find) -> dict[int, tuple[Image.Image, int, int]]:
    """A tile set: number -> picture and the offset of its anchor, pixels."""
    tiles: dict[int, tuple[Image.Image, int, int]] = {}
    sheet = None
    for key, value in settings(path):
        if key == "img":
            sheet = open_rgba(find(value))
        elif key == "tile":
            if sheet is None:
                raise ValueError("a tile comes before its picture")
            index, x, y, width, height, left, up = (int(n) for n in value.split(",")[:7])
            tiles[index] = sheet.crop((x, y, x + min(width, 1024), y + min(height, 1024))), left, up
    return tiles


def _view(header: dict[str, str], layers: list[np.ndarray], tiles: dict) -> Image.Image:
    """[768x576 RGB]: all layers; a tile at (column, row) lies at ((column - row) * 32, (column + row) * 16)."""
    colour = header.get("background_color", "0,0,0").split(",")[:3]
    canvas = Image.new("RGB", (768, 576), tuple(int(n) & 255 for n in colour))
    column, row = _middle(header, np.any([layer != 0 for layer in layers], axis=0))
    for layer in layers:
        rows, columns = np.nonzero(layer)
        x, y = (columns - rows - column + row) * 32 + 384, (columns + rows - column - row) * 16 + 288
        seen = np.flatnonzero((abs(x - 384) < 768) & (y > -200) & (y < 976))
        for i in seen[np.argsort(y[seen], kind="stable")]:
            if (index := int(layer[rows[i], columns[i]])) in tiles:
                image, left, up = tiles[index]
                canvas.paste(image, (int(x[i]) - left, int(y[i]) - up), image)
    return canvas


def _middle(header: dict[str, str], filled: np.ndarray) -> tuple[int, int]:
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
