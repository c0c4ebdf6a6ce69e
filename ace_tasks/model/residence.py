"""The place of a model's parts: its device, or host memory from which they come when they work.

Parts come and go by diffusers' group offload: a text encoder by layers, a transformer by blocks.
On a GPU the next group is copied from pinned memory while the last one computes. Copies are bits,
and what works is on the device, so a picture is the same in every mode. diffusers' other ways to
save memory are not used: its tiled VAE normalises each tile by itself (37 levels off on the VAE of
`mini`), its slicing divides batches, which the VAE never gets here, and FLUX's attention has no
slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers import FluxTransformer2DModel
from diffusers.hooks import HookRegistry, apply_group_offloading
from torch.nn import Module, ModuleList

from ace_tasks.model.fit import RESIDENT, STREAMED, Fit, MemoryMode

Part = Literal["text", "transformer"]  # the VAE is small, and stays
_BLOCK_LISTS = ("transformer_blocks", "single_transformer_blocks")
# In the order in which diffusers puts them on.
_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")
_ON_DEVICE_AT_ONCE = 2  # streamed blocks: the one that computes, and the next


class Residence:
    """Brings a model's parts to where a memory mode has them. Not thread-safe."""

    def __init__(
        self,
        text: Sequence[Module],
        transformer: FluxTransformer2DModel,
        device: str,
        fit: Fit = RESIDENT,
    ):
        """Take the parts, which are on the device if `fit` has them there, else anywhere."""
        self.fit = fit
        self._text, self._transformer, self._device = text, transformer, device
        at_start = "on the device" if fit.mode == "resident" else None
        # None: unknown, and brought about anew.
        self._states: dict[Part, str | None] = dict.fromkeys(("text", "transformer"), at_start)

    def settle(self, mode: MemoryMode) -> None:
        """Bring every part to where this mode has it."""
        self._bring("text", "on the device" if mode == "resident" else "streamed")
        self._bring("transformer", mode if mode in STREAMED else "on the device")

    def let_go(self) -> None:
        """Take off what makes parts come and go, until the next `settle`."""
        self._states = dict.fromkeys(self._states)
        for module in (*self._text, self._transformer):
            _unhook(module)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Mark the parts that come and go as unknown if the work fails.

        A group may then be on the device, and an adapter that is copied into it would be lost.
        """
        try:
            yield
        except BaseException:
            for part, state in self._states.items():
                if state != "on the device":
                    self._states[part] = None
            raise

    def _bring(self, part: Part, state: str) -> None:
        if self._states[part] == state:
            return
        self._states[part] = None  # if it fails halfway, the next call does it again
        modules = self._text if part == "text" else [self._transformer]
        for module in modules:
            _unhook(module)
        if state == "on the device":
            for module in modules:
                module.to(self._device)
        elif part == "text":
            for module in modules:
                apply_group_offloading(module, offload_type="leaf_level", **self._how())
        else:
            self._stream_blocks(self.fit.room_bytes if state == "blocks" else None)
        if self._device == "cuda":
            torch.cuda.empty_cache()  # its blocks fit nothing else
        self._states[part] = state

    def _how(self) -> dict[str, Any]:
        streams = torch.device(self._device).type == "cuda"
        return {
            "onload_device": torch.device(self._device),
            "use_stream": streams,
            "record_stream": streams,
        }

    def _stream_blocks(self, room_bytes: int | None) -> None:
        """Have as many blocks come and go as needed for the others to fit. All the rest stays.

        diffusers takes all blocks of the lists that it finds, and moves whatever is beside them at
        every step. So it is shown the blocks that go, and nothing else with weights.
        """
        everything = self._transformer._modules
        blocks = [each for name in _BLOCK_LISTS for each in everything[name].children()]  # type: ignore[union-attr]
        rest = [each for name, each in everything.items() if name not in _BLOCK_LISTS]
        going = set(_which_go(blocks, _bytes(*rest), room_bytes))
        for module in (*rest, *(each for each in blocks if each not in going)):
            module.to(self._device)  # type: ignore[union-attr]
        if not going:
            return
        shown: dict[str, Module | None] = {
            name: ModuleList(each for each in everything[name].children() if each in going)  # type: ignore[union-attr]
            for name in _BLOCK_LISTS
        }
        # It has no weights; the hook that learns the order of the blocks needs something to hold.
        shown["pos_embed"] = everything["pos_embed"]
        self._transformer._modules = shown
        try:
            self._transformer.enable_group_offload(
                offload_type="block_level", num_blocks_per_group=1, **self._how()
            )
        finally:
            self._transformer._modules = everything


def _which_go(
    blocks: Sequence[Module], rest_bytes: int, room_bytes: int | None
) -> Iterator[Module]:
    """Yield the blocks that do not stay, spread evenly, so that copies hide behind computing."""
    sizes = [_bytes(each) for each in blocks]
    if room_bytes is None or not sizes:
        yield from blocks
        return
    # Blocks that come and go need room as well, but only for those that are there at once.
    stay_bytes = room_bytes - rest_bytes
    if sum(sizes) <= stay_bytes:
        return
    stay_bytes -= _ON_DEVICE_AT_ONCE * max(sizes)
    share, owed = min(1.0, (sum(sizes) - stay_bytes) / sum(sizes)), 0.0
    for block, size in zip(blocks, sizes, strict=True):
        owed += share * size
        if owed > 0:
            owed -= size
            yield block


def _bytes(*modules: Module | None) -> int:
    return sum(value.nbytes for each in modules if each is not None for value in each.parameters())


def _unhook(module: Module) -> None:
    """Take off what group offload has put on. Weights stay where they are."""
    registry = HookRegistry.check_if_exists_or_initialize(module)
    for name in reversed(_HOOKS):
        registry.remove_hook(name, recurse=True)
    for each in module.modules():
        left = vars(each).get("forward")
        if getattr(left, "__func__", None) is type(each).forward:
            del each.forward
