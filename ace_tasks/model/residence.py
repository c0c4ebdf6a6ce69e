"""The place of a model's idle parts: its device, or host memory.

Moving copies bits, and a part that works is always on the device, so a picture is the same to the
bit in every mode. diffusers' own ways to save memory are not used: its tiled VAE normalises each
tile by itself (37 levels off on the VAE of `mini`), its slicing divides batches, which the VAE
never gets here, and FLUX's attention has no slices.

`text_offload` frees 10 GB of a full-size model and costs a second for each new prompt. `offload`
frees 24 GB more while the VAE works and costs some ten seconds an item.
"""

from __future__ import annotations

from typing import Literal

import torch

MemoryMode = Literal["resident", "text_offload", "offload"]
# From the fastest to the one that needs least.
MEMORY_MODES: tuple[MemoryMode, ...] = ("resident", "text_offload", "offload")
Part = Literal["text", "transformer"]  # the VAE is small, and stays


class Residence:
    """Brings the parts of one model to its device and takes them away. Not thread-safe."""

    def __init__(
        self, text: tuple[torch.nn.Module, ...], transformer: torch.nn.Module, device: str
    ):
        self._modules: dict[Part, tuple[torch.nn.Module, ...]] = {
            "text": text,
            "transformer": (transformer,),
        }
        self._device = device
        self._places: dict[Part, str | None] = dict.fromkeys(self._modules, device)

    def bring(self, part: Part) -> None:
        self._move(part, self._device)

    def take_away(self, part: Part) -> None:
        if self._places[part] == "cpu":
            return
        self._move(part, "cpu")
        if self._device == "cuda":
            torch.cuda.empty_cache()  # its blocks fit nothing else

    def _move(self, part: Part, place: str) -> None:
        if self._places[part] == place:
            return
        self._places[part] = None  # if it fails halfway, the next move does it again
        for module in self._modules[part]:
            module.to(place)
        self._places[part] = place
