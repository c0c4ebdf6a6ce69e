"""Ways of working: how one is set up, and how it is timed.

Every rung has a transformer of its own with the same random weights; encoders and VAE are shared.
An item goes through `AceModel.generate`, from its job to its pixels.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch._dynamo.utils import counters

from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.adapters import Mode
from ace_tasks.model.fit import Fit, Sizes, choose, work_bytes
from ace_tasks.model.speed import Speed, compile_blocks
from ace_tasks.model.text import Text
from ace_tasks.model.variants import find_variant
from ace_tasks.model.weights import Parts
from ace_tasks.specs import Shortcuts
from tests.benchmarks.gpu import random_parts
from tests.benchmarks.gpu.flops import step_flop
from tests.benchmarks.gpu.random_parts import Geometry
from tests.benchmarks.gpu.results import RungResult, SizeResult

_ADAPTER = "subject"
_WARM_UP_STEPS = 3
_LIMIT_GB = 19.0  # of 20: CUDA's own context takes the rest
_SHORTCUTS = Shortcuts()


class Skipped(Exception):
    """An error: this machine lacks something that the rung needs."""


@dataclass(frozen=True)
class Rung:
    """One way of working. `needs_s` is its time at full size, with building and warm-up."""

    name: str
    what: str
    needs_s: float
    adapter: Literal["none", "loaded", "resident", "fused"] = "none"
    compiled: bool = False
    attention: str | None = None  # None: torch's own choice
    speed: Speed | None = None  # as `AceModel` brings it about by itself
    shortcuts: Shortcuts | None = None
    needs_fp8: bool = False
    offload: bool = False
    other_sizes: bool = False

    @property
    def lossy(self) -> bool:
        return self.shortcuts is not None

    def computed_share(self, steps: int) -> float:
        """The share of an item's steps that the transformer computes."""
        return self.shortcuts.computed(steps) / steps if self.shortcuts else 1.0

    @property
    def reference(self) -> str:
        """Return the name of the eager rung that makes the same picture."""
        return "eager" if self.adapter == "none" else "upstream"


# By importance: what comes last is what a short run leaves out.
RUNGS = (
    Rung("eager", "eager, all resident", 35),
    Rung("compiled", "compiled", 80, compiled=True, other_sizes=True),
    Rung("compiled-cudnn", "compiled, cuDNN attention", 55, compiled=True, attention="_native_cudnn"),
    Rung("upstream", "eager as upstream: adapter loaded and prompt encoded for each item", 35, "loaded"),
    Rung("product", "as a run does it: compiled, best attention, adapter beside the weights", 90,
         "resident", compiled=True, speed="compiled"),
    Rung("fast", "as a run with speed fast does it: fp8 rows, extrapolated steps", 90, "resident",
         compiled=True, speed="fast", shortcuts=_SHORTCUTS),
    Rung("compiled-fused", "compiled, adapter fused", 65, "fused", compiled=True),
    Rung("fp8", "compiled, fp8 rows, every step computed", 75, compiled=True, speed="fast",
         shortcuts=_SHORTCUTS.model_copy(update={"interval": 1}), needs_fp8=True),
    Rung("step-cache", "compiled, extrapolated steps", 45, compiled=True, shortcuts=_SHORTCUTS),
    Rung("20gb", "eager in 20 GB, as a run does it: blocks come and go", 90, offload=True),
    Rung("20gb-compiled", "compiled in 20 GB, as a run does it", 110, compiled=True, offload=True,
         speed="compiled"),
    Rung("beside", "eager, adapter beside the weights", 35, "resident"),
    Rung("compiled-flash3", "compiled, FlashAttention 3", 55, compiled=True, attention="_flash_3"),
    Rung("compiled-flash3-hub", "compiled, FlashAttention 3 of the hub", 55, compiled=True,
         attention="_flash_3_hub"),
)  # fmt: skip


@dataclass
class Item:
    """One measured item."""

    seconds: float
    step_ms: float
    canvas: np.ndarray


@dataclass
class Reference:
    """The results of an eager rung: its first item, and one step's velocity."""

    canvas: np.ndarray
    velocity: torch.Tensor


