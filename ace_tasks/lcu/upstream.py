"""Policy `reference`: ACE_plus f3e410b to the pixel, quirks included (ACE_SPEC 2 and 5)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ace_tasks.errors import BadImage, BadMask
from ace_tasks.images.canvas_size import MAX_ASPECT, TOKEN_PX
from ace_tasks.lcu.canvas import (
    LCU,
    MASK_THRESHOLD,
    Geometry,
    Inputs,
    fit_budget,
    normalise,
    resize,
    split,
)

_SEAM_CROP_PX = 30  # upstream drops this much right of the seam


def build(inputs: Inputs) -> tuple[LCU, Geometry]:
    """Build the canvas and its geometry.

    Raises BadImage and BadMask where upstream would crash (ACE_SPEC 9.2, 9.3, 9.6).
    """
    edit, mask = _target(inputs)
    edit = edit * (1 - mask * inputs.repainting_scale)
    out_h, out_w = edit.shape[1:]
    slice_w = 0
    if inputs.references:
        placed = [_place_reference(each, out_h, inputs) for each in inputs.references]
        slice_w = sum(each.shape[2] for each in placed)
        edit = torch.cat([*placed, edit], dim=2)
        mask = F.pad(mask, (slice_w, 0))
    height, width = edit.shape[1:]
    canvas_h, canvas_w, scale = fit_budget(height, width, inputs.max_seq_len)
    slice_w = int(slice_w * scale) // TOKEN_PX * TOKEN_PX
    if slice_w and slice_w + _SEAM_CROP_PX >= canvas_w:
        raise BadImage(
            f"the target is too narrow beside its references: {canvas_w - slice_w} px of a "
            f"{canvas_w} px canvas (accepted: more than {_SEAM_CROP_PX})"
        )
    edit = resize(edit, canvas_h, canvas_w, "nearest-exact")
    mask = resize(mask, canvas_h, canvas_w, "nearest-exact")
    geometry = Geometry("reference", canvas_h, canvas_w, slice_w, out_h, out_w)
    return split(edit, mask, use_change=inputs.use_change), geometry


def restore(canvas: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Cut the target out of the decoded canvas, (H, W, 3) uint8, and resize it as upstream does."""
    if geometry.slice_w == 0:
        return canvas
    target = Image.fromarray(canvas[:, geometry.slice_w + _SEAM_CROP_PX :])
    return np.asarray(target.resize((geometry.out_w, geometry.out_h), Image.Resampling.BICUBIC))


def _crop_aspect(pixels: np.ndarray) -> np.ndarray:
    """Centre-crop to an aspect ratio of at most 4. Only ratios strictly above 4 are cropped."""
    height, width = pixels.shape[:2]
    new_h, new_w = height, width
    if height / width > MAX_ASPECT:
        new_h = int(MAX_ASPECT * width)
    elif width / height > MAX_ASPECT:
        new_w = int(MAX_ASPECT * height)
    top, left = round((height - new_h) / 2), round((width - new_w) / 2)  # half to even
    return pixels[top : top + new_h, left : left + new_w]


def _target(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the target's own canvas (3, H, W) and its mask (1, H, W), before erasing."""
    if inputs.image is None:
        size = (inputs.height, inputs.width)
        return torch.zeros(3, *size), torch.ones(1, *size)
    image = _crop_aspect(inputs.image)
    height, width = image.shape[:2]
    if inputs.mask is None:
        return normalise(image), torch.ones(1, height, width)
    if inputs.mask.shape != inputs.image.shape[:2]:
        given, wanted = inputs.mask.shape, inputs.image.shape[:2]
        raise BadMask(
            f"accepted: a mask of its picture's size {wanted} (height, width); given {given}"
        )
    if image.shape != inputs.image.shape:
        raise BadImage(
            f"accepted with a mask: aspect ratios up to {MAX_ASPECT}; given "
            f"{inputs.image.shape[1]}×{inputs.image.shape[0]}"
        )
    mask = torch.tensor(inputs.mask > MASK_THRESHOLD).float()[None]
    # Upstream's rule: a mask that selects nothing selects everything. The replica refuses such
    # items earlier.
    return normalise(image), mask if mask.any() else torch.ones_like(mask)


def _place_reference(pixels: np.ndarray, edit_h: int, inputs: Inputs) -> torch.Tensor:
    """Place a reference, (3, edit_h, w), at the target's height, or no larger than it is."""
    reference = normalise(_crop_aspect(pixels))
    rate = inputs.keep_pixels_rate
    height = edit_h if rate is None else min(reference.shape[1], int(edit_h * rate))
    return place(reference, height, edit_h, "bilinear")


def place(reference_CHW: torch.Tensor, height: int, canvas_h: int, mode: str) -> torch.Tensor:
    """Scale a reference to `height`, keep its aspect, and centre it on a column of zeros."""
    old_h, old_w = reference_CHW.shape[1:]
    scaled = resize(reference_CHW, height, int(old_w * (height / old_h)), mode)
    top = (canvas_h - height) // 2
    return F.pad(scaled, (0, 0, top, canvas_h - height - top))
