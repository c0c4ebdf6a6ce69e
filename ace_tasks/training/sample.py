"""Build one training sample, as upstream's training code does (ACE_SPEC 8, "Code").

It differs from inference: everything is resized with nearest-exact, masks stay grey, one
reference has a random height, and nothing is cropped. The target is a canvas as well, because the
model learns to redraw the reference beside it.

    target canvas = [ reference | target ]      condition = [ reference | image ], mask = [ 0 | m ]

All functions are pure. Legend: C channels, H height, W width; floats are in [-1, 1], masks in
[0, 1].
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ace_tasks.errors import BadMask
from ace_tasks.lcu.canvas import fit_budget, normalise, resize
from ace_tasks.lcu.upstream import place

GUIDANCE = 1.0  # training always uses this value
_WHITE = 255


@dataclass(frozen=True, eq=False)
class TrainingExample:
    """One row of training data. Pictures are uint8 (H, W, 3), the mask is uint8 (H, W)."""

    target: np.ndarray
    image: np.ndarray | None = None  # None: a white picture that is all masked
    mask: np.ndarray | None = None  # of the image's size; None: everything is masked
    reference: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """The canvas to learn and the condition for it, all of one height and width."""

    target_CHW: torch.Tensor
    edit_CHW: torch.Tensor
    change_CHW: torch.Tensor
    mask_1HW: torch.Tensor
    reference_px: int = 0  # width of the reference left of the target; 0 without one


def draw_reference_h(target_h: int, rng: random.Random) -> int:
    """Draw a reference's height uniformly, from a third of the target's height to all of it."""
    return rng.randint(int(target_h / 3), target_h)


def build(
    example: TrainingExample,
    *,
    max_seq_len: int,
    reference_h: int | None,
    repainting_scale: float,
    modify_mode: bool,
) -> Sample:
    """Build the sample of an example.

    `modify_mode` moves the masked content from the edit canvas to the change canvas. A model of
    384 channels has no change canvas and then never sees that content (ACE_SPEC 9.9). Raises
    BadImage and BadMask.
    """
    target = normalise(example.target)
    height, width = target.shape[1:]
    edit, mask = _edit(example)
    edit = edit * (1 - repainting_scale * mask)
    edit = resize(edit, height, width, "nearest-exact")
    mask = resize(mask, height, width, "nearest-exact")
    reference_w = 0
    if example.reference is not None:
        assert reference_h is not None
        reference = normalise(example.reference)
        placed = place(reference, reference_h, height, "nearest-exact")
        target, edit = (torch.cat([placed, each], dim=2) for each in (target, edit))
        reference_w = placed.shape[2]
        mask = F.pad(mask, (reference_w, 0))
    height, width = target.shape[1:]
    canvas_h, canvas_w, _ = fit_budget(height, width, max_seq_len)
    target, edit, mask = (
        resize(each, canvas_h, canvas_w, "nearest-exact") for each in (target, edit, mask)
    )
    reference_px = round(reference_w * canvas_w / width)
    if modify_mode:
        return Sample(target, edit * (1 - mask), edit * mask, mask, reference_px)
    return Sample(target, edit, edit, mask, reference_px)


def noisy(x0: torch.Tensor, eps: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
    """Return the latents at one noise level, where 0 is x0 and 1 is eps."""
    return (1 - sigma) * x0 + sigma * eps


def _edit(example: TrainingExample) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the picture to edit (3, H, W) and its grey mask (1, H, W), before erasing."""
    if example.image is None:
        image, mask = np.full_like(example.target, _WHITE), None
    else:
        image, mask = example.image, example.mask
    if mask is None:
        return normalise(image), torch.ones(1, *image.shape[:2])
    if mask.shape != image.shape[:2]:
        raise BadMask(
            f"accepted: a mask of its picture's size {image.shape[:2]} (height, width); "
            f"given {mask.shape}"
        )
    return normalise(image), torch.tensor(mask).float()[None] / 255
