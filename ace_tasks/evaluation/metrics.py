"""Measures that compare two pictures pixel by pixel. Pictures are uint8 RGB, (H, W, 3)."""

from __future__ import annotations

import numpy as np

from ace_tasks.training.world.control_pictures import gradients


def edge_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the two pictures' luma gradients, in [-1, 1]; 0 if one is flat."""
    luma = np.array((0.299, 0.587, 0.114), np.float32)
    first, second = (np.concatenate(gradients(each @ luma)).ravel() for each in (a, b))
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / norms) if norms else 0.0


def mean_error(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean absolute error inside a mask (bool), in grey levels; 0 if it is empty."""
    if not mask.any():
        return 0.0
    return float(np.abs(a[mask].astype(np.float32) - b[mask]).mean())


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean structural similarity (Wang et al. 2004).

    It uses 7×7 uniform windows and the mean over channels, as scikit-image's
    `structural_similarity` does by default.
    """
    x, y = (each.astype(np.float64) for each in (a, b))
    n, c1, c2 = 49, (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    unbiased = n / (n - 1)
    var_x = unbiased * (_window_mean(x * x) - mean_x**2)
    var_y = unbiased * (_window_mean(y * y) - mean_y**2)
    covariance = unbiased * (_window_mean(x * y) - mean_x * mean_y)
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((numerator / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def _window_mean(x_HWC: np.ndarray) -> np.ndarray:
    """Return the means over all complete 7×7 windows, (H-6, W-6, C)."""
    width = 7
    rows, columns = (side - width + 1 for side in x_HWC.shape[:2])
    sums: np.ndarray = np.sum([x_HWC[n : n + rows] for n in range(width)], axis=0)
    sums = np.sum([sums[:, n : n + columns] for n in range(width)], axis=0)
    return sums / width**2
