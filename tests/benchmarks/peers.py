"""This system beside what a user might write in its place: speed, memory, and what a kill costs.

    python -m tests.benchmarks.peers              all cases, some ten minutes
    python -m tests.benchmarks.peers --scale 0.2  a look

Each contender is a process of its own over the same catalog, with the same model in one process, on
as many threads; JPEG of 1024² in, JPEG out. What they made is compared by what it decodes to. Speed
counts from the first pass of the model to the last picture, so starting up counts apart. Memory is
the largest sum of PSS, sampled each second, of a contender and all below it; the object store and
the Prefect server, which some use, are not in it.

The plain script encodes its prompt for each row, as upstream and diffusers' pipelines do, unless it
is said to keep embeddings. All others keep them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import psutil

from tests.benchmarks.arena import Arena, Contender, Run, open_arena
from tests.benchmarks.footprint import family, memory

OURS = Contender("this system", "ours")
BATCHES = Contender("this system, batches of 4", "ours", (("batch_size", 4),))
SCRIPT = Contender("plain script", "script")
KEEPS = Contender("plain script that keeps embeddings", "script", (("keep_embeddings", True),))
RAY_DATA = Contender("Ray Data", "ray_data")
PREFECT_RAY = Contender("Prefect, a task a row on Ray", "prefect_ray")

_MB = 2**20
_HAS_PREFECT_RAY = importlib.util.find_spec("prefect_ray") is not None
_KILL_LIMIT_S = 300


@dataclass(frozen=True)
class Case:
    """One catalog, and who edits it."""

    title: str
    variant: str
    prompts: Literal["one", "distinct"]
    items: int
    contenders: tuple[Contender, ...]
    sleep_s: float | None = None
    side_px: int = 1024


ALL = (SCRIPT, OURS, RAY_DATA, PREFECT_RAY)
MORE = (SCRIPT, KEEPS, OURS, BATCHES, RAY_DATA, PREFECT_RAY)
CASES = (
    Case("restyle, `toy`", "toy", "one", 24, MORE),
    Case("restyle, `mini`", "mini", "one", 48, MORE),
    Case("distinct prompts, `toy`", "toy", "distinct", 24, (SCRIPT, OURS)),
    Case("distinct prompts, `mini`", "mini", "distinct", 48, (SCRIPT, OURS)),
    Case("sleeping 0.5 s", "wide", "one", 40, ALL, sleep_s=0.5),
)


@dataclass
class Found:
    """A contender in a case: its runs, and how many of its pictures are as the script's."""

    runs: list[Run]
    same: int = 0

    @property
    def items_s(self) -> float:
        return statistics.median(run.items_s for run in self.runs)

    @property
    def first_picture_s(self) -> float:
        return statistics.median(run.first_picture_s for run in self.runs)

    @property
    def whole_s(self) -> float:
        return statistics.median(run.whole_s for run in self.runs)

    @property
    def peak_mb(self) -> float:
        return statistics.median(run.peak_bytes for run in self.runs) / _MB


Results = dict[tuple[str, str], Found]  # case and contender, by their titles


def race(arena: Arena, cases: Sequence[Case], rounds: int) -> Results:
    """Round by round, all contenders of a case in turn: a noisy neighbour hits all alike."""
    results: Results = {}
    for case in cases:
        workload = arena.workload(
            case.title,
            items=case.items,
            side_px=case.side_px,
            variant=case.variant,
            prompts=case.prompts,
            sleep_s=case.sleep_s,
        )
        expected: dict[str, str] = {}
        for _ in range(rounds):
            for contender in case.contenders:
                placed = arena.place(workload, contender)
                run = arena.run(contender, placed)
                pictures = arena.pictures(placed)
                if run.code or len(pictures) != case.items:
                    raise RuntimeError(
                        f"{contender.title}, {case.title}: code {run.code}, {len(pictures)} "
                        f"pictures of {case.items}\n{run.log.read_text()[-3000:]}"
                    )
                expected = expected or pictures  # the script is first
                found = results.setdefault((case.title, contender.title), Found([]))
                found.runs.append(run)
                found.same = sum(expected[row] == sha256 for row, sha256 in pictures.items())
    return results


