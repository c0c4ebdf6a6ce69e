"""LCU++: pictures, mask and references → the model's input canvas, and the target back out.

Pure functions on tensors. The paper's Long-context Condition Unit stacks picture and mask in
channels (the noise joins them in `model`), and references stand left of the target on one canvas:

    canvas = [ reference … | target ]      mask = [ 0 … | m ]

Policy `reference` reproduces ACE_plus f3e410b to the pixel, quirks included (ACE_SPEC 2 and 5).

Legend: C channels, H height, W width; floats are in [-1, 1] with 0 as mid grey; masks are 0 or 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ace_tasks.errors import BadImage, BadMask

TOKEN_PX = 16  # one token is 2×2 latents of 8×8 pixels
_MAX_ASPECT = 4
_MASK_THRESHOLD = 128  # strictly above it
_SEAM_CROP_PX = 30  # upstream skips this much right of the seam


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the model shall see. Arrays are uint8: image and references (H, W, 3), mask (H, W)."""

    image: np.ndarray | None
    mask: np.ndarray | None
    references: tuple[np.ndarray, ...]
    width: int  # of the target, where there is no image
    height: int
    max_seq_len: int
    repainting_scale: float  # 1 erases the masked area, 0 keeps it
    keep_pixels_rate: float | None  # None: references always take the target's height
    use_change: bool  # 448 channels: masked content goes to channels of its own


@dataclass(frozen=True, eq=False)
class LCU:
    """The canvas the model is conditioned on; height and width are multiples of 16."""

    edit_CHW: torch.Tensor  # (3, H, W) float32
    mask_1HW: torch.Tensor  # (1, H, W) float32, exactly 0 or 1 (grey in training)
    change_CHW: torch.Tensor | None  # (3, H, W) float32 on the 448-channel route


@dataclass(frozen=True)
class Geometry:
    """How to find the target in the canvas again; all in pixels."""

    policy: str
    canvas_h: int
    canvas_w: int
    slice_w: int  # where upstream takes the seam to be; 0 without references
    out_h: int
    out_w: int

    @property
    def tokens(self) -> int:
        return (self.canvas_h // TOKEN_PX) * (self.canvas_w // TOKEN_PX)


def build(inputs: Inputs) -> tuple[LCU, Geometry]:
    """Raises BadImage and BadMask where upstream would crash (ACE_SPEC 9.2, 9.3, 9.6)."""
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
    change = edit * mask if inputs.use_change else None
    if inputs.use_change:
        edit = edit * (1 - mask)
    geometry = Geometry("reference", canvas_h, canvas_w, slice_w, out_h, out_w)
    return LCU(edit, mask, change), geometry


def restore(canvas: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The decoded canvas (H, W, 3) uint8 → the target, cut and resized as upstream does."""
    if geometry.slice_w == 0:
        return canvas
    target = Image.fromarray(canvas[:, geometry.slice_w + _SEAM_CROP_PX :])
    return np.asarray(target.resize((geometry.out_w, geometry.out_h), Image.Resampling.BICUBIC))


def _crop_aspect(pixels: np.ndarray) -> np.ndarray:
    """Centre-crop to an aspect ratio of at most 4 (strictly above it is cropped)."""
    height, width = pixels.shape[:2]
    new_h, new_w = height, width
    if height / width > _MAX_ASPECT:
        new_h = int(_MAX_ASPECT * width)
    elif width / height > _MAX_ASPECT:
        new_w = int(_MAX_ASPECT * height)
    top, left = round((height - new_h) / 2), round((width - new_w) / 2)  # half to even
    return pixels[top : top + new_h, left : left + new_w]


def _target(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """The target's own canvas (3, H, W) and its mask (1, H, W), before erasing."""
    if inputs.image is None:
        size = (inputs.height, inputs.width)
        return torch.zeros(3, *size), torch.ones(1, *size)
    image = _crop_aspect(inputs.image)
    height, width = image.shape[:2]
    if inputs.mask is None:
        return normalise(image), torch.ones(1, height, width)
    if inputs.mask.shape != inputs.image.shape[:2]:
        given, wanted = inputs.mask.shape, inputs.image.shape[:2]
        raise BadMask(f"accepted: a mask of its picture's size {wanted} (height, width); "
                      f"given {given}")  # fmt: skip
    if image.shape != inputs.image.shape:
        raise BadImage(
            f"accepted with a mask: aspect ratios up to {_MAX_ASPECT}; given "
            f"{inputs.image.shape[1]}×{inputs.image.shape[0]}"
        )
    mask = torch.tensor(inputs.mask > _MASK_THRESHOLD).float()[None]
    # Upstream's rule: a mask that selects nothing selects everything. The replica refuses such
    # items before they come here.
    return normalise(image), mask if mask.any() else torch.ones_like(mask)


def _place_reference(pixels: np.ndarray, edit_h: int, inputs: Inputs) -> torch.Tensor:
    """One reference → (3, edit_h, w): at the target's height, or no larger than it is."""
    reference = normalise(_crop_aspect(pixels))
    rate = inputs.keep_pixels_rate
    height = edit_h if rate is None else min(reference.shape[1], int(edit_h * rate))
    return place(reference, height, edit_h, "bilinear")


# ---------------------------------------------------------------- steps shared with training


def normalise(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, H, W) float32 in [-1, 1]."""
    return (torch.tensor(pixels).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def place(reference_CHW: torch.Tensor, height: int, canvas_h: int, mode: str) -> torch.Tensor:
    """A reference scaled to `height` with its aspect kept, centred on a column of zeros."""
    old_h, old_w = reference_CHW.shape[1:]
    scaled = resize(reference_CHW, height, int(old_w * (height / old_h)), mode)
    top = (canvas_h - height) // 2
    return F.pad(scaled, (0, 0, top, canvas_h - height - top))


def fit_budget(height: int, width: int, max_seq_len: int) -> tuple[int, int, float]:
    """Height and width of a canvas in whole tokens, and the scale they come from.

    The budget counts the whole canvas, references included; it never enlarges. Raises BadImage.
    """
    scale = min(1.0, math.sqrt(max_seq_len / ((height / TOKEN_PX) * (width / TOKEN_PX))))
    canvas_h = int(height * scale) // TOKEN_PX * TOKEN_PX
    canvas_w = int(width * scale) // TOKEN_PX * TOKEN_PX
    if not canvas_h or not canvas_w:
        raise BadImage(
            f"accepted: a canvas of at least {TOKEN_PX}×{TOKEN_PX} px within "
            f"{max_seq_len} tokens; given {width}×{height}"
        )
    return canvas_h, canvas_w, scale


def resize(x_CHW: torch.Tensor, height: int, width: int, mode: str) -> torch.Tensor:
    """`mode` is "nearest-exact" or "bilinear" (with antialias). Raises BadImage at zero size."""
    if not height or not width:
        raise BadImage(f"a reference shrinks to nothing: {width}×{height} px")
    if x_CHW.shape[1:] == (height, width):
        return x_CHW
    smooth = {"antialias": True, "align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(x_CHW[None], size=(height, width), mode=mode, **smooth)[0]  # type: ignore[arg-type]
