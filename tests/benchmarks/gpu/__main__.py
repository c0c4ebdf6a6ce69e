"""Measure what one edit costs on this machine, rung by rung, until the time is used up.

    python -m tests.benchmarks.gpu --minutes 6 --out out/gpu
    python -m tests.benchmarks.gpu --geometry tiny --device cpu --out out/gpu

The files in the folder are whole after each rung, so a run that is cut keeps what it has.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

_STARTED = time.monotonic()
# A machine without a network must not wait for the hub. HF_HUB_OFFLINE=0 lets its kernels come.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402

from ace_tasks.model.variants import find_variant  # noqa: E402
from ace_tasks.replica import runtime_info  # noqa: E402
from tests.benchmarks.gpu import random_parts, rungs  # noqa: E402
from tests.benchmarks.gpu.results import Measurement, RungResult  # noqa: E402

_REST_S = 10  # kept free for writing, and for what a rung takes longer than was thought


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    best = runtime_info.best_device()
    parser.add_argument("--minutes", type=float, default=6.0, help="all in all (6)")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder (out/gpu)")
    parser.add_argument("--geometry", choices=random_parts.GEOMETRIES, default="full")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=best)
    parser.add_argument("--items", type=int, default=2, help="measured on each rung (2)")
    parser.add_argument("--steps", type=int, help="of an item (the geometry's)")
    parser.add_argument("--only", nargs="+", default=[], metavar="RUNG")
    parser.add_argument("--commit", help="of this code, where it is no git checkout")
    given = parser.parse_args(arguments)
    if given.geometry == "full" and given.device == "cpu":
        parser.error("the full geometry needs a GPU of 40 GB or more; try --geometry tiny")
    if given.steps is not None and given.steps < 3:
        parser.error("--steps: accepted: 3 or more")
    try:
        rungs.find(given.only)
    except KeyError as error:
        parser.error(f"--only: no rung {error.args[0]}")
    return given


def describe(given: argparse.Namespace) -> Measurement:
    """Return the measurement of this machine and this work, before any rung."""
    geometry = random_parts.GEOMETRIES[given.geometry]
    hardware, code = runtime_info.hardware(given.device), runtime_info.code()
    cuda = given.device == "cuda"
    job = random_parts.make_job(geometry, geometry.side_px)
    return Measurement(
        gpu=hardware.name,
        memory_gb=torch.cuda.get_device_properties(0).total_memory / 1e9 if cuda else None,
        driver=hardware.driver,
        cuda=hardware.cuda,
        versions=runtime_info.versions(),
        commit=given.commit or (code.commit if code else None),
        geometry=geometry.name,
        dtype=str(random_parts.dtype_on(given.device)).removeprefix("torch."),
        tokens=rungs.tokens_of(job),
        text_tokens=find_variant(geometry.variant).text_tokens,
        steps=given.steps or geometry.steps,
        minutes=given.minutes,
        product_tflops=rungs.product_tflops(given.device),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)

    def left_s() -> float:
        return 60 * given.minutes - (time.monotonic() - _STARTED) - _REST_S

    found = describe(given)
    found.write(given.out)
    print(f"{found.gpu}: started, {left_s():.0f} s left", flush=True)
    geometry = random_parts.GEOMETRIES[given.geometry]
    parts = random_parts.make_parts(geometry, given.device)
    place = rungs.Workplace(geometry, given.device, found.steps, given.items, parts)
    print(f"random weights drawn, {left_s():.0f} s left", flush=True)
    for rung in rungs.find(given.only).values():
        needs_s = rung.needs_s if geometry.name == "full" else 0.0
        if left_s() < needs_s or left_s() <= 0:
            result = RungResult(
                name=rung.name, what=rung.what, lossy=rung.lossy,
                skipped=f"{max(0, left_s()):.0f} s were left, about {needs_s:.0f} s are needed",
            )  # fmt: skip
        else:
            result = rungs.measure(rung, place, left_s)
        found.rungs.append(result)
        found.write(given.out)
        seen = f"{result.item_s:.2f} s an item" if result.item_s else result.skipped
        print(f"{rung.name}: {seen}; {left_s():.0f} s left", flush=True)
    print(f"\n{found.table()}\n\n{given.out / found.slug}.json")


if __name__ == "__main__":
    main()
