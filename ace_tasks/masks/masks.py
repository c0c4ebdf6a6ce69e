"""Masks from a file, a shape, the source's alpha channel or its content, as (H, W) uint8.

255 is repainted. A mask is then inverted, grown and smoothed as the row asks. Nothing is repaired:
upstream turns an empty mask into a full one and repaints everything. Here a mask that does not fit
its picture fails its item, and so does one that selects nothing, or everything, unless the run
allows it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageDraw

from ace_tasks.errors import BadMask
from ace_tasks.images import colour, levels
from ace_tasks.images.codec import Picture
from ace_tasks.images.paste import THRESHOLD, distance_inside
from ace_tasks.masks import cutout, garment
from ace_tasks.model import saliency
from ace_tasks.specs import AutoMask, Box, Ellipse, MaskSteps, Polygon, Resolved, Shape

# A segmentation model: takes (H, W, 3) uint8 sRGB and a label, or None for the product, and returns
# (H, W) uint8, 255 where that is. Raises BadMask for an unknown label.
Segment = Callable[[np.ndarray, str | None], np.ndarray]

_DRAWING_PX = 160
_BLUR_PX = 8  # a wider blur is made in a smaller picture, as good and seconds faster


def build(
    resolved: Resolved,
    image: Picture,
    mask_file: Picture | None,
    segment: Segment | None = None,
    hints: dict[str, str] | None = None,
) -> np.ndarray | None:
    """Return the mask of an item as (H, W) uint8 at the picture's size, or None for no mask.

    Levels above THRESHOLD are repainted. It is black and white only once a step was taken. `hints`
    receives reasons why the mask may be wrong, code → sentence. Raises BadMask for a mask that has
    another size than its picture, reaches outside it, cannot be made, or selects what the run does
    not allow.
    """
    if resolved.mask is None:
        return None
    steps = resolved.mask_steps
    assert steps is not None
    drawn = _draw(resolved, image, mask_file, segment, hints)
    pixels = take_steps(drawn, steps)
    share = coverage(pixels)
    if share == 0 and not steps.allow_empty:
        raise BadMask(
            f"the mask selects no pixel (accepted: some above {THRESHOLD})"
            + _why(drawn, steps, mask_file)
        )
    if share == 1 and not steps.allow_full:
        raise BadMask(
            "the mask selects every pixel (accepted: some left out, or a run that allows full "
            "masks)" + _why(drawn, steps, mask_file)
        )
    return pixels


def _why(drawn: np.ndarray, steps: MaskSteps, file: Picture | None) -> str:
    """Return what led to a mask that selects nothing or everything; empty if unknown."""
    share = coverage(drawn)
    if 0 < share < 1:
        return (
            f"; it selected {share:.1%} before mask_grow {steps.grow_px}, mask_blur "
            f"{steps.blur_px:g}"
        )
    return f"; {levels.describe(file.rgb)}{_cut(file)}" if file else ""


def coverage(mask_HW: np.ndarray) -> float:
    """Return the share of a picture that its mask selects, in [0, 1]."""
    return float(np.count_nonzero(mask_HW > THRESHOLD) / mask_HW.size)


def drawing(mask_HW: np.ndarray) -> bytes:
    """Return a black and white PNG of some hundred bytes.

    Its longer side is at most `_DRAWING_PX`.
    """
    height, width = mask_HW.shape
    scale = min(1.0, _DRAWING_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(mask_HW, size, interpolation=cv2.INTER_AREA)
    out = io.BytesIO()
    Image.fromarray(small > THRESHOLD).save(out, "PNG", optimize=True)
    return out.getvalue()


def _cut(file: Picture) -> str:
    deep = any(each.startswith("16 bits") for each in file.converted)
    return ", after 16 bits were cut to 8" if deep else ""


def orientation_of(picture: Picture) -> int:
    """Return the EXIF orientation that a picture had before it was turned, 1 (none) to 8.

    An AVIF's own rotation counts as well.
    """
    if picture.raw is None:
        return 1
    found = picture.raw.exif.get(ExifTags.Base.Orientation, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def is_on_its_side(orientation: int) -> bool:
    """Return whether an EXIF orientation swaps a picture's width and height."""
    return orientation >= 5


def take_steps(mask_HW: np.ndarray, steps: MaskSteps) -> np.ndarray:
    """Invert a mask, grow or shrink it, then smooth its outline; uint8 in and out.

    Lengths are in pixels of the picture. The picture's edge is no outline, so a selection that
    touches it stays there. The outline stays hard, since the feather softens the paste.
    """
    if not (steps.invert or steps.grow_px or steps.blur_px):
        return mask_HW
    selected = (mask_HW > THRESHOLD) != steps.invert
    if selected.any() and not selected.all():  # otherwise there is no outline
        selected = _blurred(_grown(selected, steps.grow_px), steps.blur_px)
    return np.where(selected, 255, 0).astype(np.uint8)


def _grown(selected: np.ndarray, by_px: int) -> np.ndarray:
    """Grow a selection by `by_px` in every direction; a negative one shrinks it."""
    if by_px == 0:
        return selected
    if by_px > 0:
        return distance_inside(~selected) <= by_px
    return distance_inside(selected) > -by_px


