"""The silhouettes from which products, people and backdrops of the procedural world are drawn.

A shape is a tuple of parts, drawn in order, later ones over earlier ones. Points are local: x to
the right, y downwards, (0, 0) the middle, and about 1 from the top of a thing to its bottom.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
OVERSAMPLING = 4  # shapes are drawn so much larger and averaged, for smooth edges

WOOD, LEATHER, METAL, HOLLOW = (112, 74, 48), (96, 60, 38), (96, 98, 106), (52, 46, 50)
GLOW, SHOE, FACE = (255, 236, 170), (44, 38, 42), (60, 36, 32)


@dataclass(frozen=True)
class Part:
    """One form in one material. `colour` None is the paint of the product or garment."""

    colour: Rgb | None
    form: Literal["polygon", "ellipse", "ring", "line", "dome"]
    points: tuple[float, ...]  # x, y, x, y …; a box (left, top, right, bottom) unless polygon, line
    width: float = 0.0  # of the stroke of lines and rings


@dataclass(frozen=True)
class Wearer:
    """A person's looks. The garment has the scene's paint."""

    skin: Rgb
    hair: Rgb
    cloth: Rgb
    long_hair: bool
    skirt: bool
    arms: float  # from 0 (hanging down) to 1 (spread)


@dataclass(frozen=True)
class Placement:
    """A shape's middle and the length of a local unit, as parts of the picture."""

    x: float
    y: float
    unit: float
    flip: bool = False

    def to_px(self, points: Sequence[float], size_px: int) -> list[tuple[float, float]]:
        side = -self.unit if self.flip else self.unit
        return [
            ((self.x + side * x) * size_px, (self.y + self.unit * y) * size_px)
            for x, y in zip(points[::2], points[1::2], strict=True)
        ]


WHOLE = Placement(0.0, 0.0, 1.0)  # for points that are parts of the picture, from its top left


def draw_part(
    draw: ImageDraw.ImageDraw, part: Part, place: Placement, size_px: int, fill: int | Rgb
) -> None:
    """Draw one part on a square picture of `size_px`."""
    points = place.to_px(part.points, size_px)
    stroke = max(1, round(part.width * place.unit * size_px))
    if part.form == "polygon":
        draw.polygon(points, fill=fill)
    elif part.form == "line":
        draw.line(points, fill=fill, width=stroke, joint="curve")
    else:
        (x0, y0), (x1, y1) = points
        box = (min(x0, x1), y0, max(x0, x1), y1)
        if part.form == "ellipse":
            draw.ellipse(box, fill=fill)
        elif part.form == "ring":
            draw.ellipse(box, outline=fill, width=stroke)
        else:  # the upper half of the ellipse
            draw.pieslice(box, 180, 360, fill=fill)


Window = tuple[slice, slice]  # rows and columns of a picture


