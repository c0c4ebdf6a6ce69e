"""The ways a transformer can compute: as it is written, compiled, or with shortcuts.

`exact` runs each operation by itself: on one machine the same item gives the same bits, whatever
came before. `compiled` has each kind of block compiled once, for canvases of any size, and takes
the best attention that the machine has. It makes the same picture except for rounding. `fast`
leaves out work (`fast_path`): on a GPU it is compiled as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    dispatch_attention_fn,
)

Speed = Literal["exact", "compiled", "fast"]

log = logging.getLogger(__name__)

# From the fastest on Hopper, as published; what a machine lacks, refuses or cannot compile is passed
# over.
_BACKENDS = ("_flash_3", "_native_cudnn")
_HOPPER = (9, 0)
# A block has up to eight graphs: with and without an adapter, for one item and for several, and a
# first block whose input lies otherwise. Torch gives up at eight.
_MOST_GRAPHS = 32


def is_compiled(speed: Speed, device: str) -> bool:
    """Return whether a model of this speed has its blocks compiled on this device."""
    return speed == "compiled" or (speed == "fast" and device == "cuda")


def compile_blocks(transformer: FluxTransformer2DModel, backend: str = "inductor") -> None:
    """Have each kind of block compiled at its first call, once for canvases of all sizes."""
    # Or two sizes that are equal in the first canvas, such as tokens of text and of the image,
    # would be taken for one, and the next canvas would be compiled anew.
    torch.fx.experimental._config.use_duck_shape = False
    torch._dynamo.config.recompile_limit = _MOST_GRAPHS
    for block in _blocks(transformer):
        # Its forward, as in `compile_repeated_blocks` its call: so hooks, such as those of a step
        # cache, stay outside.
        block.forward = torch.compile(block.forward, fullgraph=True, dynamic=True, backend=backend)


def run_eagerly(transformer: FluxTransformer2DModel) -> None:
    """Undo `compile_blocks` and `use_best_attention`."""
    for block in _blocks(transformer):
        block.__dict__.pop("forward", None)
    _use_attention(transformer, "native")


@contextmanager
def native_attention(transformer: FluxTransformer2DModel) -> Iterator[None]:
    """Attend as `exact` does, and afterwards as before."""
    before = attention_of(transformer)
    _use_attention(transformer, "native")
    try:
        yield
    finally:
        _use_attention(transformer, before)


def use_best_attention(transformer: FluxTransformer2DModel) -> None:
    """Take the fastest attention that works here; torch's own is always there."""
    if transformer.device.type == "cuda" and torch.cuda.get_device_capability() >= _HOPPER:
        use_first_attention(transformer, _BACKENDS)


def use_first_attention(transformer: FluxTransformer2DModel, backends: Iterable[str]) -> None:
    """Take the first of these backends, named as in diffusers, that compiles and works here.

    Where none does, torch's own is taken.
    """
    for backend in backends:
        try:
            transformer.set_attention_backend(backend)
            _try_out(transformer)
            return
        except Exception as error:  # a package that is missing, too old, or built for another chip
            log.info(
                "attention backend %s does not work here: %s",
                backend,
                str(error).partition("\n")[0],
            )
    transformer.set_attention_backend("native")


def attention_of(transformer: FluxTransformer2DModel) -> str:
    """Return the backend of the transformer's attention, as diffusers calls it."""
    chosen = {
        getattr(processor, "_attention_backend", None)
        for processor in transformer.attn_processors.values()
    }
    active, _ = _AttentionBackendRegistry.get_active_backend()
    return ", ".join(sorted({str((each or active).value) for each in chosen}))


def _use_attention(transformer: FluxTransformer2DModel, backend: str) -> None:
    if attention_of(transformer) != backend:
        transformer.set_attention_backend(backend)


def _blocks(transformer: FluxTransformer2DModel) -> Iterator[torch.nn.Module]:
    yield from transformer.transformer_blocks
    yield from transformer.single_transformer_blocks


@torch.inference_mode()
def _try_out(transformer: FluxTransformer2DModel) -> None:
    """Attend once with the chosen backend, compiled as in a block. Raises whatever it raises.

    A backend that only works eagerly would have the whole model run eagerly.
    """
    shape = (1, 64, 2, transformer.config.attention_head_dim)
    q = torch.zeros(shape, device=transformer.device, dtype=transformer.dtype)
    attend = torch.compile(dispatch_attention_fn, fullgraph=True, dynamic=True)
    attend(q, q, q, backend=AttentionBackendName(attention_of(transformer)))  # type: ignore[no-untyped-call]
    torch.get_device_module(transformer.device).synchronize()
