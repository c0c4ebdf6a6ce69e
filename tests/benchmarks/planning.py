"""The cost of planning a catalog, beside the least possible: reading and validating its rows.

    .venv/bin/python -m tests.benchmarks.planning --rows 10000 100000
    .venv/bin/python -m tests.benchmarks.planning --rows 1000000 --before ../an-earlier-commit

Each size runs in a process of its own, so that the peak memory is its own. Seconds are of the CPU,
of all threads: machines are shared. With a store that knows all at once, no request is sent.
"Identified" is the time in which rows become items with an id; the second ratio leaves it out.
"Listed" is a whole plan whose sources a store on paper tells by listings, as AWS does, through
boto3 and HTTP; the store's own work is not in it. Its wall time is that to the first picture.
`--before` runs the same of another tree in turn, which must be able to run with this environment.
"""

from __future__ import annotations

import argparse
import json
import os
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
from ace_tasks.errors import Forbidden
from ace_tasks.model.variants import find_variant
from ace_tasks.plan import plan_file
from ace_tasks.plan.identify import identified
from ace_tasks.settings import StoreSettings
from ace_tasks.specs import DEFAULT_PIXELS, parse_spec
from ace_tasks.store import ObjectInfo, Store
from tests.benchmarks.paper_store import key, paper_store


class KnowsAll(Store):
    """Answers HEADs at once, as if each object were there, and may not be listed."""

    def head(self, uri: str) -> ObjectInfo:
        return ObjectInfo(uri, size_bytes=len(uri), etag=f'"{hash(uri):x}"')

    def list(self, prefix_uri: str, *, after: str = "") -> Iterator[ObjectInfo]:
        raise Forbidden(prefix_uri, "may not be listed")
        yield


def write_catalog(path: Path, rows: int) -> None:
    with path.open("w") as file:
        for number in range(rows):
            row = {
                "id": f"row-{number}",
                "task": "fill",
                "image": f"s3://shop/{key(number)}",
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
        _plan(specs(), store, Path(folder))
        times.append(clock())
        plan_bytes = path.stat().st_size
    validate_s, read_s, identified_s, plan_s = (b - a for a, b in pairwise(times))
    return {
        "validate_s": validate_s,
        "identify_s": identified_s - read_s,
        "plan_s": plan_s,
        "peak_mb": _peak_mb(),
        "plan_mb": plan_bytes / 2**20,
    }


def measure_listed(rows: int) -> dict[str, float]:
    """CPU and wall seconds of a plan whose sources are listed over HTTP, and peak memory."""
    with tempfile.TemporaryDirectory() as folder, paper_store(rows) as endpoint_url:
        catalog = Path(folder) / "catalog.jsonl"
        write_catalog(catalog, rows)
        store = Store(StoreSettings(endpoint_url=endpoint_url))
        started, cpu = time.monotonic(), time.process_time()
        _plan(to_specs(read_rows(catalog), "s3://shop/c.jsonl", None), store, Path(folder))
        return {
            "listed_s": time.process_time() - cpu,
            "listed_wall_s": time.monotonic() - started,
            "listed_peak_mb": _peak_mb(),
        }


def _plan(specs: Iterator[Any], store: Store, folder: Path) -> None:
    basis = plan_file.Basis(find_variant("toy").identity())
    plan_file.build_plan(specs, basis, store, plan_file.PlanFiles.within(folder))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _run(option: str, rows: int, tree: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.planning", option, str(rows)]
    keys = {"AWS_ACCESS_KEY_ID": "paper", "AWS_SECRET_ACCESS_KEY": "paper"}
    keys |= {"AWS_DEFAULT_REGION": "us-east-1", "PYTHONPATH": str(tree.resolve())}
    environment = os.environ | keys
    found = subprocess.check_output(command, cwd=tree, env=environment)
    return dict(json.loads(found.splitlines()[-1]))


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    arguments.add_argument("--before", type=Path, help="another tree to run in turn")
    arguments.add_argument("--listed", action="store_true", help="only plans with listed sources")
    arguments.add_argument("--pairs", type=int, default=1, help="how often each is run")
    arguments.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments.add_argument("--one-listed", type=int, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.one or given.one_listed:
        found = measure(given.one) if given.one else measure_listed(given.one_listed)
        print(json.dumps(found))
        return
    here = Path(__file__).parents[2]
    names = _LISTED if given.listed else _NAMES + _LISTED
    print("| tree | rows | " + " | ".join(names) + " |")
    print("|---" * (2 + len(names)) + "|")
    for rows in given.rows:
        for tree in [each for each in (given.before, here) if each] * given.pairs:
            found = {} if given.listed else _run("--one", rows, tree)
            found |= _run("--one-listed", rows, tree)
            _print("now" if tree == here else "before", rows, found)


_NAMES = ("validated", "planned", "of it identified", "ratio", "without", "peak MB", "plan MB")
_LISTED = ("listed", "wall", "peak MB")


def _print(tree: str, rows: int, found: dict[str, float]) -> None:
    def us(name: str) -> str:
        return f"{found[name] / rows * 1e6:.0f} µs"

    cells = [tree, f"{rows:,}"]
    if "plan_s" in found:
        validate, identify, planned = (found[f"{n}_s"] for n in ("validate", "identify", "plan"))
        cells += [us("validate_s"), us("plan_s"), us("identify_s")]
        cells += [f"{planned / validate:.1f}", f"{(planned - identify) / validate:.1f}"]
        cells += [f"{found['peak_mb']:.0f}", f"{found['plan_mb']:.0f}"]
    cells += [us("listed_s"), f"{found['listed_wall_s']:.1f} s", f"{found['listed_peak_mb']:.0f}"]
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
