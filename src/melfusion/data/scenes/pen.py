"""The pen of the `scenes` corpus: polygons, circles and lines on a square canvas, in the light of the scene.

Coordinates are fractions of the canvas, y downwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from melfusion.data.scenes.scene import Scene

CANVAS_PX = 512

HORIZON = 0.56

Colour = tuple[int, ...]  # RGB or RGBA, 0..255

Points = Iterable[Sequence[float]]  # x, y

# The sun or moon of the times of day, and their light, as factors on the colours of things.
DISC = {"dawn": (255, 245, 205), "noon": (255, 250, 215), "dusk": (255, 190, 70), "night": (240, 240, 225)}

LIGHT = {"dawn": (1.0, 0.85, 0.88), "noon": (1.0, 1.0, 1.0), "dusk": (0.74, 0.5, 0.5), "night": (0.32, 0.38, 0.56)}

WHITE = {"clear": 0.0, "rain": 0.0, "snow": 0.8}  # how far the weathers whiten the ground


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
