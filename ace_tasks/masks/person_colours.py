"""The limits of a thing, found by its colour: hair below the chin, a hand before a garment.

No network here knows either. There is no result where the colours are too similar.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_BINS = 16  # per Lab channel
_ALIKE = 0.65  # Bhattacharyya's coefficient; colours that overlap more cannot be told apart
_FEWEST = 60  # pixels needed to know a thing's colours
_UNKNOWN = 1e-5  # share assumed for a colour that was not seen


def continued(
    rgb: np.ndarray,
    sure: np.ndarray,
    others: Sequence[np.ndarray],
    where: np.ndarray,
    blur_px: float,
    odds: float,
) -> np.ndarray | None:
    """Return the pixels of `where` that continue `sure`, (H, W) bool.

    Return None if the colours do not show it. `sure` holds pixels of the thing, and each of
    `others` pixels of another thing. Neighbours vote over a sigma of `blur_px`. `odds` is how much
    likelier the thing must be.
    """
    if np.count_nonzero(sure) < _FEWEST:
        return None
    bins = _bins(rgb)
    own = _histogram(bins, sure)
    beside = [_histogram(bins, each) for each in others if np.count_nonzero(each) >= _FEWEST]
    if any(np.sqrt(own * each).sum() > _ALIKE for each in beside):
        return None
    rivals = np.maximum.reduce(beside) if beside else np.zeros_like(own)
    ratio = np.log(own + _UNKNOWN) - np.log(rivals + _UNKNOWN)
    votes = cv2.GaussianBlur(ratio[bins].astype(np.float32), (0, 0), max(0.5, blur_px))
    likely = (votes > np.log(odds)) & where
    _, parts = cv2.connectedComponents((likely | sure).astype(np.uint8), connectivity=4)
    joined = np.unique(parts[sure])
    return np.asarray(np.isin(parts, joined[joined > 0]) & likely)


def _bins(rgb: np.ndarray) -> np.ndarray:
    """Return each pixel's cell of the Lab cube, (H, W) int."""
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.int32) * _BINS // 256
    return np.asarray((lab[..., 0] * _BINS + lab[..., 1]) * _BINS + lab[..., 2])


def _histogram(bins: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Return the share of each colour, smoothed over neighbouring cells; sums to 1."""
    counts = np.bincount(bins[selected], minlength=_BINS**3).astype(np.float32)
    cube = counts.reshape(_BINS, _BINS, _BINS)
    for axis in range(3):
        kernel = np.array([0.25, 0.5, 0.25], np.float32)
        cube = np.apply_along_axis(np.convolve, axis, cube, kernel, "same")
    return np.asarray(cube.ravel() / max(float(cube.sum()), 1e-9))
