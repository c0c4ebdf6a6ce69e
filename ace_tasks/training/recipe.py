"""A training from nothing to a variant, as data and as four stages in a work folder:

    vae        → work/vae/               diffusers' folder
    encode     → work/latents/           chunks
    denoise    → work/denoiser.pt        checkpoint, with the average that is kept
    export     → a variant's folder      half precision, variant.json, sha256.json

Every stage goes on from what is there. Settings and seeds stand in a committed file beside this
one; the exported `training.json` says settings, code version, and what the data were drawn from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from ace_tasks import __version__
from ace_tasks.errors import SettingsError
from ace_tasks.model import sources
from ace_tasks.model.variants import Transformer, Variant
from ace_tasks.training import latents, objective, vae
from ace_tasks.training.grammar import VOCABULARY
from ace_tasks.training.latents import DataSettings
from ace_tasks.training.loop import Loop, LoopSettings, OnLog
from ace_tasks.training.objective import Batches, ObjectiveSettings
from ace_tasks.training.sample import GUIDANCE
from ace_tasks.training.small import SmallSettings, Trained
from ace_tasks.training.vae import Pictures, VaeSettings

Until = Callable[[], bool]


class Recipe(BaseModel):
    """Everything that decides a trained model, photographs and library versions aside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    vae: VaeSettings = VaeSettings()
    small: SmallSettings = SmallSettings()
    data: DataSettings = DataSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    loop: LoopSettings = LoopSettings(steps=100_000, lr=1e-3)
    sampling_steps: int = 8

    @classmethod
    def read(cls, name: str) -> Recipe:
        """A committed recipe by name, or a file. Raises SettingsError."""
        path = Path(name) if name.endswith(".json") else Path(__file__).with_name(f"{name}.json")
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise SettingsError(f"recipe {name!r}: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise SettingsError(f"recipe {name!r}: {where}: {first['msg']}") from None


def never() -> bool:
    return False


# ---------------------------------------------------------------- the stages


def train_vae(
    recipe: Recipe, work: Path, photos: list[np.ndarray], on_log: OnLog, until: Until = never
) -> bool:
    """True when it is done; False when it was told to stop before."""
    settings = recipe.vae
    model = vae.make(settings)
    pictures = Pictures(settings, photos)
    loop = Loop(model, settings.loop, work / "vae.pt")
    loop.resume()

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        return vae.loss(model, pictures.batch(step), generator, settings)

    loop.run(loss, on_log, until)
    if loop.step < settings.loop.steps:
        return False
    model.load_state_dict(_average(loop))
    vae.settle(model.eval(), settings).save_pretrained(work / "vae")
    return True


def encode(recipe: Recipe, work: Path, processes: int = 1) -> Path:
    """All chunks of latents. One process a core: each works on one thread."""
    folder = work / "latents"
    with ProcessPoolExecutor(processes) as pool:
        numbers = range(latents.chunks(recipe.data))
        jobs = [pool.submit(_encode_chunk, recipe, work, folder, number) for number in numbers]
        for job in jobs:
            job.result()
    return folder


def _encode_chunk(recipe: Recipe, work: Path, folder: Path, number: int) -> None:
    torch.set_num_threads(1)
    model = AutoencoderKL.from_pretrained(work / "vae", local_files_only=True).eval()
    words = Trained(recipe.small, VOCABULARY)
    latents.make_chunk(folder, number, recipe.data, model, words)


def train_denoiser(
    recipe: Recipe, work: Path, on_log: OnLog, until: Until = never,
    *, rank: int = 0, workers: int = 1, wrap: Callable[[nn.Module], nn.Module] = lambda m: m,
) -> bool:  # fmt: skip
    """Both stages of the paper's training. `wrap` makes it one of several workers' (DDP)."""
    model = Trained(recipe.small, VOCABULARY)
    shapes = latents.load(work / "latents", recipe.data)
    batches = Batches(shapes, recipe.objective, recipe.loop.steps, rank, workers)
    loop = Loop(model, recipe.loop, work / "denoiser.pt", main=rank == 0)
    loop.resume()
    wrapped = wrap(model)

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return objective.loss(wrapped, *batches.take(step), recipe.objective)

    loop.run(loss, on_log, until)
    return loop.step >= recipe.loop.steps


def export(recipe: Recipe, work: Path, folder: Path) -> Variant:
    """The averaged weights as a variant's folder, in half precision."""
    model = Trained(recipe.small, VOCABULARY)
    loop = Loop(model, recipe.loop, work / "denoiser.pt")
    loop.resume()
    model.load_state_dict(_average(loop))
    half = torch.bfloat16
    model.transformer.to(half).save_pretrained(folder / "transformer")
    model.clip.to(half).save_pretrained(folder / "text_encoder")
    model.t5.to(half).save_pretrained(folder / "text_encoder_2")
    model.clip_tokenizer.save_pretrained(folder / "tokenizer")
    model.t5_tokenizer.save_pretrained(folder / "tokenizer_2")
    small_vae = AutoencoderKL.from_pretrained(work / "vae", local_files_only=True)
    small_vae.to(half).save_pretrained(folder / "vae")
    variant = _variant(recipe, model)
    definition = variant.model_dump_json(indent=1, exclude_none=True, exclude_defaults=True)
    (folder / sources.DEFINITION).write_text(definition)
    (folder / "training.json").write_text(json.dumps(_story(recipe, loop), indent=1))
    (folder / sources.MANIFEST).write_text(json.dumps(sources.hash_folder(folder), indent=1))
    return variant


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


def _story(recipe: Recipe, loop: Loop) -> dict[str, object]:
    return {
        "recipe": recipe.model_dump(mode="json"),
        "steps_done": loop.step,
        "code_version": __version__,
        "torch": torch.__version__,
        "exported_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _average(loop: Loop) -> dict[str, torch.Tensor]:
    """The averaged weights under the model's own names."""
    prefix = "module."
    state = loop.averaged.state_dict()
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
