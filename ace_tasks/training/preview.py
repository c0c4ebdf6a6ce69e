"""What a model makes of an example of the world."""

from __future__ import annotations

import sys

import numpy as np

from ace_tasks import lcu
from ace_tasks.model.ace import AceModel, Job
from ace_tasks.training.tasks import Example


def preview(
    model: AceModel,
    example: Example,
    *,
    seed: int = 0,
    steps: int | None = None,
    adapter: str | None = None,
) -> np.ndarray:
    """The model's answer, uint8 (H, W, 3), of the target's size. `steps` None: the variant's;
    `adapter` None: the plain weights.
    """
    variant = model.variant
    unit, geometry = canvas(example, use_change=variant.route == "fft")
    steps = steps or variant.steps
    job = Job(unit, example.prompt, seed, steps, variant.guidance, adapter)
    (picture,) = model.generate([job])
    return lcu.restore(picture, geometry)


def canvas(example: Example, *, use_change: bool) -> tuple[lcu.LCU, lcu.Geometry]:
    """The model's input for an example: at its own size, whatever the variant's budget."""
    height, width = example.target.shape[:2]
    return lcu.build(
        lcu.Inputs(
            image=example.image,
            mask=example.mask,
            references=example.references,
            width=width,
            height=height,
            max_seq_len=sys.maxsize,
            repainting_scale=example.scale(use_change),
            keep_pixels_rate=None,  # references at the target's full height
            use_change=use_change,
        )
    )
