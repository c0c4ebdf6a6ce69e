"""Control maps: what the model is shown in place of an edit's picture (ACE_SPEC 2, Annotators).

They match upstream's annotators level by level, quirks included, since the model learnt from these
very maps. The procedural world, whose pictures have 64 px, has others (`control_pictures`).

Pictures are uint8 (H, W, 3) in sRGB.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from ace_tasks.specs import Control

Estimate = Callable[[Control, np.ndarray], np.ndarray]  # draws a map through a model

_CANNY_THRESHOLDS = (100, 200)
_CELL_PX = 64


def draw(
    control: Control, picture: np.ndarray, mask_HW: np.ndarray | None, estimate: Estimate | None
) -> np.ndarray:
    """Return the picture with its map inside the mask, or everywhere without a mask.

    `mask_HW` is uint8; its grey levels blend. `estimate` draws the maps that need a model.
    """
    if control == "none":
        return picture
    if control in _PLAIN:
        annotated = _PLAIN[control](picture)
    else:
        assert estimate is not None  # `resolve` refuses what the run has no model for
        annotated = estimate(control, picture)
    if mask_HW is None:
        return annotated
    layers = (Image.fromarray(each) for each in (annotated, picture, mask_HW))
    return np.asarray(Image.composite(*layers))


def canny(picture: np.ndarray) -> np.ndarray:
    """Draw white edges on black, from the channel with the steepest gradient."""
    return np.repeat(cv2.Canny(picture, *_CANNY_THRESHOLDS)[:, :, None], 3, axis=2)


def gray(picture: np.ndarray) -> np.ndarray:
    """Convert to grey as upstream does: it reads RGB as BGR, so red weighs .114 and blue .299."""
    return np.repeat(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[:, :, None], 3, axis=2)


def mosaic(picture: np.ndarray) -> np.ndarray:
    """Draw cells of about 64 px. Cubic without antialias: a cell has the colour of its middle."""
    height, width = picture.shape[:2]
    cells = max(1, width // _CELL_PX), max(1, height // _CELL_PX)
    small = cv2.resize(picture, cells, interpolation=cv2.INTER_CUBIC)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


_PLAIN: dict[Control, Callable[[np.ndarray], np.ndarray]] = {
    "canny": canny,
    "gray": gray,
    "mosaic": mosaic,
}
