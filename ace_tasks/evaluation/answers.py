"""What a model makes of an example: resolved as a catalog's row is, and made by the same code.

Measured is the model alone, before anything is pasted back into the picture: what it does outside
a mask counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ace_tasks.lcu.policies import restore_target
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.specs import ModelIdentity, Resolved, Source, Sources, parse_spec, resolve
from ace_tasks.training.preview import canvas
from ace_tasks.training.world.world_tasks import Example


def answer(
    model: AceModel,
    example: Example,
    seed: int,
    between_steps: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """The model's picture, uint8 (H, W, 3), of the target's size. `seed` is the noise's.

    `between_steps` may raise to stop early. Raises BadOutput.
    """
    assert model.identity is not None, "a model loaded from files"
    row = resolved(example, seed, model.identity)
    unit, geometry = canvas(example, use_change=model.variant.route == "fft")
    job = ModelJob(unit, row.prompt, row.seed, row.steps, row.guidance, row.adapter)
    (picture,) = model.generate([job], between_steps)
    return restore_target(picture, geometry)


def resolved(example: Example, seed: int, model: ModelIdentity) -> Resolved:
    """An example's settings as a catalog's row with its prompt has them: steps, adapter, erasing."""
    image = None if example.image is None else Source(uri="s3://world/image.png")
    mask = None if example.mask is None else Source(uri="s3://world/mask.png")
    references = [Source(uri="s3://world/reference.png") for _ in example.references]
    row = {
        "id": example.task,
        "task": example.spec,
        "prompt": example.prompt,
        "seed": seed,
        "image": image and image.uri,
        "mask": mask and mask.uri,
        "reference": [each.uri for each in references] or None,
    }
    sources = Sources(image=image, mask=mask, reference=tuple(references))
    return resolve(parse_spec(row), sources, model)
