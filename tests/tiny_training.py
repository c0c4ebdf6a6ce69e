"""A training that is over in seconds, for tests: the real classes at small widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ace_tasks.training.recipe import Recipe

_OFTEN = {"log_every_steps": 1, "checkpoint_every_s": 0, "warmup_steps": 2}
_TINY: dict[str, Any] = {
    "name": "tiny",
    "summary": "For tests.",
    "vae": {
        "widths": [8, 8, 8, 8],
        "groups": 4,
        "sizes_px": [64],
        "crop_px": 16,
        "batch": 4,
        "pool": 8,
        "loop": {"steps": 6, "lr": 1.5e-3} | _OFTEN,
    },
    "small": {
        "blocks": 1,
        "single_blocks": 1,
        "heads": 1,
        "head_dim": 16,
        "rope_axes": [4, 6, 6],
        "text_dim": 32,
        "text_layers": 1,
        "pooled_dim": 32,
    },
    "data": {"sizes_px": [64], "examples": 40, "chunk": 16},
    "objective": {"batch": 4},
    "loop": {"steps": 10, "lr": 1e-3} | _OFTEN,
    "sampling_steps": 2,
}


def tiny_recipe(vae_steps: int = 6, steps: int = 10, **changes: Any) -> Recipe:
    content = json.loads(json.dumps(_TINY | changes))
    content["vae"]["loop"]["steps"] = vae_steps
    content["loop"]["steps"] = steps
    return Recipe.model_validate(content)


def write_recipe(path: Path, recipe: Recipe) -> Path:
    path.write_text(recipe.model_dump_json())
    return path
