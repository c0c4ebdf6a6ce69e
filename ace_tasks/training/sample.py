"""One training sample and its loss, as upstream's training code has them (ACE_SPEC 8, "Code").

It differs from inference: everything is resized with nearest-exact, masks stay grey, one
reference takes a random height, no aspect is cropped. The target is a canvas, too: the model
learns to redraw the reference beside it.

    target canvas = [ reference | target ]      condition = [ reference | image ], mask = [ 0 | m ]

Pure functions. Legend: C channels, H height, W width; floats are in [-1, 1], masks in [0, 1].
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ace_tasks.errors import BadMask
from ace_tasks.lcu.canvas import LCU, fit_budget, normalise, resize
from ace_tasks.lcu.upstream import place

GUIDANCE = 1.0  # always, in training
_WHITE = 255


@dataclass(frozen=True, eq=False)
class TrainingExample:
    """One row of training data, uint8: pictures (H, W, 3), mask (H, W)."""

    target: np.ndarray
    image: np.ndarray | None = None  # white, all of it to be painted, where there is none
    mask: np.ndarray | None = None  # of the image's size; all of it where there is none
    reference: np.ndarray | None = None

    @property
    def repainting_scale(self) -> float:
        """Upstream's rule: erase the masked content beside a reference, else halve it."""
        return 0.5 if self.reference is None else 1.0


@dataclass(frozen=True, eq=False)
class Sample:
    """What the model shall make, and what it is given; all of one height and width."""

    target_CHW: torch.Tensor
    edit_CHW: torch.Tensor
    change_CHW: torch.Tensor
    mask_1HW: torch.Tensor
    reference_px: int = 0  # width of what stands left of the target; 0 without a reference

    def condition(self, *, use_change: bool) -> LCU:
        """As the model takes it. Upstream trains with masks in bfloat16."""
        mask = self.mask_1HW.to(torch.bfloat16).float()
        return LCU(self.edit_CHW, mask, self.change_CHW if use_change else None)


def draw_reference_h(target_h: int, rng: random.Random) -> int:
    """The reference's height beside a target: uniform, a third of it up to all of it."""
    return rng.randint(int(target_h / 3), target_h)


def build(
    example: TrainingExample,
    *,
    max_seq_len: int,
    reference_h: int | None,
    repainting_scale: float,
    modify_mode: bool,
) -> Sample:
    """`modify_mode` takes the masked content out of the edit canvas, leaving it to the change.

    On 384 channels, which have no change, the model then never sees that content (ACE_SPEC 9.9).
    Raises BadImage and BadMask.
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
    """Latents at one noise level: x0 at 0, eps at 1."""
    return (1 - sigma) * x0 + sigma * eps


def _edit(example: TrainingExample) -> tuple[torch.Tensor, torch.Tensor]:
    """The picture to edit (3, H, W) and its grey mask (1, H, W), before erasing."""
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
