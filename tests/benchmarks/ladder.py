"""Seconds a step of the denoise loop, rung by rung: what each way of holding adapters, compiling
and attending costs.

    python -m tests.benchmarks.ladder --geometry full --device cuda --tokens 4096 --steps 28
    python -m tests.benchmarks.ladder              a small geometry, on any machine

Weights are random: speed does not depend on them. Of the small geometry every round runs every
rung once, so that a noisy neighbour hits all alike, and ratios are medians over rounds. Of the
full one a GPU holds one at a time: rung after rung, and ratios are of medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

from ace_tasks.model import keymap, sampling
from ace_tasks.model.ace import AceModel
from ace_tasks.model.text import Text
from ace_tasks.model.variants import FLUX_CONFIG, find_variant
from ace_tasks.model.weights import Parts

GEOMETRIES: dict[str, dict[str, Any]] = {
    "full": FLUX_CONFIG,
    "small": FLUX_CONFIG
    | {
        "num_layers": 2,
        "num_single_layers": 4,
        "attention_head_dim": 64,
        "num_attention_heads": 8,
        "joint_attention_dim": 512,
        "pooled_projection_dim": 256,
        "axes_dims_rope": (8, 28, 28),
    },
}
TFLOP_28_STEPS = {4096: 2083.0, 2048: 1056.0, 1024: 602.0}  # of the full geometry
RANK = 16


@dataclass
class Rung:
    """One way of working."""

    name: str
    mode: str | None  # how its adapters are held; None: there are none
    compiled: bool = False
    attention: str | None = None
    reload: bool = False


RUNGS = (
    Rung("no adapter", None),
    Rung("adapter loaded for every item, as upstream", "resident", reload=True),
    Rung("adapters resident", "resident"),
    Rung("adapter fused", "fused"),
    Rung("resident, compiled", "resident", compiled=True),
    Rung("fused, compiled", "fused", compiled=True),
    Rung("fused, compiled, cuDNN attention", "fused", compiled=True, attention="_native_cudnn"),
    Rung("fused, compiled, FlashAttention 3", "fused", compiled=True, attention="_flash_3"),
)


def make_transformer(config: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    """Random weights drawn where they lie: 24 GB do not pass through the host."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config, in_channels=384)
    model = model.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(0, value[0].numel() ** -0.5 if value.ndim > 1 else 0.02)
    return model.eval().requires_grad_(False)


