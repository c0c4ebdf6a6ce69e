"""The cost of planning a catalog, beside the least possible: reading and validating its rows.

    .venv/bin/python -m tests.benchmarks.planning --rows 10000 100000

Each size runs in a process of its own, so that the peak memory is its own. Seconds are of the CPU:
machines are shared. No HEAD is sent: the store knows all. "Identified" is the time in which rows
become items with an id; the second ratio leaves it out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from ace_tasks.catalog.files import read_rows, to_specs
from ace_tasks.model.variants import find_variant
from ace_tasks.plan import plan_file
from ace_tasks.plan.identify import identified
from ace_tasks.settings import StoreSettings
from ace_tasks.specs import DEFAULT_PIXELS, parse_spec
from ace_tasks.store import ObjectInfo, Store


class KnowsAll(Store):
    """Answers at once, as if each object were there."""

    def head(self, uri: str) -> ObjectInfo:
        return ObjectInfo(uri, size_bytes=len(uri), etag=f'"{hash(uri):x}"')


def write_catalog(path: Path, rows: int) -> None:
    with path.open("w") as file:
        for number in range(rows):
            row = {
                "id": f"row-{number}",
                "task": "fill",
                "image": f"s3://shop/in/{number}.jpg",
                "mask": {"box": [0.1, 0.1, 0.5, 0.5]},
                "prompt": f"a wall in colour {number % 7}",
            }
            file.write(json.dumps(row) + "\n")


def measure(rows: int) -> dict[str, float]:
    """CPU seconds of a validation loop, of reading, of identifying and of a plan over the same
    file, and peak memory.
    """
    model, store = find_variant("toy").identity(), KnowsAll(StoreSettings())
    clock = time.process_time
    with tempfile.TemporaryDirectory() as folder:
        catalog, path = Path(folder) / "catalog.jsonl", Path(folder) / "plan.parquet"
        write_catalog(catalog, rows)

        def specs() -> Iterator[Any]:
            return to_specs(read_rows(catalog), "s3://shop/catalog.jsonl", None)

        times = [clock()]
        with catalog.open() as lines:
            for line in lines:
                parse_spec(json.loads(line))
        times.append(clock())
        deque(specs(), maxlen=0)
        times.append(clock())
        deque(identified(specs(), model, store, DEFAULT_PIXELS), maxlen=0)
        times.append(clock())
        plan_file.build_plan(
            specs(), plan_file.Basis(model), store, plan_file.PlanFiles.within(Path(folder))
        )
        times.append(clock())
        plan_bytes = path.stat().st_size
    validate_s, read_s, identified_s, plan_s = (b - a for a, b in pairwise(times))
    return {
        "validate_s": validate_s,
        "identify_s": identified_s - read_s,
        "plan_s": plan_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "plan_mb": plan_bytes / 2**20,
    }


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    arguments.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.one:
        print(json.dumps(measure(given.one)))
        return
    print("| rows | validated | planned | of it identified | ratio | without | peak MB | plan MB |")
    print("|---|---|---|---|---|---|---|---|")
    for rows in given.rows:
        command = [sys.executable, "-m", "tests.benchmarks.planning", "--one", str(rows)]
        found = json.loads(subprocess.check_output(command))
        validate, identify, planned = (found[f"{n}_s"] for n in ("validate", "identify", "plan"))
        each_us = " | ".join(f"{s / rows * 1e6:.0f} µs" for s in (validate, planned, identify))
        ratios = f"{planned / validate:.1f} | {(planned - identify) / validate:.1f}"
        memory = f"{found['peak_mb']:.0f} | {found['plan_mb']:.0f}"
        print(f"| {rows:,} | {each_us} | {ratios} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
