"""Policy `catalog`: exact. The target comes out in the same place and size as it went in.

The target is scaled to the token budget if necessary, padded to whole tokens (and to an aspect of
4, beyond which no model was trained) and cut out again where it was put. Nothing is cropped.
References stand left of it. Their right edge is on a token's edge, so the seam is exact.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ace_tasks.errors import BadMask
from ace_tasks.images.canvas_size import Layout, Size, lay_out
from ace_tasks.lcu.canvas import LCU, MASK_THRESHOLD, Geometry, Inputs, normalise, split


def build(inputs: Inputs) -> tuple[LCU, Geometry]:
    """Build the canvas and its geometry. Raises BadImage and BadMask."""
    size = (inputs.width, inputs.height) if inputs.image is None else _size(inputs.image)
    layout = lay_out(
        size,
        [_size(each) for each in inputs.references],
        inputs.max_seq_len,
        inputs.keep_pixels_rate,
    )
    frame, mask = _frame(inputs, layout)
    edit = frame * (1 - mask * inputs.repainting_scale)
    if inputs.references:
        placed = [
            _place(pixels, size, layout.frame[1])
            for pixels, size in zip(inputs.references, layout.references, strict=True)
        ]
        beside = torch.cat(placed, dim=2)
        # The first reference's edge is repeated to the left, so that the last one ends at the seam.
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
    return split(edit, mask, use_change=inputs.use_change), geometry


def restore(canvas: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Cut the target out of the decoded canvas, in its own size.

    If it was not scaled, the pixels are the same.
    """
    assert geometry.target is not None
    left, top, right, bottom = geometry.target
    return _resize(canvas[top:bottom, left:right], (geometry.out_w, geometry.out_h))


def _frame(inputs: Inputs, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the target in its padding (3, H, W), and the part of it to paint (1, H, W)."""
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
    # When scaled down, a pixel is painted if any part of it is, so that no thin line is lost.
    painted = np.where(inputs.mask > MASK_THRESHOLD, 255, 0).astype(np.uint8)
    if not painted.any():
        raise BadMask(f"the mask selects no pixel (accepted: some above {MASK_THRESHOLD})")
    scaled = Image.fromarray(painted).resize(layout.target, Image.Resampling.BOX)
    return normalise(picture), torch.tensor(np.pad(np.asarray(scaled) > 0, room)).float()[None]


def _place(pixels: np.ndarray, size: Size, frame_h: int) -> torch.Tensor:
    """Return a reference (3, frame_h, w), with grey above and below it."""
    reference = normalise(_resize(pixels, size))
    top = (frame_h - size[1]) // 2
    return F.pad(reference, (0, 0, top, frame_h - size[1] - top))


def _resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    if _size(pixels) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _size(pixels: np.ndarray) -> Size:
    return pixels.shape[1], pixels.shape[0]
