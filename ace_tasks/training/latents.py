"""The training set as latents: drawn and encoded once, kept in chunks, read many times.

A chunk is a function of the settings and its number, so several processes can make them and a cut
one goes on where it was. Shapes are a picture alone, or with a reference left of it, whose width
is drawn in whole tokens; for each size of picture.

Legend: B batch, C channels, H W latent height and width, T text tokens, N image tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from diffusers import AutoencoderKL
from pydantic import BaseModel, ConfigDict, Field

from ace_tasks.model import sampling
from ace_tasks.training import sample
from ace_tasks.training.small import Trained
from ace_tasks.training.tasks import ALL_TASKS, STAGE_1_TASKS, Example, draw_example

_TOKEN_PX = 16


# Whole tokens, and more than upstream cuts at the seam.
SizePx = Annotated[int, Field(ge=32, multiple_of=_TOKEN_PX)]


class DataSettings(BaseModel):
    """What is drawn. `full_references`: the share shown at the target's full height."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # In turn; the smaller teaches as much for a quarter.
    sizes_px: tuple[SizePx, ...] = Field((64, 128), min_length=1)
    examples: int = Field(20_000, ge=1)
    chunk: int = Field(256, ge=1, description="Examples in a file.")
    full_references: float = Field(0.7, ge=0, le=1)
    empty_prompts: float = Field(0.1, ge=0, le=1)  # the paper's unconditional share
    seed: int = 3


@dataclass(frozen=True, eq=False)
class Latents:
    """Encoded examples of one shape, as arrays with the example first."""

    target_BCHW: np.ndarray  # float16, 16 channels
    edit_BCHW: np.ndarray
    change_BCHW: np.ndarray
    mask_BCHW: np.ndarray  # uint8, 64 channels, 0 or 1
    t5_BT: np.ndarray  # int16
    clip_BT: np.ndarray
    stage_1_B: np.ndarray  # bool: of a task of the first stage

    def __len__(self) -> int:
        return len(self.target_BCHW)

    @property
    def reference_w(self) -> int:
        """Latent columns of the reference: the canvas is as high as the target is wide."""
        height, width = self.target_BCHW.shape[2:]
        return int(width - height)

    @property
    def shape(self) -> str:
        return "x".join(f"{each:03}" for each in self.target_BCHW.shape[2:])

    def take(self, index: np.ndarray) -> Latents:
        return Latents(*(getattr(self, each.name)[index] for each in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[Latents]) -> Latents:
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


@torch.inference_mode()
def encode(
    example: Example, number: int, settings: DataSettings, vae: AutoencoderKL, words: Trained
) -> Latents:
    """One example, by upstream's rules for samples; B = 1."""
    rng = np.random.default_rng([settings.seed, number, 1])
    height = len(example.target)
    full = rng.random() < settings.full_references
    sampled = sample.build(
        example.row(),
        max_seq_len=4 * (height // _TOKEN_PX) ** 2,
        # A whole number of tokens wide: the seam stays where it is.
        reference_h=height if full else _TOKEN_PX * int(rng.integers(height // 32, height // 16)),
        repainting_scale=example.repainting_scale,
        modify_mode=True,
    )
    pictures = torch.stack([sampled.target_CHW, sampled.edit_CHW, sampled.change_CHW])
    posterior = vae.encode(pictures).latent_dist
    eps = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(number))
    z = (posterior.mean + posterior.std * eps - vae.config.shift_factor) * vae.config.scaling_factor
    prompt = "" if rng.random() < settings.empty_prompts else example.prompt
    t5, clip = words.tokens([prompt])
    half = z.to(torch.float16).numpy()
    mask = sampling.mask_latents(sampled.mask_1HW[None]).round().to(torch.uint8).numpy()
    return Latents(
        half[:1], half[1:2], half[2:], mask, t5.numpy().astype(np.int16),
        clip.numpy().astype(np.int16), np.array([example.task in STAGE_1_TASKS]),
    )  # fmt: skip


def encode_nothing(words: Trained) -> Latents:
    """An example of the smallest shape, all zeros: to try a model with."""
    t5, clip = words.tokens([""])
    latent = np.zeros((1, 16, 2, 2), np.float16)
    mask = np.zeros((1, 64, 2, 2), np.uint8)
    return Latents(
        latent, latent, latent, mask, t5.numpy(), clip.numpy(), np.ones(1, bool)
    )  # fmt: skip


def make_chunk(
    folder: Path, chunk: int, settings: DataSettings, vae: AutoencoderKL, words: Trained
) -> None:
    """Write one chunk: whole or not at all."""
    size = settings.chunk
    numbers = range(chunk * size, min(settings.examples, (chunk + 1) * size))
    groups: dict[str, list[Latents]] = {}
    for number in numbers:
        size_px = settings.sizes_px[number % len(settings.sizes_px)]
        example = draw_example(settings.seed, number, size_px, tasks=ALL_TASKS)
        found = encode(example, number, settings, vae, words)
        groups.setdefault(found.shape, []).append(found)
    arrays = {
        f"{shape}:{field.name}": getattr(Latents.join(group), field.name)
        for shape, group in groups.items()
        for field in fields(Latents)
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = chunk_path(folder, chunk)
    coming = folder / f"{path.name}.{os.getpid()}"  # another may make the same one
    with coming.open("wb") as file:
        np.savez(file, **arrays)
    coming.rename(path)


def chunks(settings: DataSettings) -> int:
    return -(-settings.examples // settings.chunk)


def chunk_path(folder: Path, chunk: int) -> Path:
    return folder / f"chunk-{chunk:05}.npz"


def missing(folder: Path, settings: DataSettings) -> list[int]:
    """The chunks still to be made."""
    numbers = range(chunks(settings))
    return [number for number in numbers if not chunk_path(folder, number).exists()]


def load(folder: Path, settings: DataSettings) -> list[Latents]:
    """Every shape there is, smallest first."""
    groups: dict[str, list[Latents]] = {}
    for chunk in range(chunks(settings)):
        with np.load(chunk_path(folder, chunk)) as arrays:
            for shape in {key.partition(":")[0] for key in arrays.files}:
                part = Latents(*(arrays[f"{shape}:{field.name}"] for field in fields(Latents)))
                groups.setdefault(shape, []).append(part)
    return [Latents.join(groups[shape]) for shape in sorted(groups)]
