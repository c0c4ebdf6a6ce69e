"""The shortcuts of a fast edit: steps that are extrapolated, and matrices in fp8.

Both change pictures by more than rounding, so they are part of an item's identity
(`specs.Shortcuts`).

Steps that are not computed come from diffusers' TaylorSeer in its light form: the blocks are passed
over, and what the transformer gives back is extrapolated from the steps that were computed. Which
those are is known before the first one. A cache that decides by what it sees, such as
FirstBlockCache, decides on a mean over a batch, and an item would depend on its mates.

Matrices are multiplied in fp8 with a scale for each row, by torchao, on GPUs that have it. Elsewhere
they are left as they are: int8 weights, which torchao has for CPUs, are turned back into floats for
each product and save no time.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec

import torch
from diffusers import FluxTransformer2DModel, TaylorSeerCacheConfig
from torch import Tensor, nn

from ace_tasks.model.faults import in_one_line, is_device_lost
from ace_tasks.model.speed import native_attention
from ace_tasks.specs import Shortcuts

log = logging.getLogger(__name__)

_FIRST_WITH_FP8 = (8, 9)  # compute capability of Ada; Hopper is 9.0


class FastPath:
    """The shortcuts of one transformer. Not thread-safe."""

    def __init__(self, transformer: FluxTransformer2DModel):
        self._transformer = transformer
        self._is_prepared = False
        self._plain: dict[nn.Linear, Tensor] = {}  # weights in host memory, of linears in fp8

    @property
    def precision(self) -> str | None:
        """The number format in which the blocks multiply, if it is another than the model's."""
        return "fp8" if self._plain else None

    def prepare(self, *, fp8: bool) -> None:
        """Have a pass without shortcuts be exact from now on, even if the blocks are compiled.

        With `fp8` the blocks multiply in it, which `can_use_fp8` allows; the weights as loaded
        stay in host memory.
        """
        self._is_prepared = True
        if not fp8:
            return
        self._plain = {
            each: each.weight.detach().to("cpu", copy=True) for each in _linears(self._transformer)
        }
        try:
            _quantise(self._transformer, self._plain)
        except Exception as error:  # torchao of another version, or built for another torch
            if is_device_lost(error):
                raise
            log.warning("fp8 failed, so pictures take longer: %s", in_one_line(error))
            self.restore()

    def restore(self) -> None:
        """Multiply as loaded from now on. Steps can still be extrapolated."""
        _put_in(self._plain, self._transformer.device)
        self._plain = {}

    @contextmanager
    def taken(self, shortcuts: Shortcuts | None, steps: int) -> Iterator[None]:
        """Take these shortcuts, or none, in a pass of `steps` steps.

        Once prepared, a pass without any is exact: each operation by itself, weights as loaded.
        """
        way: AbstractContextManager[None] = nullcontext()
        if shortcuts is None and self._is_prepared:
            way = self._exact()
        elif shortcuts is not None and shortcuts.computed(steps) < steps:
            way = _step_cache(self._transformer, shortcuts, steps)
        with way:
            yield

    @contextmanager
    def _exact(self) -> Iterator[None]:
        fast = {each: each.weight for each in self._plain}
        try:
            _put_in(self._plain, self._transformer.device)
            with torch.compiler.set_stance("force_eager"), native_attention(self._transformer):
                yield
        finally:
            for linear, weight in fast.items():
                linear.weight = weight


def can_use_fp8(transformer: FluxTransformer2DModel, device: str) -> bool:
    """Return whether its blocks can multiply in fp8 there; a log line says why if they cannot."""
    why_not = _no_fp8(transformer, device)
    if why_not:
        log.info("fp8 is not used: %s", why_not)
    return why_not is None


def _no_fp8(transformer: FluxTransformer2DModel, device: str) -> str | None:
    """Return why a transformer's blocks cannot multiply in fp8; None if they can."""
    if device != "cuda":
        return "no GPU"
    if torch.cuda.get_device_capability() < _FIRST_WITH_FP8:
        return "this GPU does not multiply in it"
    if transformer.dtype != torch.bfloat16:
        return f"weights are {transformer.dtype}, not bfloat16"
    if find_spec("torchao") is None:
        return "torchao is not installed (pip install 'ace-catalog[gpu]')"
    return None


def _quantise(transformer: FluxTransformer2DModel, linears: Container[nn.Module]) -> None:
    """Have these linears multiply in fp8, with a scale for each row. Raises whatever it raises."""
    from torchao.quantization import (  # takes a second, and only a GPU needs it
        Float8DynamicActivationFloat8WeightConfig,
        PerRow,
        quantize_,
    )

    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    quantize_(transformer, config, lambda module, _: module in linears)


def _linears(transformer: FluxTransformer2DModel) -> Iterator[nn.Linear]:
    """Yield the large linears of the blocks: no modulation, which has one row, and no adapter."""
    for name, module in transformer.named_modules():
        is_large = "blocks." in name and ".norm" not in name and ".lora_" not in name
        if isinstance(module, nn.Linear) and is_large:
            yield module


def _put_in(weights: dict[nn.Linear, Tensor], device: torch.device) -> None:
    for linear, weight in weights.items():
        linear.weight = nn.Parameter(weight.to(device), requires_grad=False)


@contextmanager
def _step_cache(
    transformer: FluxTransformer2DModel, shortcuts: Shortcuts, steps: int
) -> Iterator[None]:
    transformer.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=shortcuts.interval,
            disable_cache_before_step=shortcuts.first_steps,
            disable_cache_after_step=steps - shortcuts.last_steps,
            max_order=shortcuts.order,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,
        )
    )
    try:
        with transformer.cache_context("denoise"):
            yield
    finally:
        transformer.disable_cache()  # with its state, from which the next item would go on
