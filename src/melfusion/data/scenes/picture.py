"""The pictures of the `scenes` corpus: place, time of day and weather, drawn with Pillow.

A picture is painted on a square canvas and shrunk, which is cheap antialiasing. Coordinates are fractions of it, y
downwards. Positions, sizes, counts, hues and grain come from the generator that the caller passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

if TYPE_CHECKING:
    from melfusion.data.scenes.scene import Scene

CANVAS_PX = 512

HORIZON = 0.56

Colour = tuple[int, ...]  # RGB or RGBA, 0..255

Points = Iterable[Sequence[float]]  # x, y

# The times of day. Sky at the top and at the horizon; the sun or moon, the ranges of its centre, the glow around
# it; the light, as factors on the colours of things.
TOP = {"dawn": (150, 175, 225), "noon": (45, 125, 235), "dusk": (75, 35, 105), "night": (6, 8, 30)}

BOTTOM = {"dawn": (255, 205, 190), "noon": (185, 228, 255), "dusk": (250, 115, 45), "night": (28, 38, 85)}

DISC = {"dawn": (255, 245, 205), "noon": (255, 250, 215), "dusk": (255, 190, 70), "night": (240, 240, 225)}

DISC_X = {"dawn": (0.12, 0.4), "noon": (0.3, 0.7), "dusk": (0.6, 0.88), "night": (0.2, 0.8)}

DISC_Y = {"dawn": (0.32, 0.4), "noon": (0.11, 0.16), "dusk": (0.34, 0.42), "night": (0.13, 0.22)}

GLOW = {"dawn": 0.6, "noon": 0.5, "dusk": 0.8, "night": 0.25}

LIGHT = {"dawn": (1.0, 0.85, 0.88), "noon": (1.0, 1.0, 1.0), "dusk": (0.74, 0.5, 0.5), "night": (0.32, 0.38, 0.56)}

# The weathers. How far they grey the sky and whiten the ground; clouds: count below, y, size, colour with opacity.
GREY, WHITE = {"clear": 0.0, "rain": 0.45, "snow": 0.5}, {"clear": 0.0, "rain": 0.0, "snow": 0.8}

CLOUDS = {
    "clear": ((0, 3), (0.12, 0.34), (0.05, 0.08), (255, 255, 255, 190)),
    "rain": ((9, 10), (-0.02, 0.08), (0.1, 0.14), (88, 96, 112, 235)),
    "snow": ((7, 8), (-0.02, 0.08), (0.1, 0.14), (226, 230, 238, 215)),
}

# Hull and two sails, in units of the boat's size from where the mast meets the hull.
BOAT = (
    ((150, 55, 35), ((-0.55, 0), (0.55, 0), (0.35, 0.22), (-0.35, 0.22))),
    ((255, 250, 240), ((0, -1.3), (0, -0.06), (0.6, -0.06))),
    ((235, 215, 190), ((-0.06, -1.1), (-0.06, -0.06), (-0.48, -0.06))),
)

PUFFS = ((-1.0, 0.2, 0.6), (-0.35, -0.1, 0.85), (0.4, 0.0, 0.75), (1.05, 0.25, 0.55))  # x, y, radius of a cloud's parts

TIER, CAP = ((-1, 0), (1, 0), (0, -1)), ((-0.42, -0.58), (0, -1), (0.42, -0.58), (0, -0.7))

PEAK, SHADED_SIDE = ((-1, 1), (0, 0), (1, 1)), ((0, 0), (1, 1), (0.1, 1))

SUMMIT = ((0, 0), (-0.3, 0.3), (-0.135, 0.225), (-0.03, 0.33), (0.105, 0.24), (0.3, 0.3))


class Pen:
    """Draws polygons, circles and lines given in fractions of the canvas, in the light of the scene."""

    def __init__(self, image: Image.Image, scene: Scene, tint: np.ndarray):
        self.image, self.draw = image, ImageDraw.Draw(image, "RGBA")
        self.scene, self.light, self.snow = scene, tint * LIGHT[scene.time], WHITE[scene.weather]

    def lit(self, colour: Sequence[float] | np.ndarray, snow: float = 1.0) -> Colour:
        """A thing's own colour under snow (`snow` 0..1 says how much it takes), this picture's tint and the light."""
        rgb = np.asarray(colour, float)
        rgb = rgb + (np.array((238.0, 242.0, 250.0)) - rgb) * self.snow * snow
        rgb = rgb * self.light * (0.78 if self.scene.weather == "rain" else 1.0)
        return tuple(int(c) for c in np.clip(rgb, 0, 255))

    def polygon(
        self, points: Points, colour: Colour, x: float = 0.0, y: float = 0.0, width: float = 1.0, height: float = 1.0
    ) -> None:
        """A polygon given in units of `width` and `height` from (x, y)."""
        self.draw.polygon([((x + u * width) * CANVAS_PX, (y + v * height) * CANVAS_PX) for u, v in points], fill=colour)

    def circle(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.draw.ellipse([v * CANVAS_PX for v in (x - radius, y - radius, x + radius, y + radius)], fill=colour)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.draw.rectangle([v * CANVAS_PX for v in (x0, y0, x1, y1)], fill=colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: Colour) -> None:
        self.draw.line([v * CANVAS_PX for v in (x0, y0, x1, y1)], fill=colour, width=max(1, round(width * CANVAS_PX)))

    def hill(self, base: float, height: float, waves: float, phase: float, colour: Colour) -> None:
        """Ground below a wavy line around y = `base`."""
        x, waves = np.linspace(0, 1, 65), waves * 2 * np.pi
        y = base - height * (np.sin(waves * x + phase) + 0.35 * np.sin(2.3 * waves * x + 2 * phase))
        self.polygon([*zip(x, y, strict=True), (1, 1), (0, 1)], colour)


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


def _sea(pen: Pen, sun_x: float, rng: np.random.Generator) -> None:
    """Water with waves, the sun's reflection and a sailing boat."""
    horizon = HORIZON + rng.uniform(-0.03, 0.03)
    pen.rectangle(0, horizon, 1, 1, pen.lit((30, 105, 175), 0.35))
    for y in np.linspace(horizon + 0.03, 0.97, 9):
        depth = (y - horizon) / (1 - horizon)
        for _ in range(6):
            x, length = rng.uniform(-0.1, 1), rng.uniform(0.06, 0.14) * (0.4 + depth)
            pen.line(x, y, x + length, y, 0.004 + 0.008 * depth, pen.lit((95, 175, 225), 0.35))
        half = rng.uniform(0.02, 0.05) + 0.06 * depth
        pen.line(sun_x - half, y, sun_x + half, y, 0.006 + 0.006 * depth, (*DISC[pen.scene.time], 150))
    x, y, size = rng.uniform(0.2, 0.8), horizon + rng.uniform(0.08, 0.2), rng.uniform(0.16, 0.24)
    for colour, points in BOAT:
        pen.polygon(points, pen.lit(colour, 0), x, y, size, size)


