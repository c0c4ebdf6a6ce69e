"""Masks as users make them: traced, traced loosely, boxed, circled, brushed over.

All are (H, W) uint8, 255 = repaint. Masks around an area cover all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ace_tasks.training.world.draws import pick

WAYS = ("exact", "dilated", "box", "ellipse", "blob")


def around(rng: np.random.Generator, area_HW: np.ndarray, ways: Sequence[str]) -> np.ndarray:
    """Draw a mask around an area (bool) in a random way, with the same margin on all sides."""
    way, size_px = pick(rng, ways), len(area_HW)
    margin_px = int(rng.integers(1, max(2, size_px // 12) + 1))
    exact = np.where(area_HW, 255, 0).astype(np.uint8)
    if way == "exact":
        return exact
    if way == "dilated":
        return dilated(exact, margin_px)
    if way == "blob":  # a broad brush leaves round corners
        soft = Image.fromarray(exact).filter(ImageFilter.GaussianBlur(margin_px + 1))
        brushed = np.where(np.asarray(soft) > 12, 255, 0).astype(np.uint8)
    else:
        brushed = _bounding(area_HW, margin_px, way)
    return np.maximum(brushed, exact)


def hole(rng: np.random.Generator, area_HW: np.ndarray, share: float) -> np.ndarray:
    """Draw a box, ellipse or blob over an area (bool) that covers at least a share of it."""
    rows, columns = np.nonzero(area_HW)
    n, way = int(rng.integers(len(rows))), pick(rng, ("box", "ellipse", "blob"))
    half = rng.uniform(0.13, 0.26, 2) * len(area_HW)
    corners = rng.uniform(0.75, 1.25, 10)
    while True:
        mask = _shape(way, (columns[n], rows[n]), half, len(area_HW), corners)
        if area_HW[mask > 0].sum() >= share * len(rows):
            return mask
        half = half * 1.15


def _shape(
    way: str,
    centre: tuple[float, float],
    half: np.ndarray,
    size_px: int,
    corners: np.ndarray | None = None,
) -> np.ndarray:
    """Return a box, ellipse or blob.

    `half` are the half sizes (x, y) in px. `corners` are the distances of a blob's corners from its
    centre, in half sizes.
    """
    canvas = Image.new("L", (size_px, size_px))
    draw = ImageDraw.Draw(canvas)
    (x, y), (half_w, half_h) = centre, half.tolist()
    if corners is not None and way == "blob":
        turn = np.linspace(0, 2 * np.pi, len(corners), endpoint=False)
        xs, ys = x + half_w * corners * np.cos(turn), y + half_h * corners * np.sin(turn)
        draw.polygon(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=255)
    else:
        form = draw.ellipse if way == "ellipse" else draw.rectangle
        form((x - half_w, y - half_h, x + half_w, y + half_h), fill=255)
    return np.asarray(canvas)


def _bounding(area_HW: np.ndarray, margin_px: int, way: str) -> np.ndarray:
    """Return the box around an area, or the ellipse through that box's corners."""
    rows, columns = np.nonzero(area_HW)
    ends = np.array([[columns.min(), columns.max()], [rows.min(), rows.max()]])
    half = (ends[:, 1] - ends[:, 0]) / 2 * (np.sqrt(2) if way == "ellipse" else 1) + margin_px
    x, y = ends.mean(axis=1).tolist()
    return _shape(way, (x, y), half, len(area_HW))


def dilated(mask_HW: np.ndarray, margin_px: int) -> np.ndarray:
    """Return a mask (H, W) grown by a square brush, one axis after the other."""
    for axis in (0, 1):
        padding = [(margin_px, margin_px) if each == axis else (0, 0) for each in (0, 1)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(mask_HW, padding), 2 * margin_px + 1, axis=axis
        )
        mask_HW = windows.max(axis=-1)
    return mask_HW
