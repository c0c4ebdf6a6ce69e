"""The results of a run: a JSON file by the GPU's name, and its table.

Files worth keeping lie in `measured/`, and documents read their figures there.
"""

from __future__ import annotations

import os
import re
import statistics
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, Field

MEASURED = Path(__file__).with_name("measured")
BEST_LOSSLESS = ("product", "compiled-fused", "compiled-cudnn", "compiled-flash3", "compiled")


class SizeResult(BaseModel):
    """One item of another size, after the rung had seen the first one only."""

    what: str
    tokens: int
    seconds: float
    step_ms: float
    tflops: float


class RungResult(BaseModel):
    """The cost of one way of working. `skipped` says why there are no figures."""

    name: str
    what: str
    lossy: bool = Field(False, description="The picture changes by more than rounding.")
    skipped: str | None = None
    ready_s: float | None = Field(
        None, description="For drawing weights, compiling, and a first short item."
    )
    seconds: list[float] = Field([], description="Of each item, from its job to its pixels.")
    step_ms: float | None = None
    tflops: float | None = Field(None, description="TFLOP/s of a step; see flops.py.")
    peak_gb: float | None = Field(
        None, description="10⁹ bytes in tensors at most, warm-up included."
    )
    reserved_gb: float | None = Field(None, description="What the allocator held at most.")
    graphs: int | None = Field(None, description="That were compiled, all sizes included.")
    attention: str | None = Field(None, description="The backend, as diffusers calls it.")
    precision: str | None = Field(None, description="Of the blocks' products, if not the model's.")
    levels_max: int | None = Field(None, description="Largest difference to eager, of 255.")
    levels_mean: float | None = None
    velocity_error: float | None = Field(
        None, description="Of one step, beside eager's: root mean square, relative."
    )
    sizes: list[SizeResult] = []

    @property
    def item_s(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None


class Measurement(BaseModel):
    """One run of the command on one machine."""

    gpu: str = Field(description="The GPU's name, or the processor's.")
    memory_gb: float | None = None
    driver: str | None = None
    cuda: str | None = None
    versions: dict[str, str]
    commit: str | None
    geometry: str
    dtype: str
    tokens: int
    text_tokens: int
    steps: int
    minutes: float
    started_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    product_tflops: float | None = Field(
        None, description="TFLOP/s of one plain matrix product, 8192 cubed."
    )
    rungs: list[RungResult] = []

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")

    def rung(self, name: str) -> RungResult | None:
        """Return the rung of this name, if it was measured."""
        return next((each for each in self.rungs if each.name == name and each.seconds), None)

    @property
    def best_lossless(self) -> RungResult | None:
        """Return the fastest way that changes pictures by rounding only."""
        found = [each for each in map(self.rung, BEST_LOSSLESS) if each]
        return min(found, key=lambda each: each.item_s or 0, default=None)

    def write(self, folder: Path) -> None:
        """Write JSON and Markdown. The files are whole at any moment, because a run may be cut."""
        folder.mkdir(parents=True, exist_ok=True)
        for ending, text in ((".json", self.model_dump_json(indent=1)), (".md", self.table())):
            part = folder / f"{self.slug}{ending}.part"
            part.write_text(text + "\n")
            os.replace(part, folder / f"{self.slug}{ending}")

    def table(self) -> str:
        """Return the table as Markdown."""
        head = (
            f"{self.gpu}, {self.geometry} geometry in {self.dtype}: {self.tokens} image tokens, "
            f"{self.text_tokens} of text, {self.steps} steps; "
            + ", ".join(f"{name} {version}" for name, version in self.versions.items())
            + f"; commit {self.commit or 'unknown'}, {self.started_at:%Y-%m-%d}."
        )
        if self.product_tflops:
            head += f" One matrix product, 8192 cubed: {self.product_tflops:.0f} TFLOP/s."
        lines = [
            head, "",
            "| rung | s an item | ms a step | TFLOP/s | of eager | peak GB | levels, most (mean) | one step |",
            "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        lines += [self._row(each) for each in self.rungs]
        if self.geometry == "full" and (best := self.best_lossless):
            lines += [
                "",
                f"To estimate a first run by the best lossless rung: {self._setting(best)}.",
            ]
            if fast := self.rung("fast"):
                lines[-1] += f" With `--speed fast`: {self._setting(fast)}."
        sizes = [(rung, each) for rung in self.rungs for each in rung.sizes]
        if sizes:
            lines += ["", "| other sizes | tokens | s an item | ms a step | TFLOP/s |",
                      "|---|---|---|---|---|"]  # fmt: skip
            lines += [
                f"| {rung.what}: {each.what} | {each.tokens} | {each.seconds:.2f} "
                f"| {each.step_ms:.1f} | {_rate(each.tflops)} |"
                for rung, each in sizes
            ]
        return "\n".join(lines)

    def _setting(self, rung: RungResult) -> str:
        """The variable that has a run's estimate go by this rung."""
        assert rung.item_s is not None
        rate = rung.item_s / (self.tokens * self.steps) * 1e6
        return f"`ACE_SECONDS_PER_MILLION_TOKEN_STEPS={rate:.1f}`"

    def _row(self, rung: RungResult) -> str:
        name = f"{rung.what}{' (lossy)' if rung.lossy else ''}"
        if rung.item_s is None or rung.step_ms is None or rung.tflops is None:
            return f"| {name} | – | – | – | – | – | – | {rung.skipped} |"
        eager = self.rung("eager")
        share = f"{rung.item_s / eager.item_s:.2f}" if eager and eager.item_s else "–"
        peak = f"{rung.peak_gb:.1f}" if rung.peak_gb else "–"
        levels = "–" if rung.levels_max is None else f"{rung.levels_max} ({rung.levels_mean:.2f})"
        error = "–" if rung.velocity_error is None else f"{rung.velocity_error:.1e}"
        return (
            f"| {name} | {rung.item_s:.2f} | {rung.step_ms:.1f} | {_rate(rung.tflops)} | {share} "
            f"| {peak} | {levels} | {error} |"
        )


def _rate(tflops: float) -> str:
    return f"{tflops:.0f}" if tflops >= 10 else f"{tflops:.2g}"


def read_measured(folder: Path = MEASURED) -> list[Measurement]:
    """Read all kept measurements of the full geometry, the fastest GPU first."""
    found = [
        Measurement.model_validate_json(path.read_bytes()) for path in sorted(folder.glob("*.json"))
    ]
    whole = [each for each in found if each.geometry == "full" and each.best_lossless]
    return sorted(whole, key=lambda each: each.best_lossless.item_s)  # type: ignore[union-attr,arg-type,return-value]
