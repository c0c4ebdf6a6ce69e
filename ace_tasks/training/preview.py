"""Run a model on an example of the world, by the code that edits a catalog's rows.

The result is the model's answer alone, without pasting it back into the picture, and in the
example's own size, whatever the variant's budget is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ace_tasks.images.codec import Picture, Pictures
from ace_tasks.model.ace import AceModel
from ace_tasks.replica.edit import PictureEdit
from ace_tasks.specs import (
    MaskRules,
    ModelIdentity,
    PixelSettings,
    Source,
    Sources,
    parse_spec,
    resolve,
)
from ace_tasks.training.world.world_tasks import Example

_FULL_MASKS = PixelSettings(masks=MaskRules(allow_full=True))


def preview(
    model: AceModel, example: Example, *, seed: int = 0, adapter: str | None = None
) -> np.ndarray:
    """Return the model's answer with this adapter, uint8 (H, W, 3), of the target's size.

    Without `adapter`, the plain weights are used. Raises BadOutput.
    """
    edit = example_edit(example, seed, model.identity)
    asked = edit.resolved.model_copy(update={"adapter": adapter})
    return _made_by(model, replace(edit, resolved=asked), lambda: None)


def answer(
    model: AceModel, example: Example, seed: int, between_steps: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Return the model's answer with a row's usual adapter, uint8 (H, W, 3), of the target's size.

    `seed` is for the noise. `between_steps` may raise to stop early. Raises BadOutput.
    """
    return _made_by(model, example_edit(example, seed, model.identity), between_steps)


def _made_by(model: AceModel, edit: PictureEdit, between_steps: Callable[[], None]) -> np.ndarray:
    (canvas,) = model.generate(edit.jobs(), between_steps)
    return edit.finish(canvas).rgb


def example_edit(example: Example, seed: int, model: ModelIdentity) -> PictureEdit:
    """Return the edit of an example, with the steps, adapter and erasing that a row would have."""
    height, width = example.target.shape[:2]
    alone = {
        "paste": None,
        "max_seq_len": sys.maxsize,
        "keep_pixels_rate": None,  # references at the target's full height
        "width": width,
        "height": height,
    }
    spec = parse_spec(_row(example) | {"seed": seed})
    sources = Sources.of(spec, lambda uri: Source(uri=uri))  # they are never fetched
    asked = resolve(spec, sources, model, _FULL_MASKS).model_copy(update=alone)
    return PictureEdit.prepare(asked, _pictures(example), route=model.route)


def _row(example: Example) -> dict[str, object]:
    return {
        "id": example.task,
        "task": example.spec,
        "prompt": example.prompt,
        "image": None if example.image is None else "image.png",
        "mask": None if example.mask is None else "mask.png",
        "reference": ["reference.png"] * len(example.references) or None,
    }


def _pictures(example: Example) -> Pictures:
    return Pictures(
        image=None if example.image is None else _picture(example.image),
        mask=None if example.mask is None else _picture(np.stack([example.mask] * 3, axis=-1)),
        references=tuple(map(_picture, example.references)),
    )


def _picture(rgb: np.ndarray) -> Picture:
    return Picture(rgb, None, "png", None)
