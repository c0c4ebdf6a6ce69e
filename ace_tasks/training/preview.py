"""What a model makes of an example of the world."""

from __future__ import annotations

import sys

import numpy as np

from ace_tasks.lcu.canvas import LCU, Geometry, Inputs
from ace_tasks.lcu.policies import build_canvas, restore_target
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.training.world.world_tasks import Example


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
    job = ModelJob(unit, example.prompt, seed, steps, variant.guidance, adapter)
    (picture,) = model.generate([job])
    return restore_target(picture, geometry)


def canvas(example: Example, *, use_change: bool) -> tuple[LCU, Geometry]:
    """The model's input for an example: at its own size, whatever the variant's budget."""
    height, width = example.target.shape[:2]
    return build_canvas(
        Inputs(
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
