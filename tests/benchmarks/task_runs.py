"""The load of one long run on a Prefect server: ten thousand shards, a task run each.

    python -m tests.benchmarks.task_runs
    python -m tests.benchmarks.task_runs --runs 1000

The server's database is SQLite, or an empty PostgreSQL of yours that
`PREFECT_SERVER_DATABASE_CONNECTION_URL` names (postgresql+asyncpg://user:password@host/database).

The main flow, with one item a shard (it takes 32 otherwise), so that there are as many task runs as
of 320,000 items; a model that sleeps 0 s, one replica. Each second somebody asks for the list of
runs, as an open page of the UI does. All of it shares this machine, so a server's limit is not
reached: that it keeps up, and what it takes for a task run, is what is seen.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil

from tests.benchmarks.arena import Arena, Run, open_arena
from tests.benchmarks.footprint import memory
from tests.benchmarks.peers import OURS

_MB = 2**20
_SILENCE_S = 90  # records reach the server through a queue of its own


class Visitor:
    """Asks the server for its runs each second, and weighs it, until the block ends."""

    def __init__(self, arena: Arena):
        self._api = httpx.Client(base_url=arena.env["PREFECT_API_URL"], timeout=60)
        self._server = psutil.Process(arena.server_pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._visit)
        self.waited_s: list[float] = []
        self.refused = 0
        self.memory_mb: list[float] = []
        self.cpu_s = 0.0

    def __enter__(self) -> Visitor:
        self._cpu_before = self._cpu()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.cpu_s = self._cpu() - self._cpu_before

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._api.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    def _visit(self) -> None:
        while not self._ended.wait(1):
            began = time.monotonic()
            try:
                self.ask("/flow_runs/filter", {"limit": 200, "sort": "START_TIME_DESC"})
            except httpx.HTTPError:
                self.refused += 1
            self.waited_s.append(time.monotonic() - began)
            self.memory_mb.append(memory(self._server.pid).own / _MB)

    def _cpu(self) -> float:
        times = self._server.cpu_times()
        return times.user + times.system


def size_bytes(folder: Path, url: str | None) -> int:
    """Return the size of the database at `url`, or of the SQLite in `folder`, its log included."""
    if url:
        return asyncio.run(_postgres_bytes(url))
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a database at work takes files away
            found += path.stat().st_size
    return found


async def _postgres_bytes(url: str) -> int:
    connection = await asyncpg.connect(url.replace("+asyncpg", "", 1))
    try:
        return int(await connection.fetchval("SELECT pg_database_size(current_database())"))
    finally:
        await connection.close()


def measure(runs: int) -> str:
    """A row of the table."""
    url = os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL")
    with open_arena() as arena, Visitor(arena) as visitor:
        kept = arena.folder / "prefect"
        before = size_bytes(kept, url)
        workload = arena.workload(
            "task-runs",
            items=runs,
            side_px=64,
            pictures=16,
            variant="toy",
            sleep_s=0.0,
            shard_size=1,
        )
        run: Run = arena.run(OURS, arena.place(workload, OURS), limit_s=4 * 3600)
        if run.code or len(run.workload.entries("published")) != runs:
            raise RuntimeError(f"code {run.code}\n{run.log.read_text()[-3000:]}")
        shards: dict[str, Any] = {"task_runs": {"name": {"like_": "shard-"}}}
        done = {"state": {"type": {"any_": ["COMPLETED"]}}}
        ended, grew, completed = time.monotonic(), time.monotonic(), -1
        while completed < runs and time.monotonic() - grew < _SILENCE_S:
            before_it = completed
            completed = visitor.ask("/task_runs/count", {"task_runs": shards["task_runs"] | done})
            grew = time.monotonic() if completed > before_it else grew
            time.sleep(1)
        recorded = visitor.ask("/task_runs/count", shards)
        behind_s = grew - ended
        grown_kb = (size_bytes(kept, url) - before) / 1024 / runs
    seconds = run.whole_s
    slowest = sorted(visitor.waited_s)
    return (
        f"| {'PostgreSQL' if url else 'SQLite'} | {recorded:,} | {completed:,} | {seconds:.0f} | {behind_s:.0f} "
        f"| {runs / (seconds + behind_s):.1f} "
        f"| {1000 * visitor.cpu_s / runs:.1f} | {grown_kb:.1f} "
        f"| {visitor.memory_mb[0]:.0f} → {visitor.memory_mb[-1]:.0f} "
        f"| {statistics.median(slowest):.2f}, {slowest[int(0.95 * len(slowest))]:.2f}, "
        f"{slowest[-1]:.2f} | {visitor.refused} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    given = parser.parse_args(arguments)
    print(f"Load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print(
        "| database | task runs | completed | s | recorded s later | a second | server's CPU, ms each | database, KB each "
        "| server, MB | list of runs: median, 95 %, slowest, s | refused |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    print(measure(given.runs), flush=True)


if __name__ == "__main__":
    main()
