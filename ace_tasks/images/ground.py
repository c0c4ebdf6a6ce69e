"""A product cut out and laid on another ground: its edge, its colours there, and its shadow.

Pictures are (H, W, 3) uint8, opacities (H, W) uint8. Where colours are mixed they stay in the
picture's own colour space; what is looked at is sRGB.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

_SPILL_SHARE, _LEAST_SPILL_PX = 0.004, 4  # of the longer side: how far an edge's colours are mixed
_SURE, _OWN = 6, 1e-4
_ROWS = 512  # worked on at once

_SHADOW_PX = 250_000  # a shadow is soft: it is told from a small picture
_DARKEST_GROUND = 90  # levels: on a darker one no shadow can be seen
_LEAST_GROUND = 0.1  # of the picture
_UNEVEN = 0.04  # of the ground's brightness: what differs more from a smooth ground is no plain one
_NOISE = 0.03  # a shade fainter than this is the ground's own
_ROUNDS = 6


def own_colours(rgb: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """The product's colours where its edge is mixed with the old ground, as a lens mixes them.

    Forte's estimate by two blurs ("Approximate Fast Foreground Colour Estimation", 2021): the
    means of product and ground nearby, and what the pixel differs from their mixture.
    """
    height, width = opacity.shape
    radius = max(_LEAST_SPILL_PX, round(_SPILL_SHARE * max(height, width)))
    cleaned = rgb.copy()
    for top in range(0, height, _ROWS):
        rows = slice(top, min(height, top + _ROWS))
        mixed = (opacity[rows] > 0) & (opacity[rows] < 255)
        if not mixed.any():
            continue
        around = slice(max(0, rows.start - radius), min(height, rows.stop + radius))
        inner = slice(rows.start - around.start, rows.stop - around.start)
        found = _product_colours(
            rgb[around], np.asarray(opacity[around], np.float32) / 255, radius
        )[inner]
        cleaned[rows][mixed] = np.round(found[mixed].clip(0, 255)).astype(np.uint8)
    return cleaned


def _product_colours(rgb: np.ndarray, share: np.ndarray, radius: int) -> np.ndarray:
    """(H, W, 3) float32."""
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(weights: np.ndarray) -> np.ndarray:
        """Of the colours nearby; a pixel's own where nothing sure is near."""
        total = cv2.blur(weights, side)[..., None] + _OWN
        return np.asarray((cv2.blur(rgb * weights[..., None], side) + _OWN * rgb) / total)

    # Powers: what is mixed itself says little of what it is mixed of.
    product, ground = mean(share**_SURE), mean((1 - share) ** _SURE)
    opacity = share[..., None]
    return np.asarray(product + opacity * (rgb - opacity * product - (1 - opacity) * ground))


def laid(
    rgb: np.ndarray, opacity: np.ndarray, colour: np.ndarray, shade: np.ndarray | None
) -> np.ndarray:
    """The product on a ground of one colour, (3,) uint8; `shade`: see `shadow`."""
    out = np.empty_like(rgb)
    for top in range(0, len(rgb), _ROWS):
        rows = slice(top, top + _ROWS)
        share = np.asarray(opacity[rows], np.float32)[..., None] / 255
        ground: Any = np.asarray(colour, np.float32)
        if shade is not None:
            ground = ground * np.asarray(shade[rows], np.float32)[..., None] / 255
        out[rows] = np.round(rgb[rows] * share + ground * (1 - share))
    return out


def on_nothing(
    rgb: np.ndarray, opacity: np.ndarray, shade: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The product on nothing: straight colours, and alpha. Its shadow is black, and as opaque as it
    is dark.
    """
    if shade is None:
        return rgb, opacity
    share = np.asarray(opacity, np.float32) / 255
    alpha = share + (1 - share) * (1 - np.asarray(shade, np.float32) / 255)
    black = share / np.maximum(alpha, 1e-4)
    straight = np.round(rgb * black[..., None]).astype(np.uint8)
    return straight, np.round(255 * alpha).astype(np.uint8)


def shadow(seen: np.ndarray, opacity: np.ndarray) -> np.ndarray | None:
    """How bright the old ground is beside what it would be without the product, (H, W) uint8, 255
    where no shadow lies. None: its ground is too dark, too small or too uneven to tell.

    `seen`: sRGB. The bare ground is a smooth (quadratic) surface through the brighter pixels.
    """
    height, width = opacity.shape
    scale = min(1.0, (_SHADOW_PX / (height * width)) ** 0.5)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    light = cv2.cvtColor(cv2.resize(seen, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    product = cv2.resize(opacity, size, interpolation=cv2.INTER_AREA)
    ground = cv2.dilate(product, np.ones((3, 3), np.uint8)) < 8
    if ground.mean() < _LEAST_GROUND:
        return None
    levels = np.asarray(light, np.float64)
    bare = _bare_ground(levels, ground)
    if bare is None:
        return None
    shade: Any = np.where(ground, levels / bare, 1).clip(0, 1)
    # Under the edge nothing is seen of the ground: what lies beside it goes on there.
    known: Any = np.asarray(ground, np.float32)
    blurred = cv2.blur(np.asarray(shade, np.float32) * known, (5, 5)) / np.maximum(
        cv2.blur(known, (5, 5)), 1e-3
    )
    shade = np.where(ground, shade, np.where(cv2.blur(known, (5, 5)) > 0, blurred, 1))
    shade = cv2.GaussianBlur(np.asarray(shade, np.float32), (0, 0), 1.0)
    shade = np.minimum(1, shade / (1 - _NOISE))
    enlarged = cv2.resize(shade, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.round(255 * enlarged.clip(0, 1)), np.uint8)


def _bare_ground(levels: np.ndarray, ground: np.ndarray) -> np.ndarray | None:
    """(h, w) float: a quadratic surface through the ground, without what is darker than it."""
    height, width = levels.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    kept = ground.copy()
    surface = np.full_like(levels, np.median(levels[ground]))
    for _ in range(_ROUNDS):
        numbers, *_ = np.linalg.lstsq(terms[kept], levels[kept], rcond=None)
        surface = terms @ numbers
        away = levels / np.maximum(surface, 1) - 1
        kept = ground & (away > -_UNEVEN) & (away < 3 * _UNEVEN)
        if kept.mean() < _LEAST_GROUND / 2:
            return None
    away = levels / np.maximum(surface, 1) - 1
    brighter = float((away[ground] > 2 * _UNEVEN).mean())
    if surface[ground].min() < _DARKEST_GROUND or brighter > 0.02:
        return None
    if kept[ground].mean() < 0.5:  # rather a pattern than a ground with a shadow on it
        return None
    return np.asarray(surface)