def make_adapter(config: dict[str, Any], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    lora = {}
    for name, (rows, columns) in keymap.lora_linears(config | {"in_channels": 384}).items():
        lora[f"{name}.lora_down.weight"] = torch.randn(RANK, columns) * columns**-0.5
        lora[f"{name}.lora_up.weight"] = torch.randn(rows, RANK) * 0.01
        lora[f"{name}.alpha"] = torch.tensor(float(RANK))
    adapter = keymap.lora_from_comfy(lora, config | {"in_channels": 384})
    return {key: value.to(dtype) for key, value in adapter.items()}


class Bench:
    """One model brought to one rung, ready to denoise."""

    def __init__(self, rung: Rung, arguments: argparse.Namespace):
        self.rung, self.arguments = rung, arguments
        config = GEOMETRIES[arguments.geometry]
        self.device = arguments.device
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        transformer = make_transformer(config, self.device, dtype)
        names = ("portrait", "subject", "local_editing") if rung.mode else ()
        self.adapters = {name: make_adapter(config, dtype) for name in names}
        parts = Parts(transformer, *(None,) * 5, adapters={} if rung.reload else self.adapters)  # type: ignore[arg-type]
        mode: Any = rung.mode or "resident"
        variant = find_variant("toy-lora")
        self.model = AceModel(variant, parts, self.device, variant.identity(), mode)
        if self.adapters and not rung.reload:
            self.model.adapters.select("subject")
        if rung.attention and self.device == "cpu":
            raise ValueError("needs a GPU")
        # It also sets diffusers' default for the whole process: say it for every rung.
        transformer.set_attention_backend(rung.attention or "native")
        if rung.compiled:
            transformer.compile_repeated_blocks(fullgraph=True)
        self.inputs = self._inputs(config, dtype)

    def _inputs(self, config: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
        batch, tokens = self.arguments.batch, self.arguments.tokens
        side = int(tokens**0.5)
        like: dict[str, Any] = {"device": self.device, "dtype": dtype}
        return {
            "start_BCHW": torch.randn(batch, 16, 2 * side, 2 * side, **like),
            "condition_BND": torch.randn(batch, side * side, 320, **like),
            "text": Text(
                torch.randn(batch, 512, config["joint_attention_dim"], **like),
                torch.randn(batch, config["pooled_projection_dim"], **like),
            ),
            "guidance": 50.0,
        }

    @torch.inference_mode()
    def item(self, steps: int) -> float:
        """Seconds of one batch, synchronised."""
        started = self._now()
        transformer = self.model.parts.transformer
        if self.rung.reload:
            transformer.load_lora_adapter(
                dict(self.adapters["subject"]), adapter_name="once", prefix=None
            )
        sigmas = sampling.sigmas(steps, self.inputs["condition_BND"].shape[1])
        self.model.denoise(sigmas=sigmas, **self.inputs)
        if self.rung.reload:
            transformer.delete_adapters("once")
        return self._now() - started

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()


def measure(rung: Rung, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each round, and the peak of memory; or why the rung could not be reached."""
    try:
        bench = Bench(rung, arguments)
        bench.item(2)  # warm up, compile
        if arguments.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = [bench.item(arguments.steps) for _ in range(arguments.rounds)]
    except (RuntimeError, ImportError, ValueError) as error:
        return {"reason": f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"}
    peak = torch.cuda.max_memory_allocated() / 1e9 if arguments.device == "cuda" else None
    return {"times": times, "peak_gb": peak}


def measure_together(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """All rungs in one process, a round of each in turn: for geometries that fit several times."""
    benches: dict[str, Bench] = {}
    found: dict[str, dict[str, Any]] = {}
    for rung in RUNGS:
        try:
            bench = Bench(rung, arguments)
            bench.item(2)
            benches[rung.name] = bench
            found[rung.name] = {"times": [], "peak_gb": None}
        except (RuntimeError, ImportError, ValueError) as error:
            reason = str(error).splitlines()[0][:80] if str(error) else ""
            found[rung.name] = {"reason": f"{type(error).__name__}: {reason}"}
    for _ in range(arguments.rounds):
        for name, bench in benches.items():
            found[name]["times"].append(bench.item(arguments.steps))
    return found


def table(found: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Markdown. Ratios are to the first rung, round by round."""
    base = found[RUNGS[0].name].get("times")
    lines = [
        "| rung | ms a step | s an item | ratio | TFLOP/s | peak GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in found.items():
        if "reason" in result:
            lines.append(f"| {name} | – | – | – | – | {result['reason']} |")
            continue
        times = result["times"]
        seconds = statistics.median(times) / arguments.batch
        if arguments.geometry == "full":
            ratio = statistics.median(times) / statistics.median(base) if base else 0
        else:
            ratio = statistics.median(b / a for a, b in zip(base or times, times, strict=True))
        work = TFLOP_28_STEPS.get(arguments.tokens)
        known = work and arguments.geometry == "full" and arguments.steps == 28
        rate = f"{work / seconds:.0f}" if known else "–"  # type: ignore[operator]
        peak = f"{result['peak_gb']:.1f}" if result["peak_gb"] else "–"
        step_ms = 1000 * seconds / arguments.steps
        lines.append(f"| {name} | {step_ms:.1f} | {seconds:.2f} | {ratio:.2f} | {rate} | {peak} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=int, default=1024, help="of the canvas, a square")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    run: Callable[[], dict[str, dict[str, Any]]] = (
        (lambda: {rung.name: measure(rung, arguments) for rung in RUNGS})
        if arguments.geometry == "full"
        else (lambda: measure_together(arguments))
    )
    found = run()
    print(
        f"{arguments.geometry}, {arguments.tokens} tokens, batch {arguments.batch}, "
        f"{arguments.steps} steps, {arguments.rounds} rounds, {arguments.device}, "
        f"torch {torch.__version__}\n"
    )
    print(table(found, arguments))


if __name__ == "__main__":
    main()
