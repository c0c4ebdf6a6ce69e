"""The memory of a long run: the main flow over many items whose denoise is nothing.

    python -m tests.benchmarks.steady                50,000 items
    python -m tests.benchmarks.steady --items 5000   a look

Tiny pictures, a model that sleeps 0 s, one replica; everything else is real. Memory is what the
flow's process and the replica's have for themselves, sampled each second, as means over the first
and the last tenth of the items.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Iterator, Sequence

from tests.benchmarks.arena import Run, open_arena
from tests.benchmarks.peers import OURS, target

_MB = 2**20
_FLAT = 1.05


def tenths(run: Run, pid: int) -> list[float]:
    """Mean memory of a process alone in MB, in each tenth of the items."""
    times = [entry.time_s for entry in run.workload.entries("published")]
    bounds = [times[len(times) * n // 10] for n in range(10)] + [times[-1]]
    found = []
    for start, end in itertools.pairwise(bounds):
        taken = [each[pid].own for at, each in run.samples if start <= at <= end and pid in each]
        found.append(statistics.mean(taken) / _MB if taken else float("nan"))
    return found


def table(run: Run) -> Iterator[str]:
    replica = run.workload.entries("begun")[-1].pid
    processes = {"flow": run.pid, "replica": replica}
    yield f"| process | {' | '.join(f'{n}/10' for n in range(1, 11))} | last to first |"
    yield f"|---|{'---|' * 11}"
    found = {name: tenths(run, pid) for name, pid in processes.items()}
    for name, each in found.items():
        cells = " | ".join(f"{mb:.0f} MB" for mb in each)
        yield f"| {name} | {cells} | {each[-1] / each[0]:.3f} |"
    yield ""
    for name, each in found.items():
        yield target(
            f"{name}: memory in the last tenth, of the first's",
            each[-1] / each[0],
            _FLAT,
            most=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--items", type=int, default=50_000)
    given = parser.parse_args(arguments)
    print(f"Load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n", flush=True)
    with open_arena() as arena:
        workload = arena.workload(
            "steady", items=given.items, side_px=64, pictures=16, variant="toy", sleep_s=0.0
        )
        started = time.monotonic()
        run = arena.run(OURS, arena.place(workload, OURS), limit_s=4 * 3600)
        if run.code:
            raise RuntimeError(f"code {run.code}\n{run.log.read_text()[-3000:]}")
        print(
            f"{len(run.workload.entries('published'))} of {given.items} items, {run.items_s:.1f} a second, "
            f"{time.monotonic() - started:.0f} s\n"
        )
        print("\n".join(table(run)))
    print(f"\nLoad after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
