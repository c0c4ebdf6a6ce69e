"""Write a trained model as a variant's folder, with the same bytes each time.

    full training    the transformer, and text encoders that were trained, in bfloat16, which
                     autocast trained with; all else is copied from the variant it started from
    a LoRA           all files of the variant it started from, and adapters/NAME.safetensors

`training.json` holds what a person needs to make these weights again. It holds no time and no path
of this machine, so that a repeated training writes the same file.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import save_file
from transformers.utils import logging as transformers_logging

from ace_tasks import __version__
from ace_tasks.errors import SettingsError
from ace_tasks.model import places, sources
from ace_tasks.model.variants import Variant, adapter_file
from ace_tasks.training import rows
from ace_tasks.training.loop import Loop, saved_step
from ace_tasks.training.lora import Lora
from ace_tasks.training.recipe import Recipe, describe
from ace_tasks.training.rows import CatalogData
from ace_tasks.training.small import Tokenizers, Trained
from ace_tasks.training.stages import (
    CHECKPOINT,
    LATENTS,
    PHOTOS,
    VAE,
    average,
    load_vae,
    make_model,
)
from ace_tasks.training.start import STORY, Start
from ace_tasks.training.world.grammar import VOCABULARY

_HALF = torch.bfloat16
_OWN = (sources.DEFINITION, places.MANIFEST, STORY)  # files that are not copied but written anew
_TOKENIZERS = ("tokenizer", "tokenizer_2")
_ENCODERS = ("text_encoder", "text_encoder_2")


def export(recipe: Recipe, work: Path, folder: Path) -> Variant:
    """Write the averaged weights as a variant's folder.

    Raises SettingsError if nothing is trained yet, and WeightsError if the variant that it started
    from has changed.
    """
    step = saved_step(work / CHECKPOINT)
    if not step:
        raise SettingsError(f"recipe {recipe.name!r}: nothing is trained yet")
    for chatter in (diffusers_logging, transformers_logging):
        chatter.disable_progress_bar()
        chatter.set_verbosity_error()
    start = Start.read(work) if recipe.start_from else None
    model, learns = make_model(recipe, work)
    loop = Loop(learns, recipe.loop, work / CHECKPOINT)
    loop.resume()
    learns.load_state_dict(average(loop))
    coming = folder.with_name(f"{folder.name}.coming")
    shutil.rmtree(coming, ignore_errors=True)
    if isinstance(learns, Lora):
        assert start
        _save_lora(learns, start, coming)
    else:
        _save_parts(model, recipe, start, work, coming)
    variant = describe(recipe, start, model.transformer)
    definition = variant.model_dump_json(indent=1, exclude_none=True, exclude_defaults=True)
    (coming / sources.DEFINITION).write_text(definition)
    identity = variant.identity(places.hash_folder(coming))
    story = _story(recipe, work, start, step)
    story |= {"base": identity.base, "encoders": identity.encoders}
    (coming / STORY).write_text(json.dumps(story, indent=1))
    (coming / places.MANIFEST).write_text(json.dumps(places.hash_folder(coming), indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    coming.rename(folder)
    return variant


def _save_parts(
    model: Trained, recipe: Recipe, start: Start | None, work: Path, folder: Path
) -> None:
    model.transformer.to(_HALF).save_pretrained(folder / "transformer")
    if model.clip is not None and model.t5 is not None:
        model.clip.to(_HALF).save_pretrained(folder / "text_encoder")
        model.t5.to(_HALF).save_pretrained(folder / "text_encoder_2")
    if start is None:
        tokenizers = Tokenizers.make(recipe.small, VOCABULARY)
        tokenizers.clip.save_pretrained(folder / "tokenizer")
        tokenizers.t5.save_pretrained(folder / "tokenizer_2")
        load_vae(work).to(_HALF).save_pretrained(folder / "vae")
        return
    kept = (*_TOKENIZERS, "vae", *(_ENCODERS if model.t5 is None else ()))
    for name in kept:
        shutil.copytree(start.files / name, folder / name)


def _save_lora(lora: Lora, start: Start, folder: Path) -> None:
    def own(place: str, names: list[str]) -> set[str]:
        hidden = {name for name in names if name.startswith(".")}
        return hidden | (set(_OWN) if Path(place) == start.files else set())

    shutil.copytree(start.files, folder, ignore=own)
    path = folder / adapter_file(lora.settings.name)
    path.parent.mkdir(exist_ok=True)
    save_file(lora.to_comfy(getattr(torch, start.variant.dtype)), path)


def _story(recipe: Recipe, work: Path, start: Start | None, step: int) -> dict[str, Any]:
    photos = work / VAE / PHOTOS
    story = {
        "recipe": _without_places(recipe),
        "recipe_fingerprint": recipe.fingerprint,
        "steps_done": step,
        "photos_sha256": json.loads(photos.read_text()) if photos.exists() else None,
        "learn_text": start is None or bool(start.learn_text),
        "code_version": __version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
    if start:
        origin = {"variant": start.variant.name, "base": start.base, "encoders": start.encoders}
        story["started_from"] = origin
    if recipe.lora:
        story["peft"] = peft.__version__
    if isinstance(recipe.data, CatalogData):
        story["catalog"] = rows.planned(work / LATENTS).model_dump()
    return story


def _without_places(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's content without local paths, of which only the last name is kept."""
    content = recipe.model_dump(mode="json")

    def public(place: str | None) -> str | None:
        return place if not place or "://" in place else Path(place).name

    content["start_from"] = public(recipe.start_from)
    if isinstance(recipe.data, CatalogData):
        content["data"]["catalog"] = public(recipe.data.catalog)
    return content
