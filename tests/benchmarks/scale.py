"""The part that breaks first: a model of the system, from 8 to 512 GPUs and a million to a hundred
million items, driven by rates that are measured or, where they cannot be here, said to be assumed.

Seconds an item come from the file that `python -m tests.benchmarks.gpu` left of the fastest GPU in
`gpu/measured/`. While there is none, the rate says that it is not measured.

    .venv/bin/python -m tests.benchmarks.scale            # the tables of docs/operations/scale.md
    .venv/bin/python -m tests.benchmarks.scale --measure  # the rates, on this machine
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Literal

from tests.benchmarks.gpu.results import Measurement, read_measured

GPUS = (8, 64, 512)
ITEMS = (10**6, 10**7, 10**8)
SHARD = 32  # items, the default of `shard_size`
IN_FLIGHT = 3  # items inside a replica


@dataclass(frozen=True)
class Rate:
    value: float
    unit: str
    origin: Literal["measured", "not measured", "counted", "published", "assumed"]
    of: str


def item_rate(measured: list[Measurement]) -> Rate:
    """Seconds an item, by the best lossless rung of the fastest GPU that was measured."""
    for each in measured:
        if rung := each.best_lossless:
            assert rung.item_s is not None
            what = f"an item on {each.gpu}, {rung.what}, at {each.tokens} tokens and {each.steps} steps"
            return Rate(round(rung.item_s, 2), "s", "measured", what)
    return Rate(
        4.21, "s", "not measured", "an item on a GPU, at 4096 tokens and 28 steps; in its place, "
        "what is published for FLUX.1-dev, compiled, on an H100",
    )  # fmt: skip


RATES = {
    "item_s": item_rate(read_measured()),
    "dispatch_ms": Rate(1.7, "ms", "measured", "of the dispatcher's CPU for an item"),
    "wait_us_per_call": Rate(0.75, "µs", "measured", "of it more for each call in flight, a round"),
    "s3_put_limit": Rate(3500, "/s", "assumed", "writes that S3 takes under one prefix, at first"),
    "s3_get_limit": Rate(5500, "/s", "assumed", "reads, likewise"),
    "puts": Rate(2, "an item", "counted", "writes: picture, record"),
    "gets": Rate(2.5, "an item", "assumed", "reads: picture; a mask, a reference in some"),
    "head_s": Rate(688, "/s", "measured", "HEADs of a plan, 32 at once"),
    "sources": Rate(1.5, "a row", "assumed", "sources: a picture; a mask, a reference in some"),
    "list_page_ms": Rate(87, "ms", "measured", "for a page of 1000 keys, many listings at once"),
    "list_wait_ms": Rate(100, "ms", "assumed", "until a page comes, one at a time"),
    "plan_us": Rate(88, "µs", "measured", "of CPU to check, identify and sort a row"),
    "list_us": Rate(30, "µs", "measured", "of CPU more for each source that is listed"),
    "resume_bytes": Rate(82, "B", "measured", "of memory for a planned item, while resuming"),
    "process_mb": Rate(263, "MB", "measured", "of memory for a process that resumes nothing"),
    "task_runs_s": Rate(
        34, "/s", "measured", "task runs that a Prefect server kept up with; its limit is higher"
    ),
    "task_run_kb": Rate(16, "KB", "measured", "of its PostgreSQL for each"),
    "weights_gb": Rate(34, "GB", "published", "a node fetches once"),
    "node_gb_s": Rate(1.0, "GB/s", "assumed", "a node reads from S3"),
    "node_gpus": Rate(8, "GPUs", "assumed", "in a node"),
}


def of(name: str) -> float:
    return RATES[name].value


@dataclass(frozen=True)
class Load:
    """One part of the system under `gpus` and `items`: how much of its limit is used."""

    part: str
    share: float  # of what it can; above 1 it holds the GPUs up, or fails
    detail: str


def rate_of_items(gpus: int) -> float:
    return gpus / of("item_s")


def dispatcher_ms(gpus: int) -> float:
    """Its CPU for an item: what it always costs, and what Ray takes to look over all calls in
    flight, which it does once for each answer that comes alone."""
    return of("dispatch_ms") + of("wait_us_per_call") * gpus * IN_FLIGHT / 1000


def while_it_runs(gpus: int) -> list[Load]:
    """Return the loads that grow with the number of GPUs."""
    rate = rate_of_items(gpus)
    ms = dispatcher_ms(gpus)
    loads = [
        Load("dispatcher", rate * ms / 1000, f"{rate:.0f} items/s at {ms:.2f} ms of one core"),
        Load("Prefect's records", rate / SHARD / of("task_runs_s"), f"{rate / SHARD:.1f} a second"),
        Load(
            "S3 writes", rate * of("puts") / of("s3_put_limit"), f"{rate * of('puts'):.0f} a second"
        ),
        Load(
            "S3 reads", rate * of("gets") / of("s3_get_limit"), f"{rate * of('gets'):.0f} a second"
        ),
    ]
    return sorted(loads, key=lambda each: -each.share)


def largest_fleet(busy: float = 0.97) -> int:
    """GPUs that one dispatcher keeps `busy`, where it alone is the limit."""
    gpus = 1
    while rate_of_items(gpus) * dispatcher_ms(gpus) / 1000 < busy:
        gpus += 1
    return gpus - 1


def around_it(items: int) -> dict[str, str]:
    """Return the costs that grow with the number of items."""
    sources = items * of("sources")
    heads_h = sources / of("head_s") / 3600
    plan_h = items * of("plan_us") / 1e6 / 3600
    # The next page is fetched while rows are processed.
    cpu_h = plan_h + sources * of("list_us") / 1e6 / 3600
    listed_h = max(cpu_h, sources / 1000 * of("list_wait_ms") / 1000 / 3600)
    pages_h = items / 1000 * of("list_page_ms") / 1000 / 3600
    return {
        "plan by listings, hours": f"{listed_h:.1f}",
        "plan by HEADs, hours": f"{max(heads_h, plan_h):.1f}",
        "resume, hours": f"{pages_h:.1f}",
        "memory to resume": f"{of('process_mb') / 1e3 + items * of('resume_bytes') / 1e9:.1f} GB",
        "Prefect's database": f"{items / SHARD * of('task_run_kb') / 1e6:.1f} GB",
        "task runs": f"{items / SHARD:,.0f}",
    }


def tables() -> str:
    lines = ["| rate | value | | of |", "|---|---|---|---|"]
    for each in RATES.values():
        lines.append(f"| {each.origin} | {each.value:g} | {each.unit} | {each.of} |")
    lines += ["", "| GPUs | part | of its limit | |", "|---|---|---|---|"]
    for gpus in GPUS:
        for load in while_it_runs(gpus):
            lines.append(f"| {gpus} | {load.part} | {load.share:.1%} | {load.detail} |")
    lines += ["", f"One dispatcher alone would be the limit at {largest_fleet()} GPUs.", ""]
    lines += [
        "| items | "
        + " | ".join(f"hours on {gpus} GPUs" for gpus in GPUS)
        + " | "
        + " | ".join(around_it(1))
        + " |"
    ]
    lines += ["|---" * (1 + len(GPUS) + len(around_it(1))) + "|"]
    for items in ITEMS:
        hours = [f"{items * of('item_s') / gpus / 3600:,.0f}" for gpus in GPUS]
        lines.append(f"| {items:,} | " + " | ".join(hours + list(around_it(items).values())) + " |")
    start_s = of("weights_gb") / of("node_gb_s")
    nodes = GPUS[-1] / of("node_gpus")
    lines += [
        "",
        f"Cold start: {start_s:.0f} s a node; {nodes:.0f} nodes read "
        f"{nodes * of('weights_gb') / 1000:.1f} TB, {nodes * of('node_gb_s'):.0f} GB/s.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--replicas", type=int, nargs="+", default=[8, 24])
    if parser.parse_args().measure:
        from tests.benchmarks import rates

        rates.main(parser.parse_args().replicas)
    else:
        print(tables())


if __name__ == "__main__":
    main()
