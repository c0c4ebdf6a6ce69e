"""The product of a packshot, found from its pixels alone, without weights.

Pictures are (H, W, 3) uint8 in sRGB, results (H, W) bool. Both methods shrink a picture to the size
they need, so that a photograph of 100 megapixels costs little more than a small one. The same
picture gives the same result on every thread.
"""

from __future__ import annotations

import cv2
import numpy as np

from ace_tasks.errors import BadMask
from ace_tasks.images.matting import shrunk
from ace_tasks.images.paste import distance_inside

# GrabCut's time grows faster than the picture: 1 MP from nothing took up to 56 s, this takes 2 s.
# So it finds the product in a small picture, and only refines the outline in a larger one.
_COARSE_PX, _FINE_PX = 65_536, 1_000_000
_ROUNDS = 5
_BAND_COARSE_PX = 3  # possible error of the outline in the small picture
_SURROUNDINGS = 0.05  # share of each side: the frame that shows no product
# Levels of 0-255. On a plain background a JPEG's ringing around the product stands out more than
# the background varies, and was cut out with the product, 13 px wide. Noise hides the ringing.
_GRAIN = 4

_BORDER_PX = 4_000_000
_GAP = 0.004  # share of the shorter side; the flood passes no narrower gap
# OpenCV's Lab: L is scaled from 0-100 to 0-255; 128 is added to a and b.
_NOISE_LAB = np.array((6, 4, 4))  # spread of one colour by JPEG and a camera
_PLAIN_LAB = np.array((45, 20, 20))  # a background that varies more is not plain
_PLAIN_SHARE = 0.6  # share of the rim; a product may stand on the rest
_SPECK = 0.01  # share of the largest part; smaller ones are noise


def grabcut(rgb: np.ndarray) -> np.ndarray:
    """Select what stands out in the middle (Rother, Kolmogorov, Blake 2004)."""
    cv2.setRNGSeed(0)  # seeds this thread, since GrabCut's clusters start at random
    ground, product = np.zeros((1, 65)), np.zeros((1, 65))  # its models of their colours
    small = _grainy(shrunk(rgb, _COARSE_PX))
    height, width = small.shape[:2]
    x, y = (max(1, round(_SURROUNDINGS * side)) for side in (width, height))
    labels = np.full((height, width), cv2.GC_BGD, np.uint8)
    frame = (x, y, width - 2 * x, height - 2 * y)
    cv2.grabCut(small, labels, frame, ground, product, _ROUNDS, cv2.GC_INIT_WITH_RECT)
    larger = _grainy(shrunk(rgb, _FINE_PX))
    selected = _scaled(_is_product(labels), larger.shape)
    if selected.any() and not selected.all():
        labels = _unsure_near_outline(selected, _BAND_COARSE_PX * larger.shape[1] / width)
        cv2.grabCut(larger, labels, (0, 0, 0, 0), ground, product, 1, cv2.GC_INIT_WITH_MASK)
        selected = _is_product(labels)
    return _scaled(_without_specks(selected), rgb.shape)


def border(rgb: np.ndarray) -> np.ndarray:
    """Select everything that the rim's colour, spreading from the rim, does not reach.

    So a white label on a product on white belongs to the product, and so does the background seen
    through a handle. Raises BadMask if the background is not plain.
    """
    small = shrunk(rgb, _BORDER_PX)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    lowest, highest = _ground_colours(_rim(lab))
    ground = _flooded(cv2.inRange(lab, lowest, highest) > 0)
    return _scaled(_without_specks(~ground), rgb.shape)


def _flooded(ground: np.ndarray) -> np.ndarray:
    """Select the part of the background that a disc rolling in from outside reaches.

    The outline of a white cup on white paper has gaps, and a flood of single pixels finds each.
    """
    radius = max(1, round(_GAP * min(ground.shape) / 2))
    ring = radius + 1
    ringed = np.pad(ground, ring, constant_values=True)  # joins everything that touches the rim
    passable = np.where(distance_inside(ringed) > radius, 255, 0).astype(np.uint8)
    cv2.floodFill(passable, None, (0, 0), 128)
    reached = distance_inside(passable != 128) <= radius
    return np.asarray(reached[ring:-ring, ring:-ring])


def _ground_colours(rim_N3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest Lab of a plain background, from its rim.

    They use medians, since a product may stand on the rim. Raises BadMask if it is not plain.
    """
    middle = np.median(rim_N3, axis=0)
    away = np.abs(rim_N3 - middle)
    tolerance = _NOISE_LAB + 4.5 * np.median(away, axis=0)  # three standard deviations
    share = float((away <= tolerance).all(axis=1).mean())
    if (tolerance > _PLAIN_LAB).any() or share < _PLAIN_SHARE:
        raise BadMask(
            'accepted with the auto mask "border": a picture on a plain background; given one '
            f"whose rim is {share:.0%} one colour, ± {tolerance[0] / 2.55:.0f} % of lightness"
        )
    lowest, highest = np.clip((middle - tolerance, middle + tolerance), 0, 255)
    return lowest, highest


def _rim(pixels: np.ndarray) -> np.ndarray:
    """Return the outermost hundredth of each side of (H, W, C) as (N, C)."""
    height, width = pixels.shape[:2]
    y, x = max(1, height // 100), max(1, width // 100)
    parts = (pixels[:y], pixels[-y:], pixels[y:-y, :x], pixels[y:-y, -x:])
    return np.concatenate([part.reshape(-1, pixels.shape[2]) for part in parts])


def _grainy(rgb: np.ndarray) -> np.ndarray:
    grain = np.random.default_rng(0).normal(0, _GRAIN, rgb.shape)
    return np.asarray((rgb + grain).clip(0, 255), np.uint8)


def _is_product(labels: np.ndarray) -> np.ndarray:
    return np.asarray((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))


def _unsure_near_outline(selected: np.ndarray, band_px: float) -> np.ndarray:
    """Return labels with which GrabCut decides again within `band_px` of the outline only."""
    from_outline = np.maximum(distance_inside(selected), distance_inside(~selected))
    unsure = np.where(selected, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    sure = np.where(selected, cv2.GC_FGD, cv2.GC_BGD)
    return np.where(from_outline > band_px, sure, unsure).astype(np.uint8)


def _without_specks(selected: np.ndarray) -> np.ndarray:
    """Drop the parts of a selection that are far smaller than the largest."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(selected.astype(np.uint8))
    if count < 3:  # the background, and at most one part
        return selected
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = areas >= _SPECK * areas[1:].max()
    kept[0] = False
    return np.asarray(kept[parts])


def _scaled(selected: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Scale a selection to (H, W, …), with a smooth outline."""
    if selected.shape == shape[:2]:
        return selected
    grey = np.where(selected, 255, 0).astype(np.uint8)
    larger = cv2.resize(grey, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(larger > 127)
