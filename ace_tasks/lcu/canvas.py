"""The model's canvas: its inputs, its geometry, and the steps that both policies share.

Legend: C channels, H height, W width; floats are in [-1, 1] with 0 as mid grey; masks are 0 or 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from ace_tasks.errors import BadImage
from ace_tasks.images.canvas_size import TOKEN_PX

MASK_THRESHOLD = 128  # levels strictly above it are repainted

Policy = Literal["catalog", "reference"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of a canvas, uint8: image and references are (H, W, 3), the mask is (H, W)."""

    image: np.ndarray | None
    mask: np.ndarray | None
    references: tuple[np.ndarray, ...]
    width: int  # width and height of the target if there is no image
    height: int
    max_seq_len: int
    repainting_scale: float  # 1 erases the masked area, 0 keeps it
    keep_pixels_rate: float | None  # None: references always take the target's height
    use_change: bool  # 448 channels: masked content goes to channels of its own
    policy: Policy = "catalog"


@dataclass(frozen=True, eq=False)
class LCU:
    """The canvas the model is conditioned on; height and width are multiples of 16."""

    edit_CHW: torch.Tensor  # (3, H, W) float32
    mask_1HW: torch.Tensor  # (1, H, W) float32, exactly 0 or 1 (grey in training)
    change_CHW: torch.Tensor | None  # (3, H, W) float32 on the 448-channel route


@dataclass(frozen=True)
class Geometry:
    """The place of the target in the canvas, in pixels."""

    policy: Policy
    canvas_h: int
    canvas_w: int
    slice_w: int  # seam right of the references, or upstream's idea of it; 0 without references
    out_h: int
    out_w: int
    target: tuple[int, int, int, int] | None = None  # left, top, right, bottom; reference: None

    @property
    def tokens(self) -> int:
        return (self.canvas_h // TOKEN_PX) * (self.canvas_w // TOKEN_PX)


def normalise(pixels: np.ndarray) -> torch.Tensor:
    """Convert (H, W, 3) uint8 to (3, H, W) float32 in [-1, 1]."""
    floats = torch.tensor(pixels).permute(2, 0, 1).float()
    return floats.div_(255).sub_(0.5).div_(0.5)  # in place: 12 MB a copy at 1024²


def split(edit_CHW: torch.Tensor, mask_1HW: torch.Tensor, *, use_change: bool) -> LCU:
    """Make an LCU. With `use_change` the masked content goes into a part of its own."""
    if not use_change:
        return LCU(edit_CHW, mask_1HW, None)
    return LCU(edit_CHW * (1 - mask_1HW), mask_1HW, edit_CHW * mask_1HW)


def fit_budget(height: int, width: int, max_seq_len: int) -> tuple[int, int, float]:
    """Return height and width of a canvas in whole tokens, and the scale they come from.

    The budget covers the whole canvas, references included. Nothing is enlarged. Raises BadImage.
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
    """Resize to (C, height, width). Raises BadImage at zero size.

    `mode` is "nearest-exact" or "bilinear" (with antialias).
    """
    if not height or not width:
        raise BadImage(f"a reference shrinks to nothing: {width}×{height} px")
    if x_CHW.shape[1:] == (height, width):
        return x_CHW
    smooth = {"antialias": True, "align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(x_CHW[None], size=(height, width), mode=mode, **smooth)[0]  # type: ignore[arg-type]
