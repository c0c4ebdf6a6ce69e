"""Policy `catalog`: exact. What goes in comes out in the same place and size.

The target is scaled to the token budget if it must be, padded to whole tokens (and to an aspect
of 4, beyond which no model was trained) and cut out again where it was put. Nothing is cropped.
References stand left of it, their right edge on a token's, so the seam is where it is said to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ace_tasks.errors import BadImage, BadMask
from ace_tasks.lcu.canvas import (
    LCU,
    MASK_THRESHOLD,
    MAX_ASPECT,
    TOKEN_PX,
    Geometry,
    Inputs,
    normalise,
    split,
)

Size = tuple[int, int]  # (width, height), px
_BISECTIONS = 40  # finer than a pixel of any picture


@dataclass(frozen=True)
class Layout:
    """Sizes on the canvas at one scale of the target, px."""

    scale: float
    target: Size
    frame: Size  # the target with its padding, in whole tokens
    references: tuple[Size, ...]

    @property
    def seam(self) -> int:
        """Width of what stands left of the frame, in whole tokens."""
        return _whole_tokens(sum(width for width, _ in self.references))

    @property
    def tokens(self) -> int:
        return (self.seam + self.frame[0]) // TOKEN_PX * (self.frame[1] // TOKEN_PX)

    @property
    def offset(self) -> tuple[int, int]:
        """(left, top) of the target in its frame, on the tokens' grid."""
        (width, height), (frame_w, frame_h) = self.target, self.frame
        left, top = (frame_w - width) // 2, (frame_h - height) // 2
        return left // TOKEN_PX * TOKEN_PX, top // TOKEN_PX * TOKEN_PX


def lay_out(
    target: Size, references: Sequence[Size], max_seq_len: int, keep_pixels_rate: float | None
) -> Layout:
    """The largest layout within the budget; never larger than the target is.

    Raises BadImage if not even a few pixels of the target fit beside its references.
    """

    def at(scale: float) -> Layout:
        return _layout(scale, target, references, keep_pixels_rate)

    if at(1.0).tokens <= max_seq_len:
        return at(1.0)
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).tokens <= max_seq_len else (low, middle)
    if not low:
        raise BadImage(
            f"accepted: what fits in {max_seq_len} tokens of {TOKEN_PX}×{TOKEN_PX} px; given "
            f"{target[0]}×{target[1]} with {len(references)} references"
        )
    return at(low)


def build(inputs: Inputs) -> tuple[LCU, Geometry]:
    """Raises BadImage and BadMask."""
    size = (inputs.width, inputs.height) if inputs.image is None else _size(inputs.image)
    layout = lay_out(
        size, [_size(each) for each in inputs.references], inputs.max_seq_len,
        inputs.keep_pixels_rate,
    )  # fmt: skip
    frame, mask = _frame(inputs, layout)
    edit = frame * (1 - mask * inputs.repainting_scale)
    if inputs.references:
        placed = [
            _place(pixels, size, layout.frame[1])
            for pixels, size in zip(inputs.references, layout.references, strict=True)
        ]
        beside = torch.cat(placed, dim=2)
        # The first reference's edge goes on to the left, so that the last one ends at the seam.
        beside = F.pad(beside[None], (layout.seam - beside.shape[2], 0, 0, 0), mode="replicate")[0]
        edit = torch.cat([beside, edit], dim=2)
        mask = F.pad(mask, (layout.seam, 0))
    (left, top), (width, height) = layout.offset, layout.target
    left += layout.seam
    geometry = Geometry(
        policy="catalog",
        canvas_h=layout.frame[1],
        canvas_w=layout.seam + layout.frame[0],
        slice_w=layout.seam,
        out_h=size[1],
        out_w=size[0],
        target=(left, top, left + width, top + height),
    )
    return split(edit, mask, inputs.use_change), geometry


def restore(canvas: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The target out of the decoded canvas, in its own size; the same pixels if none was scaled."""
    assert geometry.target is not None
    left, top, right, bottom = geometry.target
    return _resize(canvas[top:bottom, left:right], (geometry.out_w, geometry.out_h))


def _layout(
    scale: float, target: Size, references: Sequence[Size], keep_pixels_rate: float | None
) -> Layout:
    width, height = (max(1, round(side * scale)) for side in target)
    frame_w = _whole_tokens(max(width, -(-height // MAX_ASPECT)))
    frame_h = _whole_tokens(max(height, -(-width // MAX_ASPECT)))
    sizes = tuple(_beside(each, frame_h, keep_pixels_rate) for each in references)
    return Layout(scale, (width, height), (frame_w, frame_h), sizes)


def _beside(reference: Size, frame_h: int, keep_pixels_rate: float | None) -> Size:
    """A reference at the frame's height; or at that share of it, and no larger than it is."""
    width, height = reference
    wanted = frame_h if keep_pixels_rate is None else min(height, int(frame_h * keep_pixels_rate))
    scale = min(wanted / height, MAX_ASPECT * frame_h / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _frame(inputs: Inputs, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """The target in its padding (3, H, W), and what of it is to be painted (1, H, W)."""
    frame_w, frame_h = layout.frame
    everything = torch.ones(1, frame_h, frame_w)
    if inputs.image is None:
        return torch.zeros(3, frame_h, frame_w), everything
    (left, top), (width, height) = layout.offset, layout.target
    room = ((top, frame_h - height - top), (left, frame_w - width - left))
    picture = np.pad(_resize(inputs.image, layout.target), (*room, (0, 0)), mode="edge")
    if inputs.mask is None:
        return normalise(picture), everything
    if inputs.mask.shape != inputs.image.shape[:2]:
        given, wanted = inputs.mask.shape, inputs.image.shape[:2]
        raise BadMask(
            f"accepted: a mask of its picture's size {wanted} (height, width); given {given}"
        )
    # Scaled down, a pixel is painted if any part of it is: no thin line is lost.
    painted = np.where(inputs.mask > MASK_THRESHOLD, 255, 0).astype(np.uint8)
    if not painted.any():
        raise BadMask(f"the mask selects no pixel (accepted: some above {MASK_THRESHOLD})")
    scaled = Image.fromarray(painted).resize(layout.target, Image.Resampling.BOX)
    return normalise(picture), torch.tensor(np.pad(np.asarray(scaled) > 0, room)).float()[None]


def _place(pixels: np.ndarray, size: Size, frame_h: int) -> torch.Tensor:
    """A reference (3, frame_h, w), grey above and below it."""
    reference = normalise(_resize(pixels, size))
    top = (frame_h - size[1]) // 2
    return F.pad(reference, (0, 0, top, frame_h - size[1] - top))


def _resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    if _size(pixels) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _size(pixels: np.ndarray) -> Size:
    return pixels.shape[1], pixels.shape[0]


def _whole_tokens(px: int) -> int:
    return -(-px // TOKEN_PX) * TOKEN_PX
