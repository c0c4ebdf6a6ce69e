"""Run a training as stages in a work folder.

    vae        → work/vae/               a diffusers folder, if training from scratch
    begin      → work/start.json         if training starts from a variant (`start`)
    encode     → work/latents/           chunks of the world or of a catalog
    denoise    → work/denoiser.pt        a checkpoint, with the averaged weights
    export     → a variant's folder      (`export`)

Every stage continues from the files that are there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from ace_tasks.model.text import TextEncoder
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from ace_tasks.training import latents, objective, rows, vae
from ace_tasks.training.latents import Encoder
from ace_tasks.training.loop import Loop, OnLog, Share
from ace_tasks.training.lora import Lora
from ace_tasks.training.objective import Batches
from ace_tasks.training.recipe import Recipe, describe
from ace_tasks.training.rows import CatalogData
from ace_tasks.training.small import Tokenizers, Trained
from ace_tasks.training.start import Start
from ace_tasks.training.texts import Texts
from ace_tasks.training.vae import PictureBatches
from ace_tasks.training.world.grammar import VOCABULARY

Until = Callable[[], bool]

VAE, VAE_CHECKPOINT = "vae", "vae.pt"
LATENTS = "latents"
CHECKPOINT = "denoiser.pt"
PHOTOS = "photos.json"  # beside the VAE: hashes of the photographs it was trained on


@dataclass(frozen=True)
class TrainingProcess:
    """One of several processes that train one model, or the only one."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"
    wrap: Callable[[nn.Module], nn.Module] = lambda model: (
        model
    )  # wraps it for training by several workers (DDP)
    share: Share = lambda state: state


def train_vae(
    recipe: Recipe,
    work: Path,
    photos: list[np.ndarray],
    on_log: OnLog,
    until: Until = lambda: False,
    *,
    device: str = "cpu",
) -> bool:
    """Train the VAE. Return True when it is done, False if `until` stopped it before."""
    settings = recipe.vae
    model = vae.make(settings).to(device)
    pictures = PictureBatches(settings, photos)
    loop = Loop(model, settings.loop, work / VAE_CHECKPOINT)
    loop.resume()

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        return vae.loss(model, pictures.batch(step).to(device), generator, settings)

    loop.run(loss, on_log, until)
    if loop.step < settings.loop.steps:
        return False
    model.load_state_dict(average(loop))
    coming = work / f"{VAE}.coming"
    shutil.rmtree(coming, ignore_errors=True)
    vae.settle(model.eval(), settings).save_pretrained(coming)
    seen = [hashlib.sha256(photo.tobytes()).hexdigest() for photo in photos]
    (coming / PHOTOS).write_text(json.dumps(seen, indent=1))
    coming.rename(work / VAE)
    return True


def take_vae(recipe: Recipe, work: Path) -> bool:
    """Copy the VAE that the recipe names into the work folder. Return False if it names none."""
    if recipe.vae_from is None:
        return False
    coming = work / f"{VAE}.coming"
    shutil.rmtree(coming, ignore_errors=True)
    shutil.copytree(Path(__file__).with_name(recipe.vae_from), coming)
    coming.rename(work / VAE)
    return True


def encode_chunk(
    recipe: Recipe,
    work: Path,
    number: int,
    sources: StoreSettings | None = None,
    device: str = "cpu",
) -> None:
    """Make one chunk of latents, on one thread, so that every worker makes the same bytes.

    `sources` is the store of a catalog's pictures. Raises StoreUnavailable and WeightsError.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        folder = work / LATENTS
        encoder = make_encoder(recipe, work, device)
        if isinstance(recipe.data, CatalogData):
            start = Start.read(work) if recipe.start_from else None
            model = describe(recipe, start).model_copy(update={"adapters": {}}).identity()
            rows.make_chunk(
                folder, number, recipe.data, encoder, Store(sources or StoreSettings()), model
            )
        else:
            latents.make_chunk(folder, number, recipe.data, encoder)
    finally:
        torch.set_num_threads(threads)


def make_encoder(recipe: Recipe, work: Path, device: str = "cpu") -> Encoder:
    """Return the encoder that makes latents. It also stores the outputs of frozen text encoders."""
    if not recipe.start_from:
        return Encoder(load_vae(work), Tokenizers.make(recipe.small, VOCABULARY))
    start = Start.read(work)
    parts = start.load(device)
    fft = start.variant.route == "fft"
    tokenizers = Tokenizers(
        parts.clip_tokenizer, parts.t5_tokenizer, start.variant.text_tokens, clean=fft
    )
    if start.learn_text:
        return Encoder(parts.vae, tokenizers, fft)
    texts, speaker = Texts(work / LATENTS), TextEncoder(start.variant, parts, device)

    def keep(prompt: str, t5_T: np.ndarray, clip_T: np.ndarray) -> None:
        if not texts.has(t5_T, clip_T):
            texts.keep(t5_T, clip_T, speaker.encode(prompt))

    return Encoder(parts.vae, tokenizers, fft, keep)


def load_vae(work: Path) -> AutoencoderKL:
    model = AutoencoderKL.from_pretrained(work / VAE, local_files_only=True).eval()
    model.register_to_config(_name_or_path="")  # the export must not contain a local path
    return model


def make_model(recipe: Recipe, work: Path, device: str = "cpu") -> tuple[Trained, nn.Module]:
    """Return the model that a step runs, and the module it trains: the whole model or its LoRA."""
    if not recipe.start_from:
        tokenizers = Tokenizers.make(recipe.small, VOCABULARY)
        model = Trained.make(recipe.small, tokenizers)
        learns: nn.Module = model
    else:
        start = Start.read(work)
        if start.learn_text:
            parts = start.load("cpu", exact=True)
            model = Trained(parts.transformer, parts.clip, parts.t5)
        else:
            exact = recipe.lora is None
            model = Trained(start.load_transformer("cpu", exact=exact))
        model.requires_grad_(recipe.lora is None)
        learns = Lora(model.transformer, recipe.lora) if recipe.lora else model
    if recipe.checkpointing:
        model.transformer.enable_gradient_checkpointing(objective.recompute)
    return model.to(device), learns


def train_denoiser(
    recipe: Recipe,
    work: Path,
    on_log: OnLog,
    until: Until = lambda: False,
    worker: TrainingProcess = TrainingProcess(),
) -> bool:
    """Train both stages of the paper's training. Return True when they are done."""
    model, learns = make_model(recipe, work, worker.device)
    texts = Texts(work / LATENTS) if model.t5 is None else None
    shapes = latents.load(work / LATENTS, recipe.data)
    steps = recipe.loop.steps
    batches = Batches(shapes, recipe.objective, steps, worker.rank, worker.count, texts)
    loop = Loop(learns, recipe.loop, work / CHECKPOINT, main=worker.rank == 0)
    loop.resume(worker.share)
    wrapped = worker.wrap(model)

    def loss(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return objective.loss(wrapped, *batches.take(step), recipe.objective, worker.device)

    loop.run(loss, on_log, until)
    return loop.step >= steps


def average(loop: Loop) -> dict[str, torch.Tensor]:
    """Return the averaged weights under the model's own names."""
    prefix = "module."
    state = loop.averaged.state_dict()
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
