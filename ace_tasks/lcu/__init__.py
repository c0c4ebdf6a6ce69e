"""LCU++: pictures, mask and references → the model's input canvas, and the target back out.

Pure functions on tensors. The paper's Long-context Condition Unit stacks picture and mask in
channels (the noise joins them in `model`), and references stand left of the target on one canvas:

    canvas = [ reference … | target ]      mask = [ 0 … | m ]

Two policies decide sizes and places. `catalog` is exact: the target is padded to whole tokens,
cut out again at its true seam, and comes back in its own size. `reference` is upstream to the
pixel, quirks included.
"""

from __future__ import annotations

import numpy as np

from ace_tasks.layout import TOKEN_PX
from ace_tasks.lcu import catalog, reference
from ace_tasks.lcu.canvas import (
    LCU,
    MASK_THRESHOLD,
    Geometry,
    Inputs,
    Policy,
    fit_budget,
    normalise,
    resize,
)
from ace_tasks.lcu.reference import place

__all__ = [
    "LCU", "MASK_THRESHOLD", "TOKEN_PX", "Geometry", "Inputs", "Policy",
    "build", "fit_budget", "normalise", "place", "resize", "restore",
]  # fmt: skip


def build(inputs: Inputs) -> tuple[LCU, Geometry]:
    """The canvas, and how to find the target in it again. Raises BadImage and BadMask."""
    return catalog.build(inputs) if inputs.policy == "catalog" else reference.build(inputs)


def restore(canvas: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The decoded canvas (H, W, 3) uint8 → the target, cut out and resized."""
    if geometry.policy == "catalog":
        return catalog.restore(canvas, geometry)
    return reference.restore(canvas, geometry)
