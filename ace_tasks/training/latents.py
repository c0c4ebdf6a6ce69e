"""The training set as latents: drawn and encoded once, stored in chunks, read many times.

A chunk is a function of the settings and its number, so several processes can make chunks, and an
interrupted process can continue. Examples are grouped by shape: height, width, and the seam's
position. The world has few shapes: for each size of picture, a picture alone, or one with a
reference left of it, whose width is drawn in whole tokens.

Legend: B batch, C channels, H W latent height and width, T text tokens, N image tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL
from pydantic import Field, field_validator

from ace_tasks.model import sampling
from ace_tasks.specs import Frozen
from ace_tasks.training import sample
from ace_tasks.training.small import Tokenizers
from ace_tasks.training.world.world_tasks import (
    ALL_TASKS,
    STAGE_1_TASKS,
    TASKS,
    Example,
    draw_example,
)

_TOKEN_PX = 16


# Whole tokens, and wider than what upstream cuts off at the seam.
SizePx = Annotated[int, Field(ge=32, multiple_of=_TOKEN_PX)]


class DataSettings(Frozen):
    """The examples to draw.

    `full_references` is the share of references that are shown at the target's full height.
    """

    # Used in turn. The smaller size teaches as much for a quarter of the cost.
    sizes_px: tuple[SizePx, ...] = Field((64, 128), min_length=1)
    examples: int = Field(20_000, ge=1)
    chunk: int = Field(256, ge=1, description="Examples in a file.")
    full_references: float = Field(0.7, ge=0, le=1)
    empty_prompts: float = Field(0.1, ge=0, le=1)  # the paper's unconditional share
    task_weights: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None, description="Weights for drawing these tasks. Empty: the weights in `TASKS`."
    )
    seed: int = 3

    @field_validator("task_weights")
    @classmethod
    def _known_tasks(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        for name in weights or {}:
            if name not in ALL_TASKS:
                raise ValueError(f"accepted: {', '.join(ALL_TASKS)}; given {name!r}")
        if not any(
            {**{name: TASKS[name].weight for name in ALL_TASKS}, **(weights or {})}.values()
        ):
            raise ValueError("accepted: at least one weight above 0")
        return weights

    def count(self, folder: Path) -> int:
        return self.examples


class Chunked(Protocol):
    """Data that is encoded in chunks, from the world or from a catalog."""

    @property
    def chunk(self) -> int:
        """Return the number of examples in a chunk."""

    def count(self, folder: Path) -> int:
        """Return the number of all examples. `folder` is the latents' and has a catalog's plan."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """The VAE and the tokenizers that make latents of a canvas and its prompt."""

    vae: AutoencoderKL
    tokenizers: Tokenizers
    use_change: bool = True  # whether the masked content has its own channels (448)
    # Called with every prompt and its tokens (T,), first T5's, then CLIP's.
    on_prompt: Callable[[str, np.ndarray, np.ndarray], None] = lambda prompt, t5, clip: None


@dataclass(frozen=True, eq=False)
class Latents:
    """Encoded examples of one shape. The first axis of all arrays is the example."""

    target_BCHW: np.ndarray  # float16, 16 channels
    edit_BCHW: np.ndarray
    change_BCHW: np.ndarray  # has no channels on the 384-channel route
    mask_BCHW: np.ndarray  # uint8, 64 channels, 0 or 1
    t5_BT: np.ndarray  # token ids, or after `Texts.fill` the encoder's output (B, T, D)
    clip_BT: np.ndarray  # token ids, or after `Texts.fill` the encoder's output (B, D)
    stage_1_B: np.ndarray  # bool: whether its task belongs to the first stage
    # Latent columns of the reference. None, in the world: the canvas's width minus its height.
    seam: int | None = None

    def __len__(self) -> int:
        return len(self.target_BCHW)

    @property
    def reference_w(self) -> int:
        """Return the latent columns of the reference, which is on the left."""
        height, width = self.target_BCHW.shape[2:]
        return int(width - height) if self.seam is None else self.seam

    @property
    def shape(self) -> str:
        """Return the name of the shape. Examples of the same shape may share a batch."""
        sizes = self.target_BCHW.shape[2:]
        return "x".join(
            f"{each:03}" for each in (*sizes, *([] if self.seam is None else [self.seam]))
        )

    def take(self, index: np.ndarray) -> Latents:
        return Latents(**{name: getattr(self, name)[index] for name in ARRAYS}, seam=self.seam)

    @classmethod
    def join(cls, parts: Sequence[Latents]) -> Latents:
        """Join latents of the same shape."""
        arrays = {name: np.concatenate([getattr(each, name) for each in parts]) for name in ARRAYS}
        return cls(**arrays, seam=parts[0].seam)


ARRAYS = ("target_BCHW", "edit_BCHW", "change_BCHW", "mask_BCHW", "t5_BT", "clip_BT", "stage_1_B")


def encode(example: Example, number: int, settings: DataSettings, encoder: Encoder) -> Latents:
    """Encode one example of the world, by upstream's rules for samples; B = 1."""
    rng = np.random.default_rng([settings.seed, number, 1])
    height = len(example.target)
    full = rng.random() < settings.full_references
    built = sample.build(
        example.row(),
        max_seq_len=4 * (height // _TOKEN_PX) ** 2,
        # The width is a whole number of tokens, so that the seam is not moved by rounding.
        reference_h=height if full else _TOKEN_PX * int(rng.integers(height // 32, height // 16)),
        repainting_scale=example.scale(use_change=encoder.use_change),
        modify_mode=encoder.use_change,
    )
    prompt = "" if rng.random() < settings.empty_prompts else example.prompt
    return encode_canvas(built, prompt, number, encoder, stage_1=example.task in STAGE_1_TASKS)


@torch.inference_mode()
def encode_canvas(
    built: sample.Sample, prompt: str, number: int, encoder: Encoder, *, stage_1: bool
) -> Latents:
    """Encode a canvas and its prompt; B = 1. `number` is the seed of the VAE's samples."""
    vae = encoder.vae
    changes = [built.change_CHW] if encoder.use_change else []
    pictures = torch.stack([built.target_CHW, built.edit_CHW, *changes])
    posterior = vae.encode(pictures.to(vae.device, vae.dtype)).latent_dist
    eps = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(number))
    z = posterior.mean + posterior.std * eps.to(vae.device, vae.dtype)
    z = (z - vae.config.shift_factor) * vae.config.scaling_factor
    half = z.to("cpu", torch.float16).numpy()
    change = half[2:] if encoder.use_change else half[:1, :0]
    mask = sampling.mask_latents(built.mask_1HW[None]).round().to(torch.uint8).numpy()
    t5, clip = encoder.tokenizers.tokens([prompt])
    encoder.on_prompt(prompt, t5[0].numpy(), clip[0].numpy())
    return Latents(
        half[:1],
        half[1:2],
        change,
        mask,
        _small(t5, len(encoder.tokenizers.t5)),
        _small(clip, len(encoder.tokenizers.clip)),
        np.array([stage_1]),
    )


def _small(ids: torch.Tensor, vocabulary: int) -> np.ndarray:
    return ids.numpy().astype(np.int16 if vocabulary <= 2**15 else np.int32)


def encode_nothing(tokenizers: Tokenizers) -> Latents:
    """Return an example of the smallest shape, all zeros, to try a model with."""
    t5, clip = tokenizers.tokens([""])
    latent = np.zeros((1, 16, 2, 2), np.float16)
    mask = np.zeros((1, 64, 2, 2), np.uint8)
    return Latents(latent, latent, latent, mask, t5.numpy(), clip.numpy(), np.ones(1, bool))


def make_chunk(folder: Path, chunk: int, settings: DataSettings, encoder: Encoder) -> None:
    """Draw, encode and write one chunk of the world."""

    def made(number: int) -> Latents:
        size_px = settings.sizes_px[number % len(settings.sizes_px)]
        example = draw_example(settings.seed, number, size_px, weights=settings.task_weights)
        return encode(example, number, settings, encoder)

    write_chunk(folder, chunk, map(made, numbers_of(chunk, folder, settings)))


def numbers_of(chunk: int, folder: Path, settings: Chunked) -> range:
    """Return the numbers of a chunk's examples."""
    size = settings.chunk
    return range(chunk * size, min(settings.count(folder), (chunk + 1) * size))


def write_chunk(folder: Path, chunk: int, examples: Iterable[Latents]) -> None:
    """Write one chunk in one step."""
    groups: dict[str, list[Latents]] = {}
    for each in examples:
        groups.setdefault(each.shape, []).append(each)
    arrays = {
        f"{shape}:{name}": getattr(Latents.join(group), name)
        for shape, group in groups.items()
        for name in ARRAYS
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = chunk_path(folder, chunk)
    coming = folder / f"{path.name}.{os.getpid()}"  # another process may make the same chunk
    with coming.open("wb") as file:
        np.savez(file, **arrays)
    coming.rename(path)


def chunks(folder: Path, settings: Chunked) -> int:
    return -(-settings.count(folder) // settings.chunk)


def chunk_path(folder: Path, chunk: int) -> Path:
    return folder / f"chunk-{chunk:05}.npz"


def missing(folder: Path, settings: Chunked) -> list[int]:
    """Return the numbers of the chunks still to be made."""
    numbers = range(chunks(folder, settings))
    return [number for number in numbers if not chunk_path(folder, number).exists()]


def load(folder: Path, settings: Chunked) -> list[Latents]:
    """Load all latents, one for each shape, smallest first."""
    groups: dict[str, list[Latents]] = {}
    for chunk in range(chunks(folder, settings)):
        with np.load(chunk_path(folder, chunk)) as arrays:
            for shape in {key.partition(":")[0] for key in arrays.files}:
                seam = int(shape.split("x")[2]) if shape.count("x") == 2 else None
                part = Latents(**{name: arrays[f"{shape}:{name}"] for name in ARRAYS}, seam=seam)
                groups.setdefault(shape, []).append(part)
    return [Latents.join(groups[shape]) for shape in sorted(groups)]
