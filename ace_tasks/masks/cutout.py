"""Which part of a packshot is the product, told from its pixels alone: no weights.

Pictures are (H, W, 3) uint8 in sRGB, answers (H, W) bool. Both ways look at a picture no larger
than they need, so that a photograph of 100 megapixels costs little more than a small one. The
same picture gets the same answer, on whatever thread.
"""

from __future__ import annotations

import cv2
import numpy as np

from ace_tasks.errors import BadMask
from ace_tasks.images.matting import shrunk

# GrabCut's time grows faster than the picture: 1 MP from nothing took up to 56 s where this took
# 2. So it finds the product in a small picture, and in a larger one its outline only.
_COARSE_PX, _FINE_PX = 65_536, 1_000_000
_ROUNDS = 5
_BAND_COARSE_PX = 3  # how far the outline of the small picture may be wrong
_SURROUNDINGS = 0.05  # of each side: the frame that shows no product
# Levels of 0-255. On plain ground a JPEG's ringing round the product differs from the ground more
# than the ground from itself, and was cut out with it, 13 px wide; in noise it drowns.
_GRAIN = 4

_BORDER_PX = 4_000_000
_GAP = 0.004  # of the shorter side: the ground flows through no narrower one
# OpenCV's Lab: L is 0-255 and stands for 0-100; a and b are themselves plus 128.
_NOISE_LAB = np.array((6, 4, 4))  # what JPEG and a camera add to one colour
_PLAIN_LAB = np.array((45, 20, 20))  # a ground that varies more is no plain ground
_PLAIN_SHARE = 0.6  # of the rim; a product may stand on it
_SPECK = 0.01  # of the largest part: smaller ones are noise


def grabcut(rgb: np.ndarray) -> np.ndarray:
    """What stands out in the middle (Rother, Kolmogorov, Blake 2004)."""
    cv2.setRNGSeed(0)  # of this thread; its clusters start at random
    ground, product = np.zeros((1, 65)), np.zeros((1, 65))  # what it learns of their colours
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
    """All that the colour of the rim does not reach from the rim. Raises BadMask.

    So a white label on a product that stands on white is the product's, and so is the ground that
    is seen through a handle.
    """
    small = shrunk(rgb, _BORDER_PX)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    lowest, highest = _ground_colours(_rim(lab))
    ground = _flooded(cv2.inRange(lab, lowest, highest) > 0)
    return _scaled(_without_specks(~ground), rgb.shape)


def _flooded(ground: np.ndarray) -> np.ndarray:
    """What of the ground a disc reaches that rolls in from outside: a white cup on white paper has
    an outline with gaps, and a flood of single pixels finds each.
    """
    radius = max(1, round(_GAP * min(ground.shape) / 2))
    ring = radius + 1
    ringed = np.pad(ground, ring, constant_values=True)  # joins all that touches the rim
    passable = np.where(_distance(ringed) > radius, 255, 0).astype(np.uint8)
    cv2.floodFill(passable, None, (0, 0), 128)
    reached = _distance(passable != 128) <= radius
    return np.asarray(reached[ring:-ring, ring:-ring])


def _ground_colours(rim_N3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest Lab of a ground, from its rim; medians, since a product may stand
    on it.
    """
    middle = np.median(rim_N3, axis=0)
    away = np.abs(rim_N3 - middle)
    tolerance = _NOISE_LAB + 4.5 * np.median(away, axis=0)  # three standard deviations
    share = float((away <= tolerance).all(axis=1).mean())
    if (tolerance > _PLAIN_LAB).any() or share < _PLAIN_SHARE:
        raise BadMask(
            'accepted with the auto mask "border": a picture on plain ground; of the rim of this '
            f"one {share:.0%} has one colour, give or take {tolerance[0] / 2.55:.0f} % of lightness"
        )
    lowest, highest = np.clip((middle - tolerance, middle + tolerance), 0, 255)
    return lowest, highest


def _rim(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) → (N, C): the outermost hundredth of each side."""
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
    """Labels for GrabCut: it decides anew within `band_px` of the outline, and nowhere else."""
    from_outline = np.maximum(_distance(selected), _distance(~selected))
    unsure = np.where(selected, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    sure = np.where(selected, cv2.GC_FGD, cv2.GC_BGD)
    return np.where(from_outline > band_px, sure, unsure).astype(np.uint8)


def _distance(inside: np.ndarray) -> np.ndarray:
    """(H, W) float32: how far each pixel of a selection is from what is outside it; 0 there."""
    distance = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance)


def _without_specks(selected: np.ndarray) -> np.ndarray:
    """Its parts, but for those far smaller than the largest."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(selected.astype(np.uint8))
    if count < 3:  # the ground, and one part at most
        return selected
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = areas >= _SPECK * areas[1:].max()
    kept[0] = False
    return np.asarray(kept[parts])


def _scaled(selected: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A selection at the size of (H, W, …), its outline smooth."""
    if selected.shape == shape[:2]:
        return selected
    grey = np.where(selected, 255, 0).astype(np.uint8)
    larger = cv2.resize(grey, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(larger > 127)
