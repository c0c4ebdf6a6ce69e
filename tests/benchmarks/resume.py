"""The time in which a resumed run sees what is done: many records under one output, all planned.

    .venv/bin/python -m tests.benchmarks.resume --records 3000 30000

Beside it the least it could take, one bare listing of the same keys. On a SeaweedFS of its own,
whose work is in the seconds too: all of it shares this machine.
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
from itertools import repeat
from pathlib import Path

import pyarrow
import pyarrow.parquet

from ace_tasks.plan import plan_file, resume
from ace_tasks.provenance.keys import record_key
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, join_uri
from infra.object_store import ObjectStore

_WRITERS = 32


def item_ids(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def fill(store: Store, output: str, start: int, end: int) -> None:
    """Empty records: a listing does not look inside."""

    def put(item_id: str) -> None:
        store.put(join_uri(output, record_key(item_id)), b"{}", "application/json")

    with store.in_parallel(_WRITERS) as pool:
        for _ in pool.map(put, item_ids(end)[start:]):
            pass


def write_plan(path: Path, ids: list[str]) -> None:
    columns: dict[str, object] = {
        "position": range(len(ids)),
        "line": range(1, len(ids) + 1),
        "row_id": [f"row-{number}" for number in range(len(ids))],
        "item_id": ids,
        "same_as": list(repeat(None, len(ids))),
        "task": list(repeat("fill", len(ids))),
        "item": list(repeat("{}", len(ids))),
    }
    arrays = [pyarrow.array(columns[field.name], field.type) for field in plan_file.SCHEMA]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=plan_file.SCHEMA), path)


def measure(output: str, count: int) -> dict[str, float]:
    """Seconds of a bare listing and of `resume.find_finished`, and this process's peak memory."""
    store = Store(StoreSettings())
    started = time.monotonic()
    listed = sum(1 for _ in store.list(join_uri(output, "records/")))
    bare = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.parquet"
        write_plan(path, item_ids(count))
        planned = time.monotonic()
        found = resume.find_finished(store, output, path)
        ended = time.monotonic()
    assert listed == len(found.records) == count
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"listing_s": bare - started, "resume_s": ended - planned, "peak_mb": peak_mb}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--records", type=int, nargs="+", default=[3_000, 30_000])
    arguments.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], int(given.one[1]))))
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
