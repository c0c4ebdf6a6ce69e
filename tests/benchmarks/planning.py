"""What it costs to plan a catalog, beside the least that it could: reading and validating its rows.

    .venv/bin/python -m tests.benchmarks.planning --rows 10000 100000

Each size runs in a process of its own, so that the peak memory is its own. Seconds are of the CPU:
machines are shared. Identification (a HEAD a source) is left out, by a store that knows all.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ace_tasks import plan
from ace_tasks.catalog import read_rows, to_specs
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import StoreSettings
from ace_tasks.specs import parse_spec
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
    """CPU seconds of a validation loop and of a plan over the same file, and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        catalog, path = Path(folder) / "catalog.jsonl", Path(folder) / "plan.parquet"
        write_catalog(catalog, rows)
        started = time.process_time()
        with catalog.open() as lines:
            for line in lines:
                parse_spec(json.loads(line))
        validated = time.process_time()
        specs = to_specs(read_rows(catalog), "s3://shop/catalog.jsonl", None)
        model, store = find_variant("toy").identity(), KnowsAll(StoreSettings())
        plan.build_plan(specs, model, store, path, Path(folder) / "rejects.jsonl")
        planned = time.process_time()
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        plan_bytes = path.stat().st_size
    return {
        "validate_s": validated - started,
        "plan_s": planned - validated,
        "peak_mb": peak_mb,
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
    print("| rows | validated, rows/s | planned, rows/s | ratio | peak MB | plan MB |")
    print("|---|---|---|---|---|---|")
    for rows in given.rows:
        command = [sys.executable, "-m", "tests.benchmarks.planning", "--one", str(rows)]
        found = json.loads(subprocess.check_output(command))
        speeds = [rows / found["validate_s"], rows / found["plan_s"]]
        print(
            f"| {rows:,} | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {speeds[0] / speeds[1]:.1f} "
            f"| {found['peak_mb']:.0f} | {found['plan_mb']:.0f} |"
        )


if __name__ == "__main__":
    main()
