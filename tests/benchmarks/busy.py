"""The share of a GPU that the plumbing wastes, for a replica whose denoise only sleeps.

    python -m tests.benchmarks.busy

The real dispatcher and replica over a real store, JPEG of 1024² in and out; the model sleeps on the
thread that owns it. Busy share: seconds of passes over seconds, from one tenth of the passes on to
the start of the last one, so neither starting up nor the tail counts.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ace_tasks.engine.dispatcher import Dispatcher
from ace_tasks.engine.session import ray_session
from ace_tasks.model.sources import identify, open_variant
from ace_tasks.plan.identify import Identities
from ace_tasks.provenance.outcomes import Done, Failed
from ace_tasks.settings import PoolSettings, ReplicaSettings, WeightsSettings
from ace_tasks.specs import WorkItem, parse_spec, work_item
from tests.benchmarks.arena import Arena, Contender, open_arena
from tests.benchmarks.contenders.ours import make_watched
from tests.benchmarks.contenders.workload import Workload
from tests.benchmarks.peers import target

OURS = Contender("this system", "ours")
_ITEMS_IN_FLIGHT = 3  # as the flow has it
# Denoise in s, replicas, items, busy share that was promised.
CASES = ((0.05, 1, 150, None), (0.2, 1, 120, 0.97), (1.0, 1, 40, 0.99), (1.0, 2, 80, None))
SCALING = 1.95


@dataclass(frozen=True)
class Steady:
    """The work of replicas between starting up and the tail."""

    busy: float  # share of the time, 0-1, the mean over replicas
    items_s: float  # passes a second, of all replicas together
    gap_ms: float  # from the end of a pass to the start of the next, the median
    phases_ms: dict[str, float]  # an item's own, the mean


def steady(workload: Workload, outcomes: list[Done]) -> Steady:
    passes: dict[int, list[tuple[float, float]]] = defaultdict(list)  # pid → begun, made
    begun: dict[int, float] = {}
    for entry in workload.entries():
        if entry.event == "begun":
            begun[entry.number] = entry.time_s
        elif entry.event == "made":
            passes[entry.pid].append((begun[entry.number], entry.time_s))
    shares, rates, gaps = [], [], []
    for done in passes.values():
        counted = done[len(done) // 10 :]
        seconds = counted[-1][0] - counted[0][0]
        shares.append(sum(made - start for start, made in counted[:-1]) / seconds)
        rates.append((len(counted) - 1) / seconds)
        gaps += [start - made for (_, made), (start, _) in pairwise(counted)]
    phases: dict[str, float] = defaultdict(float)
    for outcome in outcomes:
        for phase, seconds in outcome.timings_s.items():
            phases[phase] += 1000 * seconds / len(outcomes)
    return Steady(
        sum(shares) / len(shares), sum(rates), 1000 * sorted(gaps)[len(gaps) // 2], dict(phases)
    )


def plan(arena: Arena, workload: Workload) -> tuple[list[WorkItem], ReplicaSettings]:
    """The catalog as items, and a replica for them."""
    weights = WeightsSettings(folder=Path(workload.weights))
    variant = open_variant(workload.variant, weights)
    identities, model = Identities(arena.store), identify(variant, weights)
    items = []
    for line, row in enumerate(arena.store.get(workload.catalog).splitlines()):
        spec = parse_spec(json.loads(row))
        items.append(work_item(line, spec, identities.sources(spec), model))
    settings = ReplicaSettings(
        variant=workload.variant,
        weights=weights,
        torch_threads=workload.threads,
        output_uri=workload.output,
    )
    return items, settings


def measure(arena: Arena, sleep_s: float, replicas: int, items: int) -> Steady:
    workload = arena.workload(
        f"busy-{sleep_s}-{replicas}", items=items, side_px=1024, variant="wide", sleep_s=sleep_s
    )
    placed = arena.place(workload, OURS)
    planned, settings = plan(arena, placed)

    def on_failed(item: WorkItem, failed: Failed) -> None:
        raise RuntimeError(f"{item.row_id}: {failed.message}")

    pool = PoolSettings(max_replicas=replicas, items_in_flight=_ITEMS_IN_FLIGHT)
    make = functools.partial(make_watched, placed)
    with Dispatcher(settings, pool, "bench", on_failed, make=make) as dispatcher:
        outcomes = dispatcher.edit(planned, 0)
    if failed := [each for each in outcomes if isinstance(each, Failed)]:
        raise RuntimeError(f"{len(failed)} items failed: {failed[0].message}")
    return steady(placed, [each for each in outcomes if isinstance(each, Done)])


def table(found: dict[tuple[float, int], Steady]) -> Iterator[str]:
    phases = ("fetch", "build", "wait_gpu", "generate", "encode", "publish")
    yield f"| denoise | replicas | busy | items/s | gap between passes | {' | '.join(phases)} |"
    yield f"|---|---|---|---|---|{'---|' * len(phases)}"
    for (sleep_s, replicas), each in found.items():
        spent = " | ".join(f"{each.phases_ms.get(phase, 0):.0f} ms" for phase in phases)
        yield (
            f"| {sleep_s:g} s | {replicas} | {each.busy:.1%} | {each.items_s:.2f} "
            f"| {each.gap_ms:.1f} ms | {spent} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of items")
    given = parser.parse_args(arguments)
    print(f"Load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n", flush=True)
    found = {}
    with open_arena() as arena:
        os.environ.update(arena.env | {"OMP_NUM_THREADS": "1"})  # raylets hand it on to actors
        with ray_session(cpus=2):
            for sleep_s, replicas, items, _ in CASES:
                count = max(8 * replicas, round(items * given.scale))
                found[sleep_s, replicas] = measure(arena, sleep_s, replicas, count)
    print("\n".join(table(found)), end="\n\n")
    for sleep_s, replicas, _, wanted in CASES:
        if wanted:
            share = found[sleep_s, replicas].busy
            print(target(f"busy share at {sleep_s:g} s", share, wanted))
    scaling = found[1.0, 2].items_s / found[1.0, 1].items_s
    print(target("two actors, of one's items/s at 1 s", scaling, SCALING))
    print(f"\nLoad after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
