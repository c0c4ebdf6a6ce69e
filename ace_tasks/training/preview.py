"""What a model makes of an example of the world: its canvas is built as in training.

Upstream's geometry for inference cuts 30 px right of the seam, so a score would see a stretched
picture. Pictures of the world are whole tokens wide: here the seam is exact, and the target whole.
"""

from __future__ import annotations

import sys

import numpy as np

from ace_tasks import lcu
from ace_tasks.model.ace import AceModel, Job
from ace_tasks.training.tasks import Example


def preview(
    model: AceModel, example: Example, *, seed: int = 0, steps: int | None = None
) -> np.ndarray:
    """The model's answer, uint8 (H, W, 3), of the target's size. `steps` None: the variant's."""
    unit, seam_px = canvas(example, use_change=model.variant.route == "fft")
    variant = model.variant
    job = Job(unit, example.prompt, seed, steps or variant.steps, variant.guidance)
    (picture,) = model.generate([job])
    return picture[:, seam_px:]


def canvas(example: Example, *, use_change: bool) -> tuple[lcu.LCU, int]:
    """The model's input for an example, and the width of what stands left of its target, px."""
    height, width = example.target.shape[:2]
    unit, geometry = lcu.build(
        lcu.Inputs(
            image=example.image,
            mask=example.mask,
            references=example.references,
            width=width,
            height=height,
            max_seq_len=sys.maxsize,  # as large as it is: nothing is scaled
            repainting_scale=example.repainting_scale,
            keep_pixels_rate=None,  # references at the target's full height
            use_change=use_change,
        )
    )
    assert geometry.canvas_w == geometry.slice_w + width, "whole tokens"
    return unit, geometry.slice_w
