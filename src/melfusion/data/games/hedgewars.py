"""Hedgewars: a theme names a track, a map names a theme."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from melfusion.data.games.drawing import cover, finish, open_rgba, tile
from melfusion.data.games.scene import Found, GameScene, Skip, attempt, inside, read_text, settings, words


def read(data: Path) -> Found:
    """Themes (sky, horizon and ground drawn from their art) and maps (their preview before their theme's sky)."""
    credits = dict(settings(data / "Music/credits.txt")) if (data / "Music/credits.txt").is_file() else {}
    artists = {name.lower(): re.sub(r"<.*?>", "", artist).strip() for name, artist in credits.items()}

    def scene(folder: Path, theme: Path, preview: Path | None) -> Found:
        config = settings(inside(theme, "theme.cfg"))
        if "music" not in dict(config):
            raise Skip("names no music")
        track = inside(data / "Music", dict(config)["music"])
        canvas = _sky(theme, dict(config))
        if preview is None:
            _ground(canvas, theme, [value for key, value in config if key == "object"])
        else:
            land = open_rgba(preview).resize((512, 256), Image.Resampling.LANCZOS)
            canvas.paste(land, (0, canvas.height - land.height), land)
        place, artist = words(theme.name).lower(), artists.get(track.name.lower())
        yield GameScene(words(folder.name), place, track, finish(canvas), preview or theme / "theme.cfg", artist)

    def map_scene(folder: Path) -> Found:
        theme = read_text(inside(folder, "map.cfg")).split("\n", 1)[0].strip()
        return scene(folder, inside(data, f"Themes/{theme}/theme.cfg").parent, inside(folder, "preview.png"))

    yield from attempt(sorted(data.glob("Themes/*/")), lambda theme: scene(theme, theme, None))
    yield from attempt(sorted(data.glob("Maps/*/")), map_scene)


def _sky(theme: Path, config: dict[str, str]) -> Image.Image:
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


def _ground(canvas: Image.Image, theme: Path, objects: list[str]) -> None:
    """Draw a hill of the theme's land texture with its border and some of its objects; its name decides the shape."""
    seed, x = hashlib.sha256(theme.name.encode()).digest(), np.arange(canvas.width)
    waves = ((22, 1, seed[0]), (12, 2.3, seed[1]), (4, 5, seed[2]))  # pixels high, periods over the width, phase
    hill: Any = sum(h * np.sin(2 * np.pi * f * x / 512 + phase / 40) for h, f, phase in waves)
    top = (306 + hill).astype(int)
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
