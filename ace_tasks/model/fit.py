"""The fastest way of working that fits a device, chosen by sizes before anything is loaded.

resident       everything is on the device
text_offload   the text encoders come by layers when a new prompt is encoded
blocks         and so do as many blocks of the transformer as do not fit, at every step
offload        and so do all its blocks

None changes a bit of a picture: `residence` copies weights, and the same kernels run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from ace_tasks.errors import WeightsError
from ace_tasks.images.canvas_size import TOKEN_PX
from ace_tasks.model.places import read_json
from ace_tasks.model.variants import ADAPTER_FOLDER, Variant

MemoryMode = Literal["resident", "text_offload", "blocks", "offload"]
# From the fastest to the one that needs least.
MEMORY_MODES: tuple[MemoryMode, ...] = ("resident", "text_offload", "blocks", "offload")
STREAMED: tuple[MemoryMode, ...] = ("blocks", "offload")
Memory = Literal["auto", "resident", "text_offload", "blocks", "offload"]

_GB = 1e9
# Counted in the eager classes: the most numbers that a block holds at once for each token and
# feature, and that the VAE's last blocks hold for each pixel and feature.
_STEP_NUMBERS, _VAE_NUMBERS = 24, 6
_RESERVE_BYTES = 2**30  # workspaces of CUDA's libraries, and gaps between tensors


@dataclass(frozen=True)
class Sizes:
    """Bytes of a model's parts, and of what they compute with on the largest canvas."""

    text: int
    transformer: int  # adapters included
    vae: int
    work: int

    @property
    def total(self) -> int:
        return self.text + self.transformer + self.vae + self.work


@dataclass(frozen=True)
class Fit:
    """The way in which a model works at its start, and why."""

    mode: MemoryMode = "resident"
    room_bytes: int | None = None  # what blocks may take of the device; None: none of them stays
    reason: str = ""


RESIDENT = Fit()


def find_fit(memory: Memory, variant: Variant, folder: Path, device: str) -> Fit:
    """Choose for the variant in this folder, of whose files only headers are read.

    Raises WeightsError for a file that is not whole.
    """
    free = free_bytes(device)
    if free is None:
        mode: MemoryMode = "resident" if memory == "auto" else memory
        return Fit(mode, reason="a CPU has one memory" if memory == "auto" else "asked for")
    return choose(memory, measure(variant, folder), free)


def choose(memory: Memory, sizes: Sizes, free: int) -> Fit:
    """Return the fastest way that fits `free` bytes, or the one that is asked for."""
    room = free - sizes.vae - sizes.work
    reason = f"{free / _GB:.1f} GB are free; everything takes {sizes.total / _GB:.1f} GB"
    if memory != "auto":
        return Fit(memory, room, f"asked for; {reason}")
    if sizes.text + sizes.transformer <= room:
        return Fit("resident", room, reason)
    if sizes.transformer <= room:
        return Fit("text_offload", room, reason)
    return Fit("blocks" if room > 0 else "offload", room, reason)


def free_bytes(device: str) -> int | None:
    """Return what is free on a GPU. None for a CPU, whose parts have no other place."""
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else None


def measure(variant: Variant, folder: Path) -> Sizes:
    """Return the sizes of a variant's parts in its dtype. Raises WeightsError."""
    bytes_each = getattr(torch, variant.dtype).itemsize
    numbers = {
        part: sum(map(_numbers, sorted((folder / part).glob("*.safetensors"))))
        for part in ("text_encoder", "text_encoder_2", "transformer", ADAPTER_FOLDER, "vae")
    }
    config = variant.files.config or read_json(folder / "transformer" / "config.json")
    return Sizes(
        text=bytes_each * (numbers["text_encoder"] + numbers["text_encoder_2"]),
        transformer=bytes_each * (numbers["transformer"] + numbers[ADAPTER_FOLDER]),
        vae=bytes_each * numbers["vae"],
        work=work_bytes(variant, config, read_json(folder / "vae" / "config.json"), bytes_each),
    )


def work_bytes(
    variant: Variant, config: Mapping[str, Any], vae_config: Mapping[str, Any], bytes_each: int
) -> int:
    """Return the bytes that a picture alone on the variant's largest canvas is computed with."""
    # The defaults are those of diffusers' classes.
    width: int = config.get("num_attention_heads", 24) * config.get("attention_head_dim", 128)
    vae_width: int = vae_config.get("block_out_channels", (64,))[:2][-1]
    step = _STEP_NUMBERS * (variant.max_seq_len + variant.text_tokens) * width
    decode = _VAE_NUMBERS * variant.max_seq_len * TOKEN_PX**2 * vae_width
    return bytes_each * max(step, decode) + _RESERVE_BYTES


def _numbers(path: Path) -> int:
    """Return how many numbers a safetensors file holds. Raises WeightsError."""
    try:
        with safe_open(path, framework="pt") as file:
            shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a complete safetensors file: {error}") from None
    return sum(map(math.prod, shapes))
