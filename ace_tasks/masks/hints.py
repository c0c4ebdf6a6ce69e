"""Signs that a mask may be a mistake.

`plan --look` and a replica ask the same function about a mask file, so both say the same. Shapes
and alpha are left out, since they can hardly be drawn by mistake. The masks of people report their
own doubts (`masks.garment`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ace_tasks.images import levels
from ace_tasks.images.codec import Picture
from ace_tasks.images.paste import THRESHOLD
from ace_tasks.masks import masks
from ace_tasks.masks.masks import is_on_its_side, orientation_of
from ace_tasks.specs import Resolved

Hints = dict[str, str]  # code → sentence

CODES = {
    "label_map": "it has more than two flat levels or colours, like a map of classes",
    "odd_levels": "it has levels or colours other than black and white, such as 0 and 1",
    "grey_mask": "more than 30 % of it is grey, like a photograph",
    "soft_mask": "more than 5 % of it is grey, which is cut at 128",
    "unturned_mask": "EXIF turns the picture but not the mask, or the mask but not the picture",
    "inverted_mask": "it selects most of the picture and most of its rim",
    "several_people": "person's mask: more than one person is in the picture",
    "hidden_pose": "person's mask: a part of the body that it follows is hidden",
    "cut_off_person": "person's mask: the picture's edge cuts the person off",
    "turned_person": "person's mask: the person does not stand upright",
    "unsure_pose": "person's mask: the pose is uncertain",
}

_SOFT, _PICTURE = 0.05, 0.3  # shares of grey; edges alone have less than the first
_RIM, _MOST = 0.5, 0.6  # a mask rarely leaves out only a small part in the middle


def find(
    resolved: Resolved, image: Picture | None, file: Picture | None, mask: np.ndarray | None
) -> Hints:
    """Return the hints about an item's mask file; none if it has no such file.

    `mask`, (H, W) uint8, is what `masks.build` made of the file, or None if that failed.
    """
    if resolved.mask != "file" or file is None:
        return {}
    hints = _of_colours(file)
    if image is not None:
        hints |= _of_orientation(image, file)
    steps = resolved.mask_steps
    # A row that inverts its mask does so on purpose.
    if mask is not None and steps and not steps.invert and looks_inverted(mask):
        hints["inverted_mask"] = (
            "its mask selects most of the picture and its rim: inverted? White is repainted"
        )
    return hints


def grey_share(mask_HW: np.ndarray) -> float:
    """Return the share of a mask's levels that are neither black nor white, in [0, 1]."""
    grey = (mask_HW >= levels.BLACK) & (mask_HW <= levels.WHITE)
    return float(np.count_nonzero(grey) / grey.size)


def looks_inverted(mask_HW: np.ndarray) -> bool:
    """Return whether a mask selects most of the picture and most of its rim.

    A mask that marks what to keep does so.
    """
    selected = mask_HW > THRESHOLD
    rim = np.concatenate([selected[0], selected[-1], selected[1:-1, 0], selected[1:-1, -1]])
    return bool(selected.mean() > _MOST and rim.mean() > _RIM and not selected.all())


def _of_colours(file: Picture) -> Hints:
    """Return at most one hint: that the file is no drawing in black and white."""
    flat = levels.flat_colours(file.rgb)
    colour_names = levels.name_colours(flat) if flat else ""
    cut = f"pixels lighter than {THRESHOLD} are repainted"
    if len(flat) > 2:
        many = "" if colour_names[0].isdigit() else f"{len(flat)} "
        or_soft = ", or a soft mask" if "level" in colour_names else ""
        return {"label_map": f"its mask's {many}{colour_names}: a label map{or_soft}? {cut}"}
    black_and_white = any(map(levels.is_black, flat)) and any(map(levels.is_white, flat))
    if (len(flat) == 2 and not black_and_white) or (
        len(flat) == 1 and not (levels.is_black(flat[0]) or levels.is_white(flat[0]))
    ):
        return {"odd_levels": f"its mask's {colour_names}, not black and white: {cut}"}
    grey = grey_share(masks.greyscale(replace(file, rgb=levels.sampled(file.rgb))))
    if grey > _PICTURE:
        return {"grey_mask": f"{grey:.0%} of its mask is grey: a picture rather than a mask?"}
    if grey > _SOFT:
        return {"soft_mask": f"{grey:.0%} of its mask is grey, cut at {THRESHOLD}: a soft mask?"}
    return {}


def _of_orientation(image: Picture, file: Picture) -> Hints:
    """Return a hint if picture and mask are turned differently by EXIF.

    There is none if their sizes show which way is meant.
    """
    its, ours = orientation_of(image), orientation_of(file)
    width, height = image.size_px
    settled = width != height and is_on_its_side(its) != is_on_its_side(ours)
    if its == ours or settled:
        return {}
    if ours == 1:
        mismatch = f"EXIF turns its picture (orientation {its}) but not its mask"
    elif its == 1:
        mismatch = f"EXIF turns its mask (orientation {ours}) but not its picture"
    else:
        mismatch = f"EXIF turns its picture (orientation {its}) differently from its mask ({ours})"
    return {"unturned_mask": f"{mismatch}: do they fit each other?"}
