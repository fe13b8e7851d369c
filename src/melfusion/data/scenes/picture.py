"""The pictures of the `scenes` corpus: place, time of day and weather, drawn with Pillow.

A picture is painted on a square canvas (pen.py) and shrunk, which is cheap antialiasing. Here are sky, sun, clouds and what falls
from them; places.py has what is below. Positions, sizes, counts, hues and grain come from the generator that the caller passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from melfusion.data.scenes.pen import CANVAS_PX, DISC, HORIZON, LIGHT, Pen
from melfusion.data.scenes.places import DRAWINGS

if TYPE_CHECKING:
    from melfusion.data.scenes.scene import Scene

# The times of day. Sky at the top and at the horizon; the ranges of the sun's or moon's centre, the glow around it.
TOP = {"dawn": (150, 175, 225), "noon": (45, 125, 235), "dusk": (75, 35, 105), "night": (6, 8, 30)}

BOTTOM = {"dawn": (255, 205, 190), "noon": (185, 228, 255), "dusk": (250, 115, 45), "night": (28, 38, 85)}

DISC_X = {"dawn": (0.12, 0.4), "noon": (0.3, 0.7), "dusk": (0.6, 0.88), "night": (0.2, 0.8)}

DISC_Y = {"dawn": (0.32, 0.4), "noon": (0.11, 0.16), "dusk": (0.34, 0.42), "night": (0.13, 0.22)}

GLOW = {"dawn": 0.6, "noon": 0.5, "dusk": 0.8, "night": 0.25}

# The weathers. How far they grey the sky; clouds: count below, y, size, colour with opacity.
GREY = {"clear": 0.0, "rain": 0.45, "snow": 0.5}

CLOUDS = {
    "clear": ((0, 3), (0.12, 0.34), (0.05, 0.08), (255, 255, 255, 190)),
    "rain": ((9, 10), (-0.02, 0.08), (0.1, 0.14), (88, 96, 112, 235)),
    "snow": ((7, 8), (-0.02, 0.08), (0.1, 0.14), (226, 230, 238, 215)),
}

PUFFS = ((-1.0, 0.2, 0.6), (-0.35, -0.1, 0.85), (0.4, 0.0, 0.75), (1.05, 0.25, 0.55))  # x, y, radius of a cloud's parts


def draw(scene: Scene, rng: np.random.Generator, size_px: int) -> Image.Image:
    """The scene as an RGB picture of (size_px, size_px)."""
    sun = (rng.uniform(*DISC_X[scene.time]), rng.uniform(*DISC_Y[scene.time]), rng.uniform(0.07, 0.1))
    image = _sky(scene, sun, rng)
    pen = Pen(image, scene, rng.uniform(0.93, 1.07, 3))
    _disc(pen, sun, rng)
    _clouds(pen, rng)
    DRAWINGS[scene.place](pen, sun[0], rng)
    _fall(pen, rng)
    pixels = np.asarray(image.resize((size_px, size_px), Image.Resampling.BOX), np.float32)
    grain = rng.normal(0, 1.5, (size_px, size_px, 1)).astype(np.float32)
    return Image.fromarray(np.clip(pixels + grain, 0, 255).round().astype(np.uint8))


def _sky(scene: Scene, sun: tuple[float, float, float], rng: np.random.Generator) -> Image.Image:
    """The sky's gradient with the glow around the sun; painted small and enlarged, since it is smooth."""
    y, x = np.mgrid[0:64, 0:64] / 63.0
    top, horizon = (np.array(c) * rng.uniform(0.95, 1.05, 3) for c in (TOP[scene.time], BOTTOM[scene.time]))
    sky = top + (horizon - top) * np.clip(y / HORIZON, 0, 1)[..., None] ** 1.2
    glow = GLOW[scene.time] * np.exp(-np.hypot(x - sun[0], y - sun[1]) / 0.16)[..., None]
    sky = sky + (np.array(DISC[scene.time]) - sky) * glow
    grey = sky.mean(axis=2, keepdims=True) * np.array((0.86, 0.9, 0.96))
    sky = sky + (grey - sky) * GREY[scene.weather]
    return Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8)).resize((CANVAS_PX,) * 2, Image.Resampling.BICUBIC)


