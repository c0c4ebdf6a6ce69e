"""Hair that falls below the chin, found by its colour: no network here knows it.

It is looked for near the head only, and given up where it has the garment's or the skin's colour.
"""

from __future__ import annotations

import cv2
import numpy as np

_BINS = 16  # of each Lab channel
_ALIKE = 0.65  # Bhattacharyya's coefficient: colours that overlap more are not told apart
_FEWEST = 60  # pixels that say what colour something has
_ODDS = 2.0  # how much likelier hair must be than each other thing
_UNKNOWN = 1e-5  # the share of a colour that was not seen


def grown(
    rgb: np.ndarray,
    hair: np.ndarray,
    others: list[np.ndarray],
    where: np.ndarray,
    blur_px: float,
) -> np.ndarray:
    """What continues the hair within `where`, (H, W) bool.

    `hair`: pixels that are hair. `others`: of each other thing, pixels that are it. `blur_px`: the
    sigma over which neighbours vote.
    """
    nothing = np.zeros_like(where)
    if np.count_nonzero(hair) < _FEWEST:
        return nothing
    bins = _bins(rgb)
    own = _histogram(bins, hair)
    beside = [_histogram(bins, each) for each in others if np.count_nonzero(each) >= _FEWEST]
    if any(np.sqrt(own * each).sum() > _ALIKE for each in beside):
        return nothing
    rivals = np.maximum.reduce(beside) if beside else np.zeros_like(own)
    odds = np.log(own + _UNKNOWN) - np.log(rivals + _UNKNOWN)
    votes = cv2.GaussianBlur(odds[bins].astype(np.float32), (0, 0), max(0.5, blur_px))
    likely = (votes > np.log(_ODDS)) & where
    _, parts = cv2.connectedComponents((likely | hair).astype(np.uint8), connectivity=4)
    joined = np.unique(parts[hair])
    return np.asarray(np.isin(parts, joined[joined > 0]) & likely)


def _bins(rgb: np.ndarray) -> np.ndarray:
    """(H, W) int: each pixel's cell of the Lab cube."""
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.int32) * _BINS // 256
    return np.asarray((lab[..., 0] * _BINS + lab[..., 1]) * _BINS + lab[..., 2])


def _histogram(bins: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """The share of each colour, neighbours of a cell included; sums to 1."""
    counts = np.bincount(bins[selected], minlength=_BINS**3).astype(np.float32)
    cube = counts.reshape(_BINS, _BINS, _BINS)
    for axis in range(3):
        kernel = np.array([0.25, 0.5, 0.25], np.float32)
        cube = np.apply_along_axis(np.convolve, axis, cube, kernel, "same")
    return np.asarray(cube.ravel() / max(float(cube.sum()), 1e-9))
