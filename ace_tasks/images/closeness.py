"""The distance of two pictures, pixel by pixel. Pictures are uint8 RGB, (H, W, 3)."""

from __future__ import annotations

import numpy as np


def rms(a: np.ndarray, b: np.ndarray) -> float:
    """Return the root mean square error, in grey levels."""
    return float(np.sqrt(np.mean((a.astype(np.float32) - b) ** 2)))


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB, of all pixels or of those in a mask (bool).

    It is infinite for equal pictures.
    """
    error = rms(a, b) if mask is None else rms(a[mask], b[mask])
    return float(20 * np.log10(255 / error)) if error else float("inf")
