"""The time in which a resumed run sees what is done: many records under one output, all planned.

    .venv/bin/python -m tests.benchmarks.resume --records 3000 30000
    .venv/bin/python -m tests.benchmarks.resume --made 10000000 --done 0.5

Beside it the least it could take, one bare listing of the same keys. On a SeaweedFS of its own,
whose work is in the seconds too: all of it shares this machine.

Records by the million are `--made`: their listings come from a file, so that CPU and memory are
those of going on, without boto3 and its parsing of pages. `--done` is the share of the planned
items that has a record.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from ace_tasks.plan import plan_file, resume
from ace_tasks.plan.outline import PlanCounts
from ace_tasks.plan.plan_file import PlanFiles
from ace_tasks.plan.planned import Planned
from ace_tasks.provenance.keys import record_key
from ace_tasks.settings import StoreSettings
from ace_tasks.store import ObjectInfo, Store, join_uri
from infra.object_store import ObjectStore

_WRITERS = 32
_AT_ONCE = 100_000


def item_ids(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def fill(store: Store, output: str, start: int, end: int) -> None:
    """Empty records: a listing does not look inside."""

    def put(item_id: str) -> None:
        store.put(join_uri(output, record_key(item_id)), b"{}", "application/json")

    with store.in_parallel(_WRITERS) as pool:
        for _ in pool.map(put, item_ids(end)[start:]):
            pass


def write_plan(path: Path, ids: Iterator[list[str]]) -> None:
    with pyarrow.parquet.ParquetWriter(path, plan_file.SCHEMA, compression="zstd") as writer:
        first = 0
        for batch in ids:
            numbers = range(first, first := first + len(batch))
            columns: dict[str, object] = {
                "position": numbers,
                "line": [number + 1 for number in numbers],
                "row_id": [f"row-{number}" for number in numbers],
                "item_id": batch,
                "same_as": list(repeat(None, len(batch))),
                "task": list(repeat("fill", len(batch))),
                "item": list(repeat("{}", len(batch))),
                "earlier_ids": [each[::-1] for each in batch],
            }
            arrays = [pyarrow.array(columns[each.name], each.type) for each in plan_file.SCHEMA]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=plan_file.SCHEMA))


def batches(count: int) -> Iterator[list[str]]:
    for start in range(0, count, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, count))
        yield [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]


class Recorded(Store):
    """Lists the records of a file of sorted ids, 32 bytes each, and no failures."""

    def __init__(self, path: Path):
        super().__init__(StoreSettings())
        self._path = path
        self._starts = json.loads(path.with_suffix(".starts").read_text())

    def list(self, prefix_uri: str, *, after: str = "") -> Iterator[ObjectInfo]:
        _, kind, start, _ = prefix_uri.rsplit("/", 3)
        if kind != "records":
            return
        first, last = (self._starts[int(start, 16) + n] for n in (0, 1))
        with self._path.open("rb") as file:
            file.seek(32 * first)
            for _ in range(first, last):
                item_id = file.read(32).hex()
                yield ObjectInfo(f"{prefix_uri}{item_id}.json", 2, "")


def make(folder: Path, count: int, done: float) -> None:
    """Write a plan of so many items, and the ids of those that have a record."""
    write_plan(folder / "plan.parquet", batches(count))
    rows = np.fromiter(
        (bytes.fromhex(each) for batch in batches(int(count * done)) for each in batch),
        "S32",
    )
    rows.sort()
    rows.tofile(folder / "records")
    first_bytes = rows.view(np.uint8)[::32]
    starts = np.searchsorted(first_bytes, np.arange(257)).tolist()
    (folder / "records.starts").write_text(json.dumps(starts))
    (folder / "rejects.jsonl").touch()


def measure_made(folder: Path, count: int) -> dict[str, float]:
    """CPU seconds until it is known what is to do, and this process's peak memory."""
    store, files = Recorded(folder / "records"), PlanFiles.within(folder)
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.process_time()
    found = resume.find_finished(store, "s3://bench/out", files.plan)
    planned = Planned.of(files, PlanCounts(planned=count), found)
    ended = time.process_time()
    assert planned.rows_to_do == count - len(found.records)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"resume_s": ended - started, "peak_mb": peak_mb, "before_mb": before_mb}


def run_made(count: int, done: float) -> None:
    with tempfile.TemporaryDirectory(prefix="ace-resume-") as folder:
        for action in ("--make", "--measure"):
            command = [sys.executable, "-m", "tests.benchmarks.resume", action, folder]
            command += ["--made", str(count), "--done", str(done)]
            answer = subprocess.check_output(command)
    found = json.loads(answer)
    print(
        f"| {count:,} | {done:.0%} | {found['resume_s'] / count * 1e6:.1f} µs "
        f"| {found['before_mb']:.0f} | {found['peak_mb']:.0f} |",
        flush=True,
    )


def measure(output: str, count: int) -> dict[str, float]:
    """Seconds of a bare listing and of `resume.find_finished`, and this process's peak memory."""
    store = Store(StoreSettings())
    started = time.monotonic()
    listed = sum(1 for _ in store.list(join_uri(output, "records/")))
    bare = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.parquet"
        write_plan(path, batches(count))
        planned = time.monotonic()
        found = resume.find_finished(store, output, path)
        ended = time.monotonic()
    assert listed == len(found.records) == count
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"listing_s": bare - started, "resume_s": ended - planned, "peak_mb": peak_mb}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--records", type=int, nargs="+", default=[3_000, 30_000])
    arguments.add_argument("--made", type=int, nargs="+", default=[])
    arguments.add_argument("--done", type=float, default=0.5)
    arguments.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.make:
        make(given.make, given.made[0], given.done)
        return
    if given.measure:
        print(json.dumps(measure_made(given.measure, given.made[0])))
        return
    if given.one:
        print(json.dumps(measure(given.one[0], int(given.one[1]))))
        return
    if given.made:
        print("| planned | done | CPU each | MB at the start | peak MB |\n|---|---|---|---|---|")
        for count in given.made:
            run_made(count, given.done)
        return
    with tempfile.TemporaryDirectory(prefix="ace-resume-") as folder:
        service = ObjectStore(Path(folder)).start()
        try:
            os.environ.update(service.env)
            store, output = Store(StoreSettings()), "s3://bench/out"
            store.create_bucket("bench")
            print("| records | written, /s | one listing, s | resume, s | records/s | peak MB |")
            print("|---|---|---|---|---|---|")
            before = 0
            for count in sorted(given.records):
                started = time.monotonic()
                fill(store, output, before, count)
                rate = (count - before) / (time.monotonic() - started)
                before = count
                command = [sys.executable, "-m", "tests.benchmarks.resume", "--one", output]
                found = json.loads(subprocess.check_output([*command, str(count)]))
                print(
                    f"| {count:,} | {rate:,.0f} | {found['listing_s']:.1f} "
                    f"| {found['resume_s']:.1f} | {count / found['resume_s']:,.0f} "
                    f"| {found['peak_mb']:.0f} |",
                    flush=True,
                )
        finally:
            service.stop()


if __name__ == "__main__":
    main()