def _blurred(selected: np.ndarray, sigma_px: float) -> np.ndarray:
    """Select each pixel for which more than half of a Gaussian around it is selected."""
    if sigma_px == 0:
        return selected
    height, width = selected.shape
    grey: Any = np.where(selected, 255, 0).astype(np.uint8)
    scale = min(1.0, _BLUR_PX / sigma_px)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    grey = cv2.GaussianBlur(grey, (0, 0), scale * sigma_px, borderType=cv2.BORDER_REPLICATE)
    if scale < 1:
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(grey > 255 / 2)


def _draw(
    resolved: Resolved,
    image: Picture,
    mask_file: Picture | None,
    segment: Segment | None,
    hints: dict[str, str] | None,
) -> np.ndarray:
    mask = resolved.mask
    if mask == "file":
        assert mask_file is not None
        return _from_file(mask_file, image)
    if mask == "alpha":
        if image.alpha is None:
            raise BadMask('"alpha" needs a picture with an alpha channel, and this one has none')
        return 255 - image.alpha
    if mask == "auto":
        assert resolved.auto_mask is not None  # `resolve` refuses a row without
        assert resolved.mask_steps is not None
        if resolved.auto_mask.garment:
            return _of_person(image, resolved.auto_mask, hints)
        return _from_content(image, resolved.auto_mask, resolved.mask_steps.label, segment)
    assert mask is not None
    return _from_shape(mask, image)


def _from_content(
    image: Picture, auto: AutoMask, label: str | None, segment: Segment | None
) -> np.ndarray:
    seen = colour.to_srgb(image.rgb, image.icc_profile)
    if auto.method == "u2net":
        return saliency.u2net(auto.model).mask(seen)
    if auto.method != "model":
        selected = cutout.grabcut(seen) if auto.method == "grabcut" else cutout.border(seen)
        return np.where(selected, 255, 0).astype(np.uint8)
    if segment is None:
        raise BadMask('mask "auto" needs a segmentation model, and none is loaded')
    return segment(seen, label)


def _of_person(image: Picture, auto: AutoMask, hints: dict[str, str] | None) -> np.ndarray:
    assert auto.garment is not None
    seen = colour.to_srgb(image.rgb, image.icc_profile)
    drawn = garment.draw(seen, auto.garment, auto.model)
    if hints is not None:
        hints.update(drawn.hints)
    return drawn.mask


def _from_file(file: Picture, image: Picture) -> np.ndarray:
    if file.size_px != image.size_px:
        given, wanted = ("×".join(map(str, each.size_px)) for each in (file, image))
        turned = _turned_otherwise(file, image)
        raise BadMask(f"accepted: a mask of its picture's size, {wanted}; given {given}{turned}")
    if file.alpha is not None and (file.alpha < 255).any():
        raise BadMask("accepted: a mask without transparency, white where it repaints")
    return greyscale(file)


def _turned_otherwise(file: Picture, image: Picture) -> str:
    """Return why a mask lies on its side, if EXIF turns either it or its picture.

    Empty if that is not the reason.
    """
    ours, its = orientation_of(file), orientation_of(image)
    if file.size_px != image.size_px[::-1] or is_on_its_side(ours) == is_on_its_side(its):
        return ""
    if is_on_its_side(its):
        return f": EXIF turns its picture (orientation {its}) but not the mask"
    return f": EXIF turns the mask (orientation {ours}) but not its picture"


def greyscale(file: Picture) -> np.ndarray:
    """Return the levels of a mask file, (H, W) uint8."""
    return np.asarray(Image.fromarray(file.rgb).convert("L"))


def _from_shape(shape: Shape, image: Picture) -> np.ndarray:
    width, height = size_px = image.size_px
    points = _points(shape)
    if all(coordinate <= 1 for point in points for coordinate in point):
        points = [(x * width, y * height) for x, y in points]
    if any(x > width or y > height for x, y in points):
        turn = orientation_of(image)
        turned = f", turned upright by EXIF (orientation {turn})" if is_on_its_side(turn) else ""
        message = f"the shape reaches outside its picture of {width}×{height}{turned}: {points}"
        raise BadMask(message[:200])
    canvas = Image.new("L", size_px, 0)
    draw = ImageDraw.Draw(canvas)
    if isinstance(shape, Polygon):
        draw.polygon(points, fill=255)
    else:
        (left, top), (right, bottom) = ((round(x), round(y)) for x, y in points)
        # ImageDraw includes the last pixel, our bounds exclude it.
        bounds = (left, top, max(left, right - 1), max(top, bottom - 1))
        (draw.rectangle if isinstance(shape, Box) else draw.ellipse)(bounds, fill=255)
    return np.asarray(canvas)


def _points(shape: Shape) -> list[tuple[float, float]]:
    if isinstance(shape, Polygon):
        return list(shape.polygon)
    left, top, right, bottom = shape.ellipse if isinstance(shape, Ellipse) else shape.box
    return [(left, top), (right, bottom)]
