"""A training from nothing to a variant, as data and as four stages in a work folder:

    vae        → work/vae/               diffusers' folder
    encode     → work/latents/           chunks
    denoise    → work/denoiser.pt        checkpoint, with the average that is kept
    export     → a variant's folder      half precision, variant.json, sha256.json

Every stage goes on from what is there. Settings and seeds stand in a committed file beside this
one; the exported `training.json` says settings, code version, and what the data were drawn from.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL
from diffusers.utils import logging as diffusers_logging
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn
from transformers.utils import logging as transformers_logging

from ace_tasks import __version__
from ace_tasks.errors import AceError, SettingsError
from ace_tasks.model import sources
from ace_tasks.model.variants import Transformer, Variant
from ace_tasks.specs import canonical_json
from ace_tasks.training import latents, objective, vae
from ace_tasks.training.grammar import VOCABULARY
from ace_tasks.training.latents import DataSettings
from ace_tasks.training.loop import Loop, LoopSettings, OnLog, Share, saved_step
from ace_tasks.training.objective import Batches, ObjectiveSettings
from ace_tasks.training.sample import GUIDANCE
from ace_tasks.training.small import SmallSettings, Trained
from ace_tasks.training.vae import Pictures, VaeSettings

Until = Callable[[], bool]

VAE, VAE_CHECKPOINT = "vae", "vae.pt"
LATENTS = "latents"
CHECKPOINT = "denoiser.pt"
STORY = "training.json"
_PHOTOS = "photos.json"  # beside the VAE: what it saw
# How often is written down decides no weight.
_LOOP_WORDS = {"checkpoint_every_s": True, "log_every_steps": True}


class Recipe(BaseModel):
    """Everything that decides a trained model, photographs and library versions aside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    summary: str
    vae: VaeSettings = VaeSettings()
    vae_from: str | None = Field(
        None,
        pattern=r"^[a-z0-9-]+$",
        description="A folder beside this file with the VAE as `vae` made it; it is not made again.",
    )
    small: SmallSettings = SmallSettings()
    data: DataSettings = DataSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    loop: LoopSettings = LoopSettings(steps=100_000, lr=1e-3)
    sampling_steps: int = Field(8, ge=1)

    @classmethod
    def read(cls, name: str) -> Recipe:
        """A committed recipe by name, or a file. Raises SettingsError."""
        path = Path(name) if name.endswith(".json") else Path(__file__).with_name(f"{name}.json")
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            committed = ", ".join(sorted(each.stem for each in path.parent.glob("*.json")))
            hint = "" if name.endswith(".json") else f"; accepted: {committed}, or a file of .json"
            raise SettingsError(f"recipe {name!r}: {error.strerror}{hint}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise SettingsError(f"recipe {name!r}: {where}: {first['msg']}") from None

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the weights; names and words do not."""
        words: Any = {"name": True, "summary": True, "sampling_steps": True}
        words |= {"loop": _LOOP_WORDS, "vae": {"loop": _LOOP_WORDS}}
        content = self.model_dump(mode="json", exclude=words)
        return hashlib.sha256(canonical_json(content)).hexdigest()


def never() -> bool:
    return False


def alone(model: nn.Module) -> nn.Module:
    return model


@dataclass(frozen=True)
class Worker:
    """One of several processes that train one model; the only one unless told."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"
    wrap: Callable[[nn.Module], nn.Module] = alone  # makes it one of several workers' (DDP)
    share: Share = lambda state: state


def check(recipe: Recipe, workers: int = 1) -> None:
    """Build and try every part once, so that what cannot be is known before hours of work.

    Raises SettingsError.
    """
    side = recipe.vae.crop_px
    try:
        recipe.objective.share(workers)
        model = Trained(recipe.small, VOCABULARY)
        _variant(recipe, model)
        with torch.inference_mode():
            vae.make(recipe.vae)(torch.zeros(1, 3, side, side))
            nothing = latents.encode_nothing(model)
            noise, sigma = torch.zeros(nothing.target_BCHW.shape), torch.ones(1)
            objective.loss(model, nothing, noise, sigma, recipe.objective)
    except AceError as error:
        raise SettingsError(f"recipe {recipe.name!r}: {error}") from None
    except Exception as error:  # whatever a wrong number meets on its way
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SettingsError(f"recipe {recipe.name!r}: makes no model: {line}") from None


# ---------------------------------------------------------------- the stages


def train_vae(
    recipe: Recipe, work: Path, photos: list[np.ndarray], on_log: OnLog, until: Until = never,
    *, device: str = "cpu",
) -> bool:  # fmt: skip
    """True when it is done; False when it was told to stop before."""
    settings = recipe.vae
    model = vae.make(settings).to(device)
    pictures = Pictures(settings, photos)
    loop = Loop(model, settings.loop, work / VAE_CHECKPOINT)
    loop.resume()

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        return vae.loss(model, pictures.batch(step).to(device), generator, settings)

    loop.run(loss, on_log, until)
    if loop.step < settings.loop.steps:
        return False
    model.load_state_dict(_average(loop))
    coming = work / f"{VAE}.coming"
    shutil.rmtree(coming, ignore_errors=True)
    vae.settle(model.eval(), settings).save_pretrained(coming)
    seen = [hashlib.sha256(photo.tobytes()).hexdigest() for photo in photos]
    (coming / _PHOTOS).write_text(json.dumps(seen, indent=1))
    coming.rename(work / VAE)
    return True


def take_vae(recipe: Recipe, work: Path) -> bool:
    """Put the VAE that the recipe comes with into the work folder; False if it has none."""
    if recipe.vae_from is None:
        return False
    coming = work / f"{VAE}.coming"
    shutil.rmtree(coming, ignore_errors=True)
    shutil.copytree(Path(__file__).with_name(recipe.vae_from), coming)
    coming.rename(work / VAE)
    return True


def encode_chunk(recipe: Recipe, work: Path, number: int) -> None:
    """One chunk of latents; on one thread, so that it is the same whoever makes it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        words = Trained(recipe.small, VOCABULARY)
        latents.make_chunk(work / LATENTS, number, recipe.data, load_vae(work), words)
    finally:
        torch.set_num_threads(threads)


def load_vae(work: Path) -> AutoencoderKL:
    model = AutoencoderKL.from_pretrained(work / VAE, local_files_only=True).eval()
    model.register_to_config(_name_or_path="")  # where it lies is nobody's business after export
    return model


def train_denoiser(
    recipe: Recipe, work: Path, on_log: OnLog, until: Until = never, worker: Worker = Worker()
) -> bool:
    """Both stages of the paper's training; True when it is done."""
    model = Trained(recipe.small, VOCABULARY).to(worker.device)
    shapes = latents.load(work / LATENTS, recipe.data)
    batches = Batches(shapes, recipe.objective, recipe.loop.steps, worker.rank, worker.count)
    loop = Loop(model, recipe.loop, work / CHECKPOINT, main=worker.rank == 0)
    loop.resume(worker.share)
    wrapped = worker.wrap(model)

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return objective.loss(wrapped, *batches.take(step), recipe.objective, worker.device)

    loop.run(loss, on_log, until)
    return loop.step >= recipe.loop.steps


def export(recipe: Recipe, work: Path, folder: Path) -> Variant:
    """The averaged weights as a variant's folder, in half precision; the same bytes each time.

    Raises SettingsError if nothing is trained yet.
    """
    step = saved_step(work / CHECKPOINT)
    if not step:
        raise SettingsError(f"recipe {recipe.name!r}: nothing is trained yet")
    for chatter in (diffusers_logging, transformers_logging):
        chatter.disable_progress_bar()
        chatter.set_verbosity_error()
    model = Trained(recipe.small, VOCABULARY)
    loop = Loop(model, recipe.loop, work / CHECKPOINT)
    loop.resume()
    model.load_state_dict(_average(loop))
    coming = folder.with_name(f"{folder.name}.coming")
    shutil.rmtree(coming, ignore_errors=True)
    _save_parts(model, load_vae(work), coming)
    variant = _variant(recipe, model)
    definition = variant.model_dump_json(indent=1, exclude_none=True, exclude_defaults=True)
    (coming / sources.DEFINITION).write_text(definition)
    story = _story(recipe, work, step) | _fingerprints(variant, coming)
    (coming / STORY).write_text(json.dumps(story, indent=1))
    (coming / sources.MANIFEST).write_text(json.dumps(sources.hash_folder(coming), indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    coming.rename(folder)
    return variant


def _save_parts(model: Trained, trained_vae: AutoencoderKL, folder: Path) -> None:
    half = torch.bfloat16  # what autocast trained with
    model.transformer.to(half).save_pretrained(folder / "transformer")
    model.clip.to(half).save_pretrained(folder / "text_encoder")
    model.t5.to(half).save_pretrained(folder / "text_encoder_2")
    model.clip_tokenizer.save_pretrained(folder / "tokenizer")
    model.t5_tokenizer.save_pretrained(folder / "tokenizer_2")
    trained_vae.to(half).save_pretrained(folder / "vae")


def _variant(recipe: Recipe, model: Trained) -> Variant:
    side = max(recipe.data.sizes_px)
    return Variant(
        name=recipe.name,
        summary=recipe.summary,
        route="fft",
        transformer=Transformer(
            channels=448, parameters=sum(p.numel() for p in model.transformer.parameters())
        ),
        steps=recipe.sampling_steps,
        guidance=GUIDANCE,
        max_seq_len=2 * (side // 16) ** 2,
        text_tokens=recipe.small.text_tokens,
        width_px=side,
        height_px=side,
        dtype="float32",
    )


def _story(recipe: Recipe, work: Path, step: int) -> dict[str, Any]:
    """What a person needs to make these weights again; no clock, so that they are equal then."""
    photos = work / VAE / _PHOTOS
    return {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_fingerprint": recipe.fingerprint,
        "steps_done": step,
        "photos_sha256": json.loads(photos.read_text()) if photos.exists() else None,
        "code_version": __version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def _fingerprints(variant: Variant, folder: Path) -> dict[str, str]:
    identity = variant.identity(sources.hash_folder(folder))
    return {"base": identity.base, "encoders": identity.encoders}


def _average(loop: Loop) -> dict[str, torch.Tensor]:
    """The averaged weights under the model's own names."""
    prefix = "module."
    state = loop.averaged.state_dict()
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
