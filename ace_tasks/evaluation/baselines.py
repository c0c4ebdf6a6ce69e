"""Baselines that need no model. Success rates are read against this floor."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ace_tasks.training.world.world_tasks import Example

_RADIUS_PX = 3  # the value in OpenCV's own examples


def copy_input(example: Example) -> np.ndarray:
    """Return the input picture, or the first reference if there is none."""
    return (example.references[0] if example.image is None else example.image).copy()


def mean_fill(example: Example) -> np.ndarray:
    """Return the input with the mask filled by the mean colour outside it.

    Without a mask the whole picture is filled with its mean colour.
    """
    output = copy_input(example)
    inside = np.ones(output.shape[:2], bool) if example.mask is None else example.mask > 0
    known = inside if inside.all() else ~inside
    output[inside] = np.rint(output[known].mean(axis=0)).astype(np.uint8)
    return output


def inpaint(example: Example) -> np.ndarray:
    """Return the input with the mask filled from around it (Telea 2004, fast marching).

    Without a mask the input is returned unchanged.
    """
    picture = copy_input(example)
    if example.mask is None:
        return picture
    filled: np.ndarray = cv2.inpaint(picture, example.mask, _RADIUS_PX, cv2.INPAINT_TELEA)
    return filled


BASELINES: dict[str, Callable[[Example], np.ndarray]] = {
    "copy_input": copy_input,
    "mean_fill": mean_fill,
    "inpaint": inpaint,
}
