"""Which policy lays out a canvas, and takes the target out of it again."""

from __future__ import annotations

import numpy as np

from ace_tasks.lcu import exact, upstream
from ace_tasks.lcu.canvas import LCU, Geometry, Inputs


def build_canvas(inputs: Inputs) -> tuple[LCU, Geometry]:
    """The canvas, and how to find the target in it again. Raises BadImage and BadMask."""
    return exact.build(inputs) if inputs.policy == "catalog" else upstream.build(inputs)


def restore_target(canvas: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The decoded canvas (H, W, 3) uint8 → the target, cut out and resized."""
    if geometry.policy == "catalog":
        return exact.restore(canvas, geometry)
    return upstream.restore(canvas, geometry)
