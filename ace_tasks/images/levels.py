"""The colours that a mask file is drawn in. Pictures are (H, W, 3) uint8, a colour is (R, G, B)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

Colour = tuple[int, int, int]

BLACK, WHITE = 16, 239  # below the first is black, above the second is white
_SAMPLE_PX = 1 << 20  # a larger picture is sampled at every second, third … pixel
_LISTED = 6  # colours that a message lists
_MANY = 1024  # more flat colours than any drawing has
_LEAST_SHARE, _LEAST_PX = 0.005, 9  # of one colour; less is a trace of an outline
_NOISE = 8  # levels by which a lossy format spreads one colour
_EXPLAINED = 0.9  # share of a drawing that its flat colours cover; the rest is outlines


def describe(rgb: np.ndarray) -> str:
    """Describe all colours of a picture, as in "its levels are 0 and 1"."""
    return f"its {name_colours(_colours(_points(np.unique(_packed(sampled(rgb))))))}"


def name_colours(colours: Sequence[Colour]) -> str:
    """Return "levels are 0 and 255" for greys, else "colours are #000000 and #ff0000"."""
    grey = all(red == green == blue for red, green, blue in colours)
    what = "level" if grey else "colour"
    shown = [str(each[0]) if grey else "#{:02x}{:02x}{:02x}".format(*each) for each in colours]
    if len(shown) == 1:
        return f"only {what} is {shown[0]}"
    if len(shown) > _LISTED:
        return f"{len(shown)} {what}s are {', '.join(shown[:_LISTED])} … {shown[-1]}"
    return f"{what}s are {', '.join(shown[:-1])} and {shown[-1]}"


def is_black(colour: Colour) -> bool:
    return max(colour) < BLACK


def is_white(colour: Colour) -> bool:
    return min(colour) > WHITE


def flat_colours(rgb: np.ndarray) -> list[Colour]:
    """Return the colours that a drawing is filled with, from dark to light.

    Empty for a photograph or a gradient. A pixel is flat if its eight neighbours have exactly its
    colour; those of an outline do not.
    """
    height, width = rgb.shape[:2]
    step = _step(rgb)
    inner = rgb[1:-1:step, 1:-1:step]
    flat = np.ones(inner.shape[:2], bool)
    for down in range(3):
        for right in range(3):
            beside = rgb[down : height - 2 + down : step, right : width - 2 + right : step]
            flat &= (beside == inner).all(axis=2)
    packed = _packed(inner)
    colours, counts = np.unique(packed[flat], return_counts=True)
    if not 0 < len(colours) <= _MANY:
        return []
    least = max(_LEAST_PX, _LEAST_SHARE * flat.size)
    every, how_often = np.unique(packed, return_counts=True)
    # If all colours are flat, no lossy format has spread them, so 0 and 1 are two colours.
    exact = len(every) == len(colours) and bool((counts >= least).all())
    points, all_points = _points(colours), _points(every)
    labels = _groups(points, 0 if exact else _NOISE)
    found: list[np.ndarray] = []
    explained = np.zeros(len(every), bool)
    for label in np.unique(labels):
        members = np.where(labels == label, counts, 0)
        if members.sum() >= least:
            found.append(points[members.argmax()])
            explained |= np.abs(all_points - found[-1]).max(axis=1) <= _NOISE
    if how_often[explained].sum() < _EXPLAINED * flat.size:
        return []
    return sorted(_colours(found), key=sum)


def _groups(points: np.ndarray, noise: int) -> np.ndarray:
    """Return a label for each of (N, 3) colours.

    Two colours have one label if both are white, or if a chain of near colours joins them.
    """
    white = points.min(axis=1) > WHITE
    near = np.abs(points[:, None] - points[None]).max(axis=2) <= noise
    near |= white[:, None] & white[None]
    labels = np.arange(len(points))
    while True:
        joined = np.where(near, labels, len(points)).min(axis=1)
        if np.array_equal(joined, labels):
            return labels
        labels = joined


def _step(rgb: np.ndarray) -> int:
    return max(1, math.isqrt(rgb[..., 0].size // _SAMPLE_PX))


def sampled(rgb: np.ndarray) -> np.ndarray:
    """Return every second, third … pixel of a large picture, all pixels of a small one."""
    step = _step(rgb)
    return rgb[::step, ::step]


def _packed(rgb: np.ndarray) -> np.ndarray:
    """Pack (H, W, 3) uint8 into (H, W) uint32, one number per colour."""
    red, green, blue = (rgb[..., each].astype(np.uint32) for each in range(3))
    return red << 16 | green << 8 | blue


def _points(packed: np.ndarray) -> np.ndarray:
    """Unpack (N,) packed colours to (N, 3) int16."""
    return np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1).astype(np.int16)


def _colours(points: Iterable[np.ndarray]) -> list[Colour]:
    return [(int(r), int(g), int(b)) for r, g, b in points]
