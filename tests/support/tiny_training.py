"""A training that is over in seconds, for tests: the real classes at small widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ace_tasks.model.ace import AceModel
from ace_tasks.model.adapters import Mode
from ace_tasks.model.sources import open_variant
from ace_tasks.settings import WeightsSettings
from ace_tasks.training import latents
from ace_tasks.training.export import export
from ace_tasks.training.recipe import Recipe, open_start
from ace_tasks.training.stages import LATENTS, encode_chunk, train_denoiser, train_vae
from ace_tasks.training.start import Start

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


def go_on_from(place: Path | str, steps: int = 10, **changes: Any) -> Recipe:
    """A recipe that starts from a variant."""
    known = {k: v for k, v in _TINY.items() if k not in {"vae", "small", "sampling_steps"}}
    content = json.loads(json.dumps(known | {"start_from": str(place)} | changes))
    content["loop"]["steps"] = steps
    return Recipe.model_validate(content)


def quiet(step: int, numbers: dict[str, float]) -> None:
    pass


def encode_all(recipe: Recipe, work: Path) -> None:
    for number in latents.missing(work / LATENTS, recipe.data):
        encode_chunk(recipe, work, number)


def train_from_nothing(recipe: Recipe, work: Path) -> Path:
    """Train all stages. Return the variant's folder."""
    assert train_vae(recipe, work, [], quiet)
    encode_all(recipe, work)
    assert train_denoiser(recipe, work, quiet)
    export(recipe, work, work / "variant")
    return work / "variant"


def begin(recipe: Recipe, work: Path) -> Start:
    """Do what the flow does first with a recipe that starts from a variant."""
    settings = WeightsSettings(folder=work / "weights")
    start = open_start(recipe, settings)
    assert start
    return start.begin(work, settings)


def go_on(recipe: Recipe, work: Path) -> Path:
    """Train all stages, starting from a variant. Return the new variant's folder."""
    begin(recipe, work)
    encode_all(recipe, work)
    assert train_denoiser(recipe, work, quiet)
    export(recipe, work, work / "variant")
    return work / "variant"


def load_variant(folder: Path, mode: Mode = "resident") -> AceModel:
    settings = WeightsSettings(folder=folder.parent)
    return AceModel.load(open_variant(str(folder), settings), settings, "cpu", adapter_mode=mode)
