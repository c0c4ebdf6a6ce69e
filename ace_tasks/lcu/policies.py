"""Build a canvas and restore its target, by the policy of the inputs."""

from __future__ import annotations

import numpy as np

from ace_tasks.lcu import exact, upstream
from ace_tasks.lcu.canvas import LCU, Geometry, Inputs


def build_canvas(inputs: Inputs) -> tuple[LCU, Geometry]:
    """Build the canvas, and the target's place in it. Raises BadImage and BadMask."""
    return exact.build(inputs) if inputs.policy == "catalog" else upstream.build(inputs)


def restore_target(canvas: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Cut the target out of the decoded canvas, (H, W, 3) uint8, and resize it."""
    if geometry.policy == "catalog":
        return exact.restore(canvas, geometry)
    return upstream.restore(canvas, geometry)