def _forest(pen: Pen, sun_x: float, rng: np.random.Generator) -> None:
    """Two rows of tall conifers."""
    pen.hill(0.72, 0.015, 1.0, rng.uniform(0, 6), pen.lit((48, 92, 44)))
    for base, height, count, colour in ((0.74, 0.36, 9, (58, 120, 78)), (0.92, 0.52, 6, (22, 78, 42))):
        count += int(rng.integers(0, 2))
        for i in range(count):
            x, foot = (i + rng.uniform(0.2, 0.8)) / count, base + rng.uniform(-0.02, 0.03)
            tall = height * rng.uniform(0.8, 1.2)
            pen.rectangle(x - 0.012, foot - 0.05, x + 0.012, foot + 0.03, pen.lit((92, 62, 40), 0))
            for level in range(3):
                low, half = foot - tall * 0.27 * level, tall * (0.25 - 0.055 * level)
                pen.polygon(TIER, pen.lit(colour, 0.2), x, low, half, 0.46 * tall)
                if pen.snow:
                    pen.polygon(CAP, pen.lit((245, 248, 255)), x, low, half, 0.46 * tall)


def _desert(pen: Pen, sun_x: float, rng: np.random.Generator) -> None:
    """Dunes and cacti."""
    phase = rng.uniform(0, 6)
    pen.hill(0.64, 0.04, 0.9, phase, pen.lit((232, 186, 112), 0.6))
    pen.hill(0.76, 0.045, 0.7, phase + 2.2, pen.lit((222, 164, 84), 0.6))
    pen.hill(0.9, 0.03, 1.0, phase + 4.1, pen.lit((205, 142, 66), 0.6))
    for place in rng.permutation(3)[: int(rng.integers(1, 3))]:
        x, foot, size = 0.2 + 0.3 * place + rng.uniform(-0.07, 0.07), rng.uniform(0.82, 0.92), rng.uniform(0.3, 0.42)
        colour, width = pen.lit((46, 118, 56), 0.2), 0.17 * size
        pen.line(x, foot, x, foot - size, width, colour)
        pen.circle(x, foot - size, width / 2, colour)
        for side, low, high in ((-1, 0.35, 0.72), (1, 0.5, 0.85)):
            arm = x + side * 0.27 * size
            pen.line(x, foot - low * size, arm + side * 0.06 * size, foot - low * size, 0.12 * size, colour)
            pen.line(arm, foot - low * size, arm, foot - high * size, 0.12 * size, colour)
            pen.circle(arm, foot - high * size, 0.06 * size, colour)


