"""Masks: from a file, a shape or the source's own alpha channel to (H, W) uint8, 255 = repaint.

Raise, never repair: upstream turns an empty mask into a full one and repaints everything; here
a mask that does not fit its picture is its item's failure.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from ace_tasks.errors import BadMask
from ace_tasks.images import Picture
from ace_tasks.paste import THRESHOLD
from ace_tasks.specs import Box, Ellipse, Polygon, Shape


def build(
    mask: Shape | Literal["alpha", "auto", "file"] | None,
    image: Picture,
    mask_file: Picture | None,
) -> np.ndarray | None:
    """The mask of an item as (H, W) uint8 at the picture's size, or None for no mask.

    Raises BadMask when it has another size than its picture, reaches outside it, or selects
    nothing.
    """
    if mask is None:
        return None
    if mask == "auto":
        raise BadMask('"auto" needs a segmentation model, and none is set')
    if mask == "file":
        assert mask_file is not None
        pixels = _from_file(mask_file, image.size_px)
    elif mask == "alpha":
        pixels = _from_alpha(image)
    else:
        pixels = _draw(mask, image.size_px)
    if not (pixels > THRESHOLD).any():
        raise BadMask(f"the mask selects no pixel (accepted: some above {THRESHOLD})")
    return pixels


def _from_file(file: Picture, size_px: tuple[int, int]) -> np.ndarray:
    if file.size_px != size_px:
        given, wanted = ("×".join(map(str, size)) for size in (file.size_px, size_px))
        raise BadMask(f"accepted: a mask of its picture's size, {wanted}; given {given}")
    if file.alpha is not None and (file.alpha < 255).any():
        raise BadMask("accepted: a mask without transparency, white where to repaint")
    return np.asarray(Image.fromarray(file.rgb).convert("L"))


def _from_alpha(image: Picture) -> np.ndarray:
    if image.alpha is None:
        raise BadMask('"alpha" needs a picture with an alpha channel, and this one has none')
    return 255 - image.alpha


def _draw(shape: Shape, size_px: tuple[int, int]) -> np.ndarray:
    width, height = size_px
    points = _points(shape)
    if all(coordinate <= 1 for point in points for coordinate in point):
        points = [(x * width, y * height) for x, y in points]
    if any(x > width or y > height for x, y in points):
        raise BadMask(f"the shape reaches outside its picture of {width}×{height}: {points}"[:200])
    canvas = Image.new("L", size_px, 0)
    draw = ImageDraw.Draw(canvas)
    if isinstance(shape, Polygon):
        draw.polygon(points, fill=255)
    else:
        (left, top), (right, bottom) = ((round(x), round(y)) for x, y in points)
        # ImageDraw includes the last pixel, our bounds exclude it.
        bounds = (left, top, max(left, right - 1), max(top, bottom - 1))
        (draw.rectangle if isinstance(shape, Box) else draw.ellipse)(bounds, fill=255)
    return np.asarray(canvas)


def _points(shape: Shape) -> list[tuple[float, float]]:
    if isinstance(shape, Polygon):
        return list(shape.polygon)
    left, top, right, bottom = shape.ellipse if isinstance(shape, Ellipse) else shape.box
    return [(left, top), (right, bottom)]
