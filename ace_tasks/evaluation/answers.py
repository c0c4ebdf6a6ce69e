"""What a model makes of an example: resolved as a catalog's row is, and made by the same code.

Measured is the model alone, before anything is pasted back into the picture: what it does outside
a mask counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ace_tasks.model.ace import AceModel
from ace_tasks.training.preview import answer_to, example_edit
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
    return answer_to(example_edit(example, seed, model.identity), model, between_steps)
