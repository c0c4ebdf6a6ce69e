"""The backgrounds of the procedural world: a sky or wall above, a ground below, a few details."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from ace_tasks.training.world.shapes import OVERSAMPLING, WHOLE, Part, Rgb, draw_part


@dataclass(frozen=True)
class Backdrop:
    """Two vertical gradients that meet at the horizon, and details that are drawn over them.

    Colours are muted, so that every product's colour stands out, and contrast is clear, so that a
    flat patch in the place of a background can be recognised.
    """

    above: tuple[Rgb, Rgb]
    below: tuple[Rgb, Rgb]
    horizon: float  # part of the picture's height
    details: tuple[Part, ...] = ()


def _planks() -> tuple[Part, ...]:
    colour = (126, 88, 56)
    rows = (0.60, 0.73, 0.87)
    seams = ((0.34, 0.60), (0.78, 0.60), (0.12, 0.73), (0.58, 0.73), (0.36, 0.87), (0.86, 0.87))
    lines = [Part(colour, "line", (0.0, y, 1.0, y), 0.014) for y in rows]
    return (*lines, *(Part(colour, "line", (x, y, x, y + 0.14), 0.014) for x, y in seams))


def _bricks() -> tuple[Part, ...]:
    """Return a wall with courses 10 px high at 64 px. A small VAE would lose finer ones."""
    colour, course, brick = (196, 180, 168), 0.155, 0.31
    rows = [0.06 + course * n for n in range(5)]
    lines = [Part(colour, "line", (0.0, y, 1.0, y), 0.026) for y in rows]
    for n, y in enumerate([-0.095, *rows[:-1]]):
        for k in range(4):
            x = 0.08 + brick * (k + n % 2 / 2) - brick / 2
            lines.append(Part(colour, "line", (x, y, x, y + course), 0.026))
    return tuple(lines)


def _stars() -> tuple[Part, ...]:
    places = ((0.10, 0.12), (0.30, 0.06), (0.22, 0.34), (0.52, 0.14), (0.66, 0.30), (0.92, 0.42))
    stars = (Part((226, 226, 236), "ellipse", (x, y, x + 0.03, y + 0.03)) for x, y in places)
    return (Part((236, 232, 204), "ellipse", (0.76, 0.06, 0.93, 0.23)), *stars)


_HILLS = (
    Part((150, 168, 190), "polygon", (-0.1, 0.62, 0.22, 0.30, 0.54, 0.62)),
    Part((132, 150, 176), "polygon", (0.38, 0.62, 0.78, 0.24, 1.2, 0.62)),
    Part((240, 243, 248), "polygon", (0.14, 0.38, 0.22, 0.30, 0.30, 0.38)),
    Part((240, 243, 248), "polygon", (0.68, 0.34, 0.78, 0.24, 0.88, 0.34)),
)
_CLOUDS = tuple(
    Part((236, 240, 244), "ellipse", box)
    for box in ((0.06, 0.12, 0.34, 0.22), (0.14, 0.07, 0.28, 0.20), (0.66, 0.18, 0.94, 0.28))
)
_SUN = (Part((250, 226, 160), "ellipse", (0.10, 0.34, 0.32, 0.56)),)

BACKDROPS: dict[str, Backdrop] = {
    "studio": Backdrop(((236, 236, 240), (134, 134, 142)), ((186, 186, 192), (84, 84, 92)), 0.7),
    "table": Backdrop(
        ((228, 218, 200), (206, 192, 170)), ((170, 124, 84), (142, 98, 62)), 0.6, _planks()
    ),
    "grass": Backdrop(
        ((150, 192, 226), (206, 224, 232)), ((122, 156, 92), (82, 116, 62)), 0.58, _CLOUDS
    ),
    "beach": Backdrop(
        ((176, 206, 222), (216, 226, 226)),
        ((226, 208, 166), (200, 174, 126)),
        0.66,
        (Part((96, 146, 166), "polygon", (0.0, 0.50, 1.0, 0.50, 1.0, 0.66, 0.0, 0.66)),),
    ),
    "night": Backdrop(((18, 22, 54), (96, 96, 140)), ((58, 62, 78), (18, 22, 32)), 0.70, _stars()),
    "sunset": Backdrop(
        ((124, 98, 140), (238, 190, 150)), ((112, 84, 96), (74, 58, 76)), 0.62, _SUN
    ),
    "bricks": Backdrop(
        ((150, 98, 82), (136, 86, 72)), ((150, 146, 142), (110, 106, 104)), 0.70, _bricks()
    ),
    "snow": Backdrop(
        ((170, 194, 222), (214, 226, 238)), ((246, 248, 252), (206, 216, 230)), 0.62, _HILLS
    ),
}


@lru_cache(maxsize=32)
def paint_backdrop(name: str, size_px: int) -> np.ndarray:
    """Return the empty background, (H, W, 3) float32 in [0, 255], read-only."""
    backdrop = BACKDROPS[name]
    large_px = size_px * OVERSAMPLING
    y_H = (np.arange(large_px, dtype=np.float32) + 0.5) / large_px
    above = _gradient(backdrop.above, y_H / backdrop.horizon)
    below = _gradient(backdrop.below, (y_H - backdrop.horizon) / (1 - backdrop.horizon))
    column_H3 = np.where((y_H < backdrop.horizon)[:, None], above, below)
    canvas = Image.fromarray(np.rint(column_H3).astype(np.uint8)[:, None]).resize((large_px,) * 2)
    draw = ImageDraw.Draw(canvas)
    for part in backdrop.details:
        assert part.colour is not None
        draw_part(draw, part, WHOLE, large_px, part.colour)
    pixels = np.asarray(canvas.reduce(OVERSAMPLING)).astype(np.float32)
    pixels.setflags(write=False)
    return pixels


def _gradient(ends: tuple[Rgb, Rgb], t_H: np.ndarray) -> np.ndarray:
    """Return colours (H, 3) between two ends, and the ends' colours beyond them."""
    first, last = np.asarray(ends, np.float32)
    colours: np.ndarray = first + (last - first) * np.clip(t_H, 0, 1)[:, None]
    return colours