@dataclass
class Workplace:
    """The parts that all rungs of one run share."""

    geometry: Geometry
    device: str
    steps: int
    items: int
    parts: Parts
    references: dict[str, Reference] = field(default_factory=dict)

    @property
    def job(self) -> ModelJob:
        return replace(self._job(self.geometry.side_px), steps=self.steps)

    def other_jobs(self) -> Iterator[tuple[str, ModelJob]]:
        """Return two more sizes: half the side, and the full side with a reference beside it."""
        side = self.geometry.side_px
        for what, job in (
            (f"{side // 2}×{side // 2}", self._job(side // 2)),
            (f"{side}×{side} and a reference of this size", self._job(side, references=1)),
        ):
            yield what, replace(job, steps=self.steps)

    def _job(self, side_px: int, references: int = 0) -> ModelJob:
        return random_parts.make_job(self.geometry, side_px, references)


def tokens_of(job: ModelJob) -> int:
    _, height, width = job.lcu.mask_1HW.shape
    return (height // 16) * (width // 16)


class Bench:
    """One model, set up for one rung. Raises Skipped, and whatever a library raises."""

    def __init__(self, rung: Rung, place: Workplace):
        self.rung, self.place, self.device = rung, place, place.device
        self._cuda = place.device == "cuda"
        _check_machine(rung, self._cuda)
        transformer = random_parts.make_transformer(place.geometry, place.device)
        adapter = random_parts.make_adapter(transformer) if rung.adapter != "none" else None
        # Upstream reads the adapter's file for each item: here it comes from the host's memory.
        self._file = {key: value.cpu() for key, value in (adapter or {}).items()}
        kept = {_ADAPTER: adapter} if adapter and rung.adapter != "loaded" else {}
        mode: Mode = "fused" if rung.adapter == "fused" else "resident"
        parts = random_parts.with_transformer(place.parts, transformer, kept)
        if rung.offload:
            parts = replace(parts, fit=_fit(parts, place))
        # Another rung's attention would be taken for the process's own.
        transformer.set_attention_backend("native")
        speed = rung.speed or "exact"
        variant = find_variant(place.geometry.variant)
        # No files, so no identity of its own; pictures do not depend on it.
        identity = find_variant("toy-lora").identity()
        self.model = AceModel(variant, parts, place.device, identity, mode, speed)
        if self.model.speed != speed:
            raise Skipped("the model could not be compiled; its warning says why")
        if rung.needs_fp8 and not self.model.fast_path.precision:
            raise Skipped("blocks do not multiply in fp8 here")
        self._adapter = _ADAPTER if kept else None
        self._prepare(transformer)

    def _prepare(self, transformer: Any) -> None:
        rung = self.rung
        if self._adapter:
            self.model.adapters.select(self._adapter)
        if rung.offload and self._cuda:
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, _LIMIT_GB * 1e9 / total))
        if rung.speed:
            return
        if rung.attention:
            transformer.set_attention_backend(rung.attention)
        if rung.compiled:
            compile_blocks(transformer)

    @contextmanager
    def _item(self) -> Iterator[None]:
        """Do what the rung does around each item."""
        transformer: Any = self.model.parts.transformer
        if self.rung.adapter == "loaded":
            transformer.load_lora_adapter(dict(self._file), adapter_name="once", prefix=None)
        try:
            yield
        finally:
            if self.rung.adapter == "loaded":
                transformer.delete_adapters("once")

    def item(self, job: ModelJob) -> Item:
        """Make one picture. Its time includes all that the rung does for it."""
        marks: list[Any] = []
        started = self._now()
        with self._item():
            job = replace(job, adapter=self._adapter, shortcuts=self.rung.shortcuts)
            (canvas,) = self.model.generate([job], lambda: marks.append(self._mark()))
        seconds = self._now() - started
        # The first mark is set ahead of the encoders; then there is one before each step.
        step_ms = _between_ms(marks[1], marks[-1]) / (len(marks) - 2)
        return Item(seconds, step_ms, canvas)

    @torch.inference_mode()
    def velocity(self) -> torch.Tensor:
        """Return one step on fixed numbers, as float32 on the CPU."""
        config, (_, height, width) = self.place.geometry.config, self.place.job.lcu.mask_1HW.shape
        h, w = height // 8, width // 8
        generator = torch.Generator().manual_seed(2)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(
                self.device, self.model.parts.transformer.dtype
            )

        text_tokens = self.model.variant.text_tokens
        text = Text(
            draw(1, text_tokens, config["joint_attention_dim"]),
            draw(1, config["pooled_projection_dim"]),
        )
        x, condition = draw(1, 16, h, w), draw(1, h * w // 4, 320)
        with self._item():
            return self.model.velocity(x, condition, text, 0.7, 50.0).float().cpu()

    def close(self) -> None:
        """Bring back what other rungs share."""
        if self.rung.offload:
            self.model.residence.settle("resident")

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _mark(self) -> Any:
        """Return a moment on the device: an event of CUDA, or the clock in ms."""
        if not self._cuda:
            return 1000 * time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between_ms(first: Any, last: Any) -> float:
    """Return the time from one mark to another, once the work is done."""
    if isinstance(first, float):
        return float(last - first)
    return float(first.elapsed_time(last))


def _fit(parts: Parts, place: Workplace) -> Fit:
    """Blocks that come and go, on a device of 20 GB; on a CPU, of half the transformer."""
    variant = find_variant(place.geometry.variant)

    def size(*modules: torch.nn.Module) -> int:
        return sum(value.nbytes for each in modules for value in each.parameters())

    transformer = size(parts.transformer)
    work = work_bytes(
        variant, place.geometry.config, place.geometry.vae, parts.transformer.dtype.itemsize
    )
    sizes = Sizes(size(parts.clip, parts.t5), transformer, size(parts.vae), work)
    half = sizes.vae + sizes.work + transformer // 2
    return choose("blocks", sizes, int(_LIMIT_GB * 1e9) if place.device == "cuda" else half)


def _check_machine(rung: Rung, cuda: bool) -> None:
    if rung.attention and not cuda:
        raise Skipped("needs a GPU")


# ---------------------------------------------------------------- one rung, measured


def measure(rung: Rung, place: Workplace, left_s: Callable[[], float]) -> RungResult:
    """Return the rung's figures, or why there are none. `left_s` is the time that is left."""
    result = RungResult(name=rung.name, what=rung.what, lossy=rung.lossy)
    clean()
    bench, started = None, time.perf_counter()
    try:
        bench = Bench(rung, place)
        _warm_up(bench)
        result.ready_s = time.perf_counter() - started
        _measure(bench, result, left_s)
    except Skipped as reason:
        result.skipped = str(reason)
    except Exception as error:  # of any library; the other rungs go on
        result.skipped = _line(error)
    clean()
    if bench is not None:
        bench.close()
        bench = None
        clean()
    return result


def _warm_up(bench: Bench) -> None:
    """Make a short item, so that nothing is done for the first time in those that are timed."""
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = replace(bench.place.job, steps=_WARM_UP_STEPS)
    # The prompt of a whole catalog is encoded once; upstream encodes it for each picture.
    bench.item(replace(first, prompt="warm-up") if bench.rung.adapter == "loaded" else first)


def _measure(bench: Bench, result: RungResult, left_s: Callable[[], float]) -> None:
    place, rung, cuda = bench.place, bench.rung, bench.device == "cuda"
    upstream = rung.adapter == "loaded"
    work = step_flop(place.geometry.config, tokens_of(place.job), bench.model.variant.text_tokens)
    work *= rung.computed_share(place.steps)
    steps_ms: list[float] = []
    for number in range(place.items):
        if number and left_s() < 2 * result.seconds[0]:
            break
        prompt = f"{place.job.prompt}{' ' * number if upstream else ''}"
        item = bench.item(replace(place.job, prompt=prompt))
        result.seconds.append(item.seconds)
        steps_ms.append(item.step_ms)
        if not number:
            canvas = item.canvas
    result.step_ms = float(np.median(steps_ms))
    result.tflops = work / result.step_ms / 1e9
    if cuda:
        result.peak_gb = torch.cuda.max_memory_allocated() / 1e9
        result.reserved_gb = torch.cuda.max_memory_reserved() / 1e9
    _compare(bench, result, canvas)
    if rung.other_sizes:
        _other_sizes(bench, result, left_s)
    if rung.compiled:
        result.graphs = counters["stats"]["unique_graphs"]
        result.attention = bench.model.attention
        result.precision = bench.model.fast_path.precision


def _compare(bench: Bench, result: RungResult, canvas: np.ndarray) -> None:
    """Compare with the results of the eager rung, which are kept if this is it."""
    rung, references = bench.rung, bench.place.references
    velocity = bench.velocity()
    if rung.name == rung.reference:
        references[rung.name] = Reference(canvas, velocity)
    if (reference := references.get(rung.reference)) is None:
        return
    difference = np.abs(canvas.astype(int) - reference.canvas.astype(int))
    result.levels_max, result.levels_mean = int(difference.max()), float(difference.mean())
    off = (velocity - reference.velocity).pow(2).mean() / reference.velocity.pow(2).mean()
    result.velocity_error = float(off.sqrt())


def _other_sizes(bench: Bench, result: RungResult, left_s: Callable[[], float]) -> None:
    assert result.step_ms is not None
    config, text_tokens = bench.place.geometry.config, bench.model.variant.text_tokens
    for what, job in bench.place.other_jobs():
        tokens = tokens_of(job)
        work = step_flop(config, tokens, text_tokens)
        expected_s = (
            result.seconds[0] * work / step_flop(config, tokens_of(bench.place.job), text_tokens)
        )
        if left_s() < 2 * expected_s:
            continue
        bench.item(replace(job, steps=_WARM_UP_STEPS))
        item = bench.item(job)
        size = SizeResult(
            what=what, tokens=tokens, seconds=item.seconds, step_ms=item.step_ms,
            tflops=work / item.step_ms / 1e9,
        )  # fmt: skip
        result.sizes.append(size)


def clean() -> None:
    """Forget the last rung: its tensors, its limits, and what was compiled for it."""
    torch._dynamo.reset()
    counters.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).replace("|", "/")[:200]


def product_tflops(device: str, size: int = 8192, times: int = 10) -> float | None:
    """Return the TFLOP/s of one plain bf16 product, the best that this GPU can do."""
    if device != "cuda":
        return None
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for number in range(times + 3):
        if number == 3:
            start.record()
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 2 * size**3 * times / start.elapsed_time(end) / 1e9


def find(names: list[str]) -> Mapping[str, Rung]:
    """Return rungs by name, in their order. Raises KeyError."""
    known = {each.name: each for each in RUNGS}
    if unknown := set(names) - known.keys():
        raise KeyError(f"{', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return {name: rung for name, rung in known.items() if not names or name in names}
