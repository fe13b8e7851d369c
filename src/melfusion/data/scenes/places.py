"""What lies below the sky of the `scenes` corpus: a drawing of each place, by the pen, the x of the sun and a generator."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from melfusion.data.scenes.pen import DISC, HORIZON, Pen

# Hull and two sails, in units of the boat's size from where the mast meets the hull.
BOAT = (
    ((150, 55, 35), ((-0.55, 0), (0.55, 0), (0.35, 0.22), (-0.35, 0.22))),
    ((255, 250, 240), ((0, -1.3), (0, -0.06), (0.6, -0.06))),
    ((235, 215, 190), ((-0.06, -1.1), (-0.06, -0.06), (-0.48, -0.06))),
)

TIER, CAP = ((-1, 0), (1, 0), (0, -1)), ((-0.42, -0.58), (0, -1), (0.42, -0.58), (0, -0.7))

PEAK, SHADED_SIDE = ((-1, 1), (0, 0), (1, 1)), ((0, 0), (1, 1), (0.1, 1))

SUMMIT = ((0, 0), (-0.3, 0.3), (-0.135, 0.225), (-0.03, 0.33), (0.105, 0.24), (0.3, 0.3))


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


DRAWINGS: dict[str, Callable[[Pen, float, np.random.Generator], None]] = {
    drawing.__name__[1:]: drawing for drawing in (_sea, _forest, _desert, _city, _mountains, _meadow)
}