def race_table(results: Results) -> Iterator[str]:
    yield (
        "| case | contender | items/s | of the script's | first picture | whole run | peak PSS "
        "| beyond the script's | same pictures |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for (case, contender), found in results.items():
        script = results[case, SCRIPT.title]
        yield (
            f"| {case} | {contender} | {found.items_s:.2f} "
            f"| {found.items_s / script.items_s:.2f}× | {found.first_picture_s:.1f} s "
            f"| {found.whole_s:.1f} s | {found.peak_mb:.0f} MB "
            f"| {found.peak_mb - script.peak_mb:.0f} MB "
            f"| {found.same} of {found.runs[0].workload.items} |"
        )


# ---------------------------------------------------------------- kills


@dataclass
class AfterKill:
    """The state of a catalog whose model's process was killed once."""

    code: int
    missing: int  # rows without a picture when the killed run had ended
    lost: int  # the same after a restart, if one was needed
    repeated: int  # passes of the model beyond one a row
    restarted: bool


def kill_once(arena: Arena, contender: Contender, items: int, sleep_s: float) -> AfterKill:
    """SIGKILL whoever holds the model when two fifths are made; then start again if need be."""
    workload = arena.workload(
        "kill", items=items, side_px=256, variant="toy", prompts="one", sleep_s=sleep_s
    )
    placed = arena.place(workload, contender)

    def kill(process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _KILL_LIMIT_S
        while len(placed.entries("made")) < 0.4 * items:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{contender.title} ended before it could be killed")
            time.sleep(0.05)
        psutil.Process(placed.entries("begun")[-1].pid).kill()

    run = arena.run(contender, placed, kill)
    missing = items - len(arena.pictures(placed))
    restarted = bool(run.code or missing)
    if restarted:
        arena.run(contender, placed)
    return AfterKill(
        code=run.code,
        missing=missing,
        lost=items - len(arena.pictures(placed)),
        repeated=len(placed.entries("begun")) - len({e.number for e in placed.entries("begun")}),
        restarted=restarted,
    )


def kill_table(found: dict[str, AfterKill], items: int) -> Iterator[str]:
    yield "| contender | after the kill | missing then | lost after a restart | repeated |"
    yield "|---|---|---|---|---|"
    for contender, after in found.items():
        ended = f"ended with code {after.code}" if after.code else "went on to its end"
        lost = f"{after.lost} of {items}" if after.restarted else f"{after.lost}, none was needed"
        yield f"| {contender} | {ended} | {after.missing} | {lost} | {after.repeated} |"


# ---------------------------------------------------------------- what was promised


def targets(results: Results) -> Iterator[str]:
    def ratio(case: str, contender: Contender) -> float:
        return results[case, contender.title].items_s / results[case, SCRIPT.title].items_s

    for case in dict.fromkeys(case for case, _ in results):
        least = 2.0 if case.startswith("restyle") else 1.08 if "sleeping" in case else 1.0
        for contender in (OURS, BATCHES):
            if (case, contender.title) in results:
                found = ratio(case, contender)
                yield target(f"{case}: {contender.title}, of the script's items/s", found, least)
        if (case, RAY_DATA.title) in results:
            script = results[case, SCRIPT.title].peak_mb
            ours, theirs = (results[case, c.title].peak_mb for c in (OURS, RAY_DATA))
            share = (ours - script) / (theirs - script)
            yield target(
                f"{case}: memory beyond the script's, of Ray Data's", share, 0.5, most=True
            )


def target(what: str, found: float, wanted: float, most: bool = False) -> str:
    met = found <= wanted if most else found >= wanted
    return f"- {'met' if met else 'MISSED'}: {what}: {found:.3f}, wanted {'≤' if most else '≥'} {wanted}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of items")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a case's title, or `kill`")
    given = parser.parse_args(arguments)

    def items(count: int) -> int:
        return max(8, round(count * given.scale))

    here = [each for each in ALL if each.module != "prefect_ray" or _HAS_PREFECT_RAY]
    if len(here) < len(ALL):
        print("prefect-ray is not installed (extra `bench`), and left out.\n")
    cases = [
        replace(
            case,
            items=items(case.items),
            contenders=tuple(c for c in case.contenders if c in here or c not in ALL),
        )
        for case in CASES
        if given.only in case.title
    ]
    print(f"Load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n", flush=True)
    with open_arena() as arena:
        results = race(arena, cases, given.rounds)
        print("\n".join(race_table(results)), end="\n\n", flush=True)
        print("\n".join(targets(results)), end="\n\n", flush=True)
        if given.only in "kill":
            killed = {c.title: kill_once(arena, c, items(40), 0.3) for c in here}
            print("\n".join(kill_table(killed, items(40))), end="\n\n", flush=True)
        server = sum(memory(each.pid).pss for each in family(arena.server_pid)) / _MB
    print(f"Prefect server beside them: {server:.0f} MB. Load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