def _city(pen: Pen, sun_x: float, rng: np.random.Generator) -> None:
    """A skyline with windows, lit when it is dark, above a street."""
    window = (255, 214, 110) if pen.scene.time in ("dusk", "night") else pen.lit((205, 228, 245), 0)
    for base, colour, low, high in ((0.86, (150, 150, 165), 0.35, 0.6), (0.9, (98, 92, 110), 0.2, 0.46)):
        x = rng.uniform(-0.08, 0.0)
        while x < 1:
            width, roof = rng.uniform(0.12, 0.2), base - rng.uniform(low, high)
            pen.rectangle(x, roof, x + width, base, pen.lit(np.array(colour) * rng.uniform(0.9, 1.1, 3), 0.15))
            if pen.snow:
                pen.rectangle(x, roof - 0.012, x + width, roof + 0.02, pen.lit((240, 244, 250)))
            columns, rows = np.arange(x + 0.02, x + width - 0.035, 0.042), np.arange(roof + 0.04, base - 0.05, 0.06)
            for left, top in product(columns, rows):
                if rng.random() < 0.7:
                    pen.rectangle(left, top, left + 0.024, top + 0.032, window)
            x += width + rng.uniform(0.0, 0.03)
    pen.rectangle(0, 0.88, 1, 1, pen.lit((86, 86, 92), 0.8))


def _mountains(pen: Pen, sun_x: float, rng: np.random.Generator) -> None:
    """Tall peaks, a lit and a shaded side, with white caps."""
    places = np.array([0.1, 0.9, 0.5]) + rng.uniform(-0.09, 0.09, 3)
    for x, top in zip(places, (*rng.uniform(0.34, 0.44, 2), rng.uniform(0.2, 0.28)), strict=True):
        half, height = rng.uniform(0.36, 0.46), 0.94 - top
        pen.polygon(PEAK, pen.lit((118, 122, 150), 0.6), x, top, half, height)
        pen.polygon(SHADED_SIDE, pen.lit((82, 84, 116), 0.6), x, top, half, height)
        pen.polygon(SUMMIT, pen.lit((250, 252, 255)), x, top, half, height)
    pen.hill(0.87, 0.02, 1.2, rng.uniform(0, 6), pen.lit((82, 104, 84)))


def _meadow(pen: Pen, sun_x: float, rng: np.random.Generator) -> None:
    """Rolling hills with one round tree and flowers."""
    phase = rng.uniform(0, 6)
    pen.hill(0.66, 0.05, 0.8, phase, pen.lit((138, 200, 96), 0.9))
    x, foot, size = rng.uniform(0.2, 0.8), 0.76, rng.uniform(0.11, 0.14)
    pen.hill(0.76, 0.04, 0.6, phase + 2.5, pen.lit((112, 184, 70), 0.9))
    pen.rectangle(x - 0.02, foot - 0.2, x + 0.02, foot + 0.04, pen.lit((105, 68, 40), 0))
    for dx, dy, r in ((-0.7, 0.1, 0.75), (0.7, 0.1, 0.75), (0.0, -0.45, 0.95)):
        pen.circle(x + dx * size, foot - 0.24 + dy * size, r * size, pen.lit((62, 142, 52), 0.5))
    pen.hill(0.88, 0.025, 0.9, phase + 4.4, pen.lit((84, 160, 54), 0.9))
    for _ in range(rng.integers(26, 40)):
        colour = pen.lit(((240, 70, 80), (255, 220, 70), (245, 130, 205))[rng.integers(3)], 0.2)
        pen.circle(rng.uniform(0, 1), rng.uniform(0.8, 0.98), rng.uniform(0.009, 0.017), colour)


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


DRAWINGS: dict[str, Callable[[Pen, float, np.random.Generator], None]] = {
    drawing.__name__[1:]: drawing for drawing in (_sea, _forest, _desert, _city, _mountains, _meadow)
}
