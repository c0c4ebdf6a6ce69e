"""The report of `ace-catalog plan --look` on a catalog's pictures and masks.

A person gets a table. A machine gets one JSON object per line and row of the catalog: the findings
of preflight, the problem of a row that is not valid, or `forgotten` for a row that stays forgotten.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ace_tasks.plan import plan_file
from ace_tasks.replica import inspect
from ace_tasks.replica.inspect import RowInspection
from ace_tasks.settings import ImageLimits
from ace_tasks.store import Store
from ace_tasks.wording import counted
from flows.cli.terminal import line, print_json

_SHOWN = 40


def look_over(plan_path: Path, rows: int, store: Store, err: Console) -> Iterator[RowInspection]:
    """Return the findings of a plan, in its order, under a progress bar."""
    items = (row.item for row in plan_file.read_plan(plan_path))
    findings = inspect.look_over(items, store, ImageLimits())
    return iter(track(findings, "looking", total=rows, console=err, transient=True))


def print_findings(findings: Iterable[RowInspection], rejects_path: Path) -> int:
    """Print all findings as JSON. Return how many rows have a problem, rejects included."""
    problems = 0
    for finding in findings:
        problems += finding.problem is not None
        print_json(dataclasses.asdict(finding))
    with rejects_path.open(encoding="utf-8") as lines:
        for each in map(json.loads, lines):
            if each.get("forgotten"):
                print_json({"line": each["line"], "forgotten": True})
                continue
            problems += 1
            column = f"{each['field']}: " if each["field"] else ""
            problem = f"bad_row: {column}{each['reason']}"
            print_json({"line": each["line"], "problem": problem})
    return problems


def print_table(findings: Iterable[RowInspection], out: Console) -> int:
    """Print a few rows, and the counts of all. Return how many rows have a problem.

    Rows with a problem come first, then rows with a hint.
    """
    kinds: tuple[list[RowInspection], ...] = ([], [], [])
    counts = [0, 0, 0]
    for finding in findings:
        kind = 0 if finding.problem else 1 if finding.hints else 2
        counts[kind] += 1
        if len(kinds[kind]) < _SHOWN:
            kinds[kind].append(finding)
    total = sum(counts)
    table = Table("line", "row", "picture", "mask file", "repainted", "grey", "what was seen")
    shown = [finding for kind in kinds for finding in kind][:_SHOWN]
    for finding in shown:
        table.add_row(*_cells(finding))
    out.print(table)
    if total > len(shown):
        out.print(f"… and {total - len(shown)} more; --json prints all")
    out.print(
        f"{counted(total, 'row')} looked at: {counts[0]} with a problem, {counts[1]} with a hint"
    )
    return counts[0]


def _cells(finding: RowInspection) -> Iterator[str]:
    yield str(finding.line)
    yield line(finding.row_id)
    for size in (finding.image_px, finding.mask_px):
        yield "×".join(map(str, size)) if size else ""
    for share in (finding.coverage, finding.grey):
        yield "" if share is None else f"{share:.1%}"
    seen = [f"[red]{line(finding.problem)}[/red]"] if finding.problem else []
    yield "\n".join(seen + [line(hint) for hint in finding.hints])