def _disc(pen: Pen, sun: tuple[float, float, float], rng: np.random.Generator) -> None:
    """The sun, or at night a crescent moon and stars."""
    (x, y, radius), colour = sun, DISC[pen.scene.time]
    if pen.scene.time != "night":
        pen.circle(x, y, radius, colour)
        return
    for _ in range(rng.integers(30, 50)):
        size = rng.uniform(0.002, 0.006)
        pen.circle(rng.uniform(0, 1), rng.uniform(0, HORIZON), size, (255, 255, 240, int(rng.uniform(120, 255))))
    turn, lean = np.linspace(-0.5, 0.5, 33) * np.pi, rng.uniform(0.2, 0.6)
    outer, inner = (-width * np.cos(turn) + 1j * np.sin(turn) for width in (1.0, 0.35))
    edge = np.concatenate([outer, inner[::-1]]) * np.exp(1j * lean)
    pen.polygon(zip(edge.real, edge.imag, strict=True), colour, x, y, radius, radius)


def _clouds(pen: Pen, rng: np.random.Generator) -> None:
    """Small white clouds, a dark ceiling in rain, a pale one in snow."""
    clear = pen.scene.weather == "clear"
    counts, heights, sizes, shade = CLOUDS[pen.scene.weather]
    colour = (*(int(c * b) for c, b in zip(shade[:3], LIGHT[pen.scene.time], strict=True)), shade[3])
    layer = Image.new("RGBA", (CANVAS_PX // 4, CANVAS_PX // 4), (*colour[:3], 0))
    ink = ImageDraw.Draw(layer)
    for i in range(count := int(rng.integers(*counts))):
        x = rng.uniform(0.05, 0.95) if clear else (i + rng.uniform(0, 1)) / count
        y, size = rng.uniform(*heights), rng.uniform(*sizes)
        for dx, dy, r in PUFFS:
            cx, cy, cr = (v * CANVAS_PX / 4 for v in (x + dx * size, y + dy * size, r * size))
            ink.ellipse([cx - cr, cy - 0.7 * cr, cx + cr, cy + 0.7 * cr], fill=colour)
    layer = layer.filter(ImageFilter.GaussianBlur(1.2))
    if part := enlarged(layer):
        pen.image.paste(part, (0, 0), part)


def enlarged(layer: Image.Image) -> Image.Image | None:
    """The rows of an RGBA layer down to the last that is not empty, four times as large; None where all are empty.

    The pixels are those of the whole layer enlarged: bicubic sees the same rows (hence 4 more), along x first, as in a square.
    """
    if not (painted := layer.getbbox()):
        return None
    rows = min(layer.height, painted[3] + 4)
    wide = layer.convert("RGBa").resize((4 * layer.width, rows), Image.Resampling.BICUBIC, (0, 0, layer.width, rows))
    return wide.resize((4 * layer.width, 4 * rows), Image.Resampling.BICUBIC).convert("RGBA")


def _fall(pen: Pen, rng: np.random.Generator) -> None:
    """Rain streaks or snow flakes over everything."""
    night, count = pen.scene.time == "night", int(rng.integers(90, 125))
    if pen.scene.weather == "rain":
        slant, colour = rng.uniform(-0.35, -0.15), (150, 170, 205, 150) if night else (205, 220, 240, 185)
        for x, y, length in rng.uniform((-0.05, 0.05, 0.07), (1.15, 0.95, 0.13), (count, 3)):
            pen.line(x, y, x + slant * length, y + length, 0.005, colour)
    if pen.scene.weather == "snow":
        for x, y, radius in rng.uniform((0, 0, 0.006), (1, 1, 0.016), (count, 3)):
            pen.circle(x, y, radius, (205, 212, 230, 235) if night else (255, 255, 255, 240))
