"""The window of a picture that a model works on, and the way back into the picture.

A model repaints its whole canvas, if only by encoding and decoding it. Here its result is taken
inside the mask only: the feather blends it into the original in linear light, and beyond the
feather every pixel is the original's, bit for bit.

Legend: H height, W width; masks and weights are (H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ace_tasks.images.canvas_size import lay_out
from ace_tasks.specs import PasteSettings, Resolved

THRESHOLD = 128  # levels strictly above it are repainted (ACE_SPEC 2.3)
_MIN_MARGIN_PX = 64


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture, px; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height)."""
        return self.right - self.left, self.bottom - self.top

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.right, self.bottom

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """Return the window's part of an array of (H, W, …), as a view."""
        return pixels[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Difference:
    """Differences of a finished picture from its original outside the mask, in levels of 0-255."""

    outside_max: int
    outside_mean: float  # mean of every pixel and channel outside the mask
    model_outside_mean: float  # the same of the model's result in its window, before the paste


def whole(width: int, height: int) -> Window:
    return Window(0, 0, width, height)


def choose_window(
    mask_HW: np.ndarray, scale_of: Callable[[tuple[int, int]], float], settings: PasteSettings
) -> Window:
    """Return the part of a picture that a model sees to repaint `mask_HW` (uint8, not empty).

    That is the whole picture if it fits the token budget, or nearly so. Otherwise it is what fits
    at full resolution around the mask, and never less than the mask with its margin. `scale_of`
    maps (width, height) of a target to the scale at which a canvas holds it.
    """
    height, width = mask_HW.shape
    everything = whole(width, height)
    scale = scale_of(everything.size)
    if not settings.crop_to_mask or scale >= 1:
        return everything
    box = _box_of(mask_HW)
    least = max(_MIN_MARGIN_PX, round(settings.context * max(box.size)))
    margin, too_much = least, max(width, height)
    while too_much - margin > 1:  # bisection: the largest margin that needs no scaling
        middle = (margin + too_much) // 2
        fits = scale_of(_grown(box, middle, everything).size) >= 1
        margin, too_much = (middle, too_much) if fits else (margin, middle)
    window = _grown(box, margin, everything)
    return window if scale_of(window.size) >= settings.min_gain * scale else everything


def window_of(resolved: Resolved, mask_HW: np.ndarray, beside: Sequence[tuple[int, int]]) -> Window:
    """Choose the window of an item. `beside` holds (width, height) of its references."""
    assert resolved.paste is not None

    def scale_of(size: tuple[int, int]) -> float:
        return lay_out(size, beside, resolved.max_seq_len, resolved.keep_pixels_rate).scale

    return choose_window(mask_HW, scale_of, resolved.paste)


def touched(mask_HW: np.ndarray, feather_px: int) -> Window:
    """Return the part outside which a picture does not change: the mask's box and the feather."""
    return _grown(_box_of(mask_HW), feather_px, whole(*mask_HW.shape[::-1]))


def feathered(mask_HW: np.ndarray, width_px: int) -> np.ndarray:
    """Return weights (H, W) float32 of the model's result: 1 in the mask, 0 beyond `width_px`."""
    distance = distance_inside(mask_HW <= THRESHOLD)
    near = np.clip(1 - distance / (width_px + 1), 0, 1)
    weights = near * near * (3 - 2 * near)  # smoothstep: no visible edge where it starts or ends
    weights[distance > width_px] = 0
    return np.asarray(weights, np.float32)


def feather_px(settings: PasteSettings, window: Window) -> int:
    """Return the feather's width in pixels of the picture.

    It is a share of the window, since it hides a transition in the model's pixels, which grow with
    the window.
    """
    return math.ceil(settings.feather * max(window.size))


def blend(original: np.ndarray, made: np.ndarray, weights_HW: np.ndarray) -> np.ndarray:
    """Blend two pictures, (H, W, 3) uint8, by weights.

    They are mixed in linear light, so that no dark rim appears.
    """
    out = np.where(weights_HW[..., None] >= 1, made, original)
    band = (weights_HW > 0) & (weights_HW < 1)
    weight = weights_HW[band][:, None]
    light = _LINEAR[original[band]] * (1 - weight) + _LINEAR[made[band]] * weight
    out[band] = np.round(255 * _encoded(light)).astype(np.uint8)
    return out


def over(straight: np.ndarray, alpha_HW: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Composite straight colours (H, W, 3) with alpha (H, W) on an opaque background; uint8.

    Levels are mixed as they are, as every viewer does that shows the picture on a page.
    """
    opacity = alpha_HW[..., None].astype(np.float32) / 255
    mixed = straight * opacity + ground * (1 - opacity)
    return np.round(mixed).astype(np.uint8)


def difference(
    original: np.ndarray,
    finished: np.ndarray,
    made: np.ndarray,
    mask_HW: np.ndarray,
    pixels_outside: int,
) -> Difference:
    """Measure the differences in one window. All arrays cover that window.

    `pixels_outside` counts the pixels of the whole picture outside its mask.
    """
    inside = mask_HW > THRESHOLD
    in_window = mask_HW.size - int(inside.sum())

    def levels(other: np.ndarray) -> np.ndarray:  # uint8, since pictures are large
        changed = cv2.absdiff(np.ascontiguousarray(other), np.ascontiguousarray(original))
        changed[inside] = 0
        return np.asarray(changed)

    changed, by_model = levels(finished), levels(made)
    return Difference(
        outside_max=int(changed.max(initial=0)),
        outside_mean=round(float(changed.sum(dtype=np.int64)) / max(1, 3 * pixels_outside), 6),
        model_outside_mean=round(float(by_model.sum(dtype=np.int64)) / max(1, 3 * in_window), 4),
    )


def _box_of(mask_HW: np.ndarray) -> Window:
    """Return the smallest rectangle that holds the whole mask."""
    rows = np.flatnonzero((mask_HW > THRESHOLD).any(axis=1))
    columns = np.flatnonzero((mask_HW > THRESHOLD).any(axis=0))
    if not rows.size:
        return Window(0, 0, 0, 0)
    return Window(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def distance_inside(selected: np.ndarray) -> np.ndarray:
    """Return each selected pixel's distance to the others, (H, W) float32; 0 for the others."""
    pixels = selected.astype(np.uint8)
    return np.asarray(cv2.distanceTransform(pixels, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


def _grown(box: Window, margin: int, limits: Window) -> Window:
    return Window(
        max(limits.left, box.left - margin),
        max(limits.top, box.top - margin),
        min(limits.right, box.right + margin),
        min(limits.bottom, box.bottom + margin),
    )


def _decoded(value: np.ndarray) -> np.ndarray:
    """Apply sRGB's transfer function (IEC 61966-2-1), which Display P3 shares: [0, 1] → [0, 1]."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _encoded(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


_LINEAR = _decoded(np.arange(256, dtype=np.float32) / 255).astype(np.float32)
