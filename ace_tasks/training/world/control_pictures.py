"""Control pictures: reduced pictures from which a model makes the original again.

All functions map uint8 (H, W, 3) to uint8 (H, W, 3), except `gradients`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

_MOSAIC_CELLS = 12  # in each direction; they blur every pattern and keep colours and places
_STEEP = 120  # Sobel gradient of an edge, in grey levels


def gray(picture: np.ndarray) -> np.ndarray:
    """Return the luma in all three channels."""
    return np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))


def mosaic(picture: np.ndarray) -> np.ndarray:
    """Return the picture in coarse cells, each of its mean colour."""
    size = picture.shape[1::-1]
    small = Image.fromarray(picture).resize((_MOSAIC_CELLS,) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize(size, Image.Resampling.NEAREST))


def edges(picture: np.ndarray) -> np.ndarray:
    """Return the edges, white where the Sobel gradient of luma is steep, on black."""
    luma = np.asarray(Image.fromarray(picture).convert("L"), np.float32)
    steepness = np.hypot(*gradients(luma))
    return np.repeat(np.where(steepness > _STEEP, 255, 0).astype(np.uint8)[:, :, None], 3, axis=2)


def gradients(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the Sobel derivatives along x and y, each (H, W), with the border repeated."""
    p = np.pad(luma, 1, mode="edge")
    down, right = p[:-2] + 2 * p[1:-1] + p[2:], p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    return down[:, 2:] - down[:, :-2], right[2:] - right[:-2]


CONTROLS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "edges": edges,
    "gray": gray,
    "mosaic": mosaic,
}