def layers(
    parts: Sequence[Part], place: Placement, size_px: int
) -> Iterator[tuple[Rgb | None, Window, np.ndarray]]:
    """Yield groups of neighbouring parts of the same colour, lowest first.

    A group is its colour, its window in the picture, and its coverage there, (h, w) uint8.
    """
    large_px = size_px * OVERSAMPLING
    for colour, group in groupby(parts, key=lambda part: part.colour):
        canvas = Image.new("L", (large_px, large_px))
        draw = ImageDraw.Draw(canvas)
        for part in group:
            draw_part(draw, part, place, large_px, 255)
        left, top, right, bottom = canvas.getbbox() or (0, 0, 1, 1)
        rows = slice(top // OVERSAMPLING, -(-bottom // OVERSAMPLING))
        columns = slice(left // OVERSAMPLING, -(-right // OVERSAMPLING))
        yield colour, (rows, columns), np.asarray(canvas.reduce(OVERSAMPLING))[rows, columns]


def _box(left: float, top: float, right: float, bottom: float) -> tuple[float, ...]:
    return (left, top, right, top, right, bottom, left, bottom)


_SHIRT_RIGHT = (0.15, -0.46, 0.28, -0.40, 0.52, -0.08, 0.36, 0.06, 0.27, -0.05, 0.27, 0.46)
_SHIRT_LEFT = (-0.27, 0.46, -0.27, -0.05, -0.36, 0.06, -0.52, -0.08, -0.28, -0.40, -0.15, -0.46)

PRODUCTS: dict[str, tuple[Part, ...]] = {
    "mug": (
        Part(None, "ring", (0.06, -0.20, 0.50, 0.26), 0.09),
        Part(None, "polygon", _box(-0.40, -0.36, 0.26, 0.38)),
        Part(None, "ellipse", (-0.40, 0.28, 0.26, 0.48)),
        Part(None, "ellipse", (-0.40, -0.47, 0.26, -0.25)),
        Part(HOLLOW, "ellipse", (-0.35, -0.44, 0.21, -0.28)),
    ),
    "shirt": (
        Part(None, "polygon", _SHIRT_RIGHT + _SHIRT_LEFT),
        Part(HOLLOW, "ellipse", (-0.14, -0.54, 0.14, -0.34)),
    ),
    "chair": (
        Part(WOOD, "line", (-0.28, -0.44, -0.28, 0.30), 0.07),
        Part(WOOD, "line", (0.28, -0.44, 0.28, 0.30), 0.07),
        Part(WOOD, "line", (-0.36, 0.10, -0.40, 0.50), 0.08),
        Part(WOOD, "line", (0.36, 0.10, 0.40, 0.50), 0.08),
        Part(None, "polygon", _box(-0.33, -0.50, 0.33, -0.10)),
        Part(None, "polygon", (-0.34, 0.00, 0.34, 0.00, 0.43, 0.22, -0.43, 0.22)),
    ),
    "bag": (
        Part(LEATHER, "ring", (-0.24, -0.50, 0.24, 0.14), 0.07),
        Part(None, "polygon", (-0.37, -0.14, 0.37, -0.14, 0.47, 0.48, -0.47, 0.48)),
        Part(LEATHER, "polygon", _box(-0.08, -0.16, 0.08, 0.02)),
    ),
    "lamp": (
        Part(METAL, "line", (0.0, -0.10, 0.0, 0.46), 0.07),
        Part(METAL, "ellipse", (-0.25, 0.38, 0.25, 0.52)),
        Part(GLOW, "ellipse", (-0.12, -0.06, 0.12, 0.12)),
        Part(None, "polygon", (-0.24, -0.50, 0.24, -0.50, 0.46, 0.02, -0.46, 0.02)),
    ),
}


def person(wearer: Wearer) -> tuple[Part, ...]:
    """Return the parts of a person who faces the viewer, from head to shoes."""
    hand_x, hand_y = 0.24 + 0.12 * wearer.arms, 0.17 - 0.08 * wearer.arms
    return (
        *_hair_behind(wearer),
        *_legs(wearer),
        *(
            Part(wearer.skin, "line", (side * 0.18, -0.14, side * hand_x, hand_y), 0.075)
            for side in (-1, 1)
        ),
        Part(wearer.skin, "polygon", _box(-0.05, -0.28, 0.05, -0.16)),
        *_garment(hand_x, hand_y),
        Part(wearer.skin, "ellipse", (-0.115, -0.46, 0.115, -0.22)),
        Part(wearer.hair, "dome", (-0.13, -0.49, 0.13, -0.26)),
        Part(FACE, "ellipse", (-0.06, -0.36, -0.03, -0.325)),
        Part(FACE, "ellipse", (0.03, -0.36, 0.06, -0.325)),
        Part(FACE, "line", (-0.03, -0.275, 0.03, -0.275), 0.014),
    )


def _garment(hand_x: float, hand_y: float) -> tuple[Part, ...]:
    """Return a shirt with short sleeves that follow the arms."""
    x, y = (0.18 + hand_x) / 2, (-0.14 + hand_y) / 2
    sleeves = (Part(None, "line", (s * 0.165, -0.15, s * x, y), 0.125) for s in (-1, 1))
    torso = (-0.08, -0.215, 0.08, -0.215, 0.19, -0.185, 0.175, 0.16, -0.175, 0.16, -0.19, -0.185)
    return (*sleeves, Part(None, "polygon", torso))


def _hair_behind(wearer: Wearer) -> tuple[Part, ...]:
    if not wearer.long_hair:
        return ()
    return (
        Part(wearer.hair, "ellipse", (-0.16, -0.49, 0.16, -0.20)),
        Part(wearer.hair, "polygon", _box(-0.16, -0.34, 0.16, -0.13)),
    )


def _legs(wearer: Wearer) -> tuple[Part, ...]:
    shoes = tuple(
        Part(SHOE, "ellipse", (side * 0.10 - 0.08, 0.43, side * 0.10 + 0.08, 0.50))
        for side in (-1, 1)
    )
    colour = wearer.skin if wearer.skirt else wearer.cloth
    width = 0.08 if wearer.skirt else 0.14
    legs = tuple(
        Part(colour, "line", (side * 0.09, 0.12, side * 0.10, 0.46), width) for side in (-1, 1)
    )
    hem = Part(wearer.cloth, "polygon", (-0.17, 0.13, 0.17, 0.13, 0.25, 0.33, -0.25, 0.33))
    return (*shoes, *legs, *((hem,) if wearer.skirt else ()))
