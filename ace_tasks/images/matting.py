"""A product's own outline in its picture, from a small saliency map.

A network sees a picture at a few hundred pixels a side, so its map ends in a slope several pixels
of the picture wide. A guided filter (He, Sun, Tang 2013) takes the outline from the picture itself:
within a small window, opacity is a linear function of colour. It is applied twice: a wide window
finds where the outline is, a narrow one how soft it is.

Pictures are (H, W, 3) uint8 in sRGB. The filter works on at most `_WORK_PX` pixels. A larger
picture gets the same function of its own colours, so its outline is sharp as well.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

_WORK_PX = 1_000_000
_CELLS = 2.0  # radius of the wide window, in cells of the map
_EDGE_PX = 4  # radius of the narrow window; a lens and a JPEG blur an edge by two or three
_EPSILON = 1e-3  # variance of colours in [0, 1]; below its root (3 %) is one surface
_GRAIN_PX = 5  # hides noise and texture under half of it, else whiskers at an edge
_STRIP_PX = 4_000_000
_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def outline(rgb: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Return the product up to its own edges, (H, W) bool.

    `saliency` is (h, w) float32 in [0, 1].
    """
    small = shrunk(rgb, _WORK_PX)
    height, width = small.shape[:2]
    enlarged = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    cell = max(height / saliency.shape[0], width / saliency.shape[1])
    function = _linear_in_colour(small, enlarged, max(2, round(_CELLS * cell)))
    return _applied(rgb, *function) > 127


def soften(rgb: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Return the opacity of each pixel of a product, (H, W) uint8, from its mask, (H, W) bool."""
    rgb = np.asarray(cv2.medianBlur(np.ascontiguousarray(rgb), _GRAIN_PX))
    small = shrunk(rgb, _WORK_PX)
    height, width = small.shape[:2]
    level = cv2.resize(
        np.asarray(selected, np.float32), (width, height), interpolation=cv2.INTER_AREA
    )
    return _applied(rgb, *_linear_in_colour(small, level, _EDGE_PX))


def _linear_in_colour(
    rgb: np.ndarray, wanted: np.ndarray, radius: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit opacity as a linear function of colour in each window.

    Return slope (h, w, 3) and offset (h, w), float32: `wanted` is nearly the product of the slope
    and the colours in [0, 1], plus the offset.
    """
    guide = np.asarray(rgb, np.float32) / 255

    def mean(values: np.ndarray) -> np.ndarray:
        side = 2 * radius + 1
        return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT))

    colour, level = mean(guide), mean(wanted)
    b = mean(guide * wanted[..., None]) - colour * level[..., None]

    def spread(i: int, j: int) -> np.ndarray:
        own = _EPSILON if i == j else 0
        product = mean(guide[..., i] * guide[..., j])
        return np.asarray(product - colour[..., i] * colour[..., j] + own)

    rr, rg, rb, gg, gb, bb = (spread(*pair) for pair in _PAIRS)
    # The inverse of a symmetric 3 × 3 matrix by its cofactors.
    c_rr, c_rg, c_rb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    c_gg, c_gb, c_bb = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    determinant = rr * c_rr + rg * c_rg + rb * c_rb
    slope = (
        np.dstack(
            [
                c_rr * b[..., 0] + c_rg * b[..., 1] + c_rb * b[..., 2],
                c_rg * b[..., 0] + c_gg * b[..., 1] + c_gb * b[..., 2],
                c_rb * b[..., 0] + c_gb * b[..., 1] + c_bb * b[..., 2],
            ]
        )
        / determinant[..., None]
    )
    offset = level - (slope * colour).sum(axis=2)
    return mean(slope), mean(offset)


def _applied(rgb: np.ndarray, slope: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Apply a fit in strips, since the functions of a large photograph would take gigabytes."""
    height, width = rgb.shape[:2]
    functions = np.dstack([slope / 255, offset])
    alpha = np.empty((height, width), np.uint8)
    rows = max(1, _STRIP_PX // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        part = _rows_of(functions, top, bottom, height, width)
        opacity = (part[..., :3] * rgb[top:bottom]).sum(axis=2) + part[..., 3]
        alpha[top:bottom] = np.round(255 * opacity.clip(0, 1))
    return alpha


def _rows_of(values: np.ndarray, top: int, bottom: int, height: int, width: int) -> np.ndarray:
    """Enlarge `values` (h, w, N) to (height, width) and return rows `top` to `bottom`.

    The interpolation is bilinear.
    """
    if values.shape[:2] == (height, width):
        return values[top:bottom]
    at = ((np.arange(top, bottom) + 0.5) * values.shape[0] / height - 0.5).clip(
        0, values.shape[0] - 1
    )
    above: Any = np.floor(at).astype(int)
    below = np.minimum(above + 1, values.shape[0] - 1)
    share: Any = np.asarray(at - above, np.float32)[:, None, None]
    mixed = values[above] * (1 - share) + values[below] * share
    return np.asarray(
        cv2.resize(mixed, (width, bottom - top), interpolation=cv2.INTER_LINEAR)
    ).reshape(bottom - top, width, -1)


def shrunk(rgb: np.ndarray, most_px: int) -> np.ndarray:
    """Return a picture with at most about `most_px` pixels; a smaller one as it is."""
    height, width = rgb.shape[:2]
    scale = (most_px / (height * width)) ** 0.5
    if scale >= 1:
        return rgb
    size = max(8, round(width * scale)), max(8, round(height * scale))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))
