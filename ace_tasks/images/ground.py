"""A product cut out and put on another background: its edge's colours and its shadow.

Pictures are (H, W, 3) uint8, opacities (H, W) uint8. Colours are mixed in the picture's own colour
space; a picture is inspected in sRGB.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ace_tasks.images.matting import shrunk

_SPILL_SHARE, _LEAST_SPILL_PX = 0.004, 4  # share of the longer side in which an edge mixes colours
_SURE, _OWN = 6, 1e-4
_ROWS = 512  # processed at once

_SHADOW_PX = 250_000  # a shadow is soft, so a small picture shows it
_DARKEST_GROUND = 90  # levels; a darker background shows no shadow
_LEAST_GROUND = 0.1  # share of the picture
_UNEVEN = 0.04  # relative deviation in brightness that a plain background may have
_NOISE = 0.03  # fainter shades belong to the background
_ROUNDS = 6


def own_colours(rgb: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Restore the product's colours where the lens mixed its edge with the old background.

    Forte's estimate by two blurs ("Approximate Fast Foreground Colour Estimation", 2021): the means
    of product and background nearby, plus the pixel's difference from their mixture.
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
    """Return the estimated product colours, (H, W, 3) float32."""
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(weights: np.ndarray) -> np.ndarray:
        """Return the weighted mean of nearby colours; a pixel's own where no sure one is near."""
        total = cv2.blur(weights, side)[..., None] + _OWN
        return np.asarray((cv2.blur(rgb * weights[..., None], side) + _OWN * rgb) / total)

    # The powers lower the weight of mixed pixels, which say little about what they are mixed from.
    product, ground = mean(share**_SURE), mean((1 - share) ** _SURE)
    opacity = share[..., None]
    return np.asarray(product + opacity * (rgb - opacity * product - (1 - opacity) * ground))


def laid(
    rgb: np.ndarray, opacity: np.ndarray, colour: np.ndarray, shade: np.ndarray | None
) -> np.ndarray:
    """Put the product on a background of one colour, (3,) uint8. `shade` is that of `shadow`."""
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
    """Put the product on a transparent background. Return straight colours and alpha.

    Its shadow is black, and as opaque as it is dark.
    """
    if shade is None:
        return rgb, opacity
    share = np.asarray(opacity, np.float32) / 255
    alpha = share + (1 - share) * (1 - np.asarray(shade, np.float32) / 255)
    black = share / np.maximum(alpha, 1e-4)
    straight = np.round(rgb * black[..., None]).astype(np.uint8)
    return straight, np.round(255 * alpha).astype(np.uint8)


def shadow(seen: np.ndarray, opacity: np.ndarray) -> np.ndarray | None:
    """Return the shadow as (H, W) uint8: the old background's brightness, 255 where no shadow lies.

    The brightness is relative to the bare background, a smooth (quadratic) surface through the
    brighter pixels. Return None if the background is too dark, too small or too uneven. `seen` is
    in sRGB.
    """
    height, width = opacity.shape
    light = cv2.cvtColor(shrunk(seen, _SHADOW_PX), cv2.COLOR_RGB2GRAY)
    product = cv2.resize(opacity, light.shape[::-1], interpolation=cv2.INTER_AREA)
    ground = cv2.dilate(product, np.ones((3, 3), np.uint8)) < 8
    if ground.mean() < _LEAST_GROUND:
        return None
    levels = np.asarray(light, np.float64)
    bare = _bare_ground(levels, ground)
    if bare is None:
        return None
    shade: Any = np.where(ground, levels / bare, 1).clip(0, 1)
    # The background under the edge is hidden, so the shade beside it is continued there.
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
    """Fit a quadratic surface, (h, w) float, through the background without its darker pixels.

    Return None if the background is no plain one.
    """
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
    if kept[ground].mean() < 0.5:  # a pattern rather than a background with a shadow
        return None
    return np.asarray(surface)
