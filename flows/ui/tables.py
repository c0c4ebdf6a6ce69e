"""Tables of a run for people, and the listener of a terminal. `live` has the changing artifacts.

Text from a catalog is escaped before it goes into a table, so that no Markdown in it has an effect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger

from ace_tasks.catalog.generated import GeneratedCatalog
from ace_tasks.harmless import harmless
from ace_tasks.plan.price import Estimate, Rate
from ace_tasks.runs.results import Result, Summary
from ace_tasks.wording import counted
from flows.ui.artifacts import RunArtifact

if TYPE_CHECKING:
    from ace_tasks.plan.planned import Planned

TABLE_ROWS = 50
CELL_CHARS = 200
DESCRIPTION_CHARS = 1000
_MADE_COLUMNS = ("id", "task", "image", "reference", "mask", "prompt")


@dataclass(frozen=True)
class Moment:
    """The state of a run at one moment, in rows; or of a training's stage, in steps."""

    total: int
    accounted: int
    failed: int
    replicas: int
    headline: str  # from the plan: how many rows are done, and how many are to do


_listener: ContextVar[Callable[[Moment], None] | None] = ContextVar("listener", default=None)
_noter: ContextVar[Callable[[str], None] | None] = ContextVar("noter", default=None)


@contextmanager
def listening(
    listener: Callable[[Moment], None], noter: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Also report the progress of flows in this context to `listener`, and notes to `noter`.

    A note is something to know before the end, such as which files are passed over.
    """
    tokens = _listener.set(listener), _noter.set(noter)
    try:
        yield
    finally:
        _listener.reset(tokens[0])
        _noter.reset(tokens[1])


def send_note(text: str) -> None:
    if noter := _noter.get():
        noter(text)


def notify_listener(moment: Moment) -> None:
    if listener := _listener.get():
        listener(moment)


def plain(value: Any, most: int = CELL_CHARS) -> str:
    """Return catalog text for a Markdown table: on one line, cut short, without active markup."""
    text = harmless(" ".join(str(value).split()))[:most]
    for active in "\\`*_{}[]<>()#+!|~":
        text = text.replace(active, f"\\{active}" if active not in "<>" else " ")
    return text


def plain_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return as many rows of a table as a page holds, with their text made plain."""
    return [plain_row(row) for row in islice(rows, TABLE_ROWS)]


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain(value) if isinstance(value, str) else value for name, value in row.items()}


def publish_made(flow_name: str, catalog: Path, made: GeneratedCatalog, uri: str) -> None:
    """Publish a table of the first rows that a flow generated from its source."""
    with catalog.open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, islice(lines, TABLE_ROWS)) if "id" in row]
    table = plain_rows({name: str(row.get(name, "")) for name in _MADE_COLUMNS} for row in rows)
    summary = counted(made.rows, "row")
    summary += f", {made.rejected:,} rejected" if made.rejected else ""
    summary += f"; {made.skipped_summary}" if made.skipped_summary else ""
    if made.skipped_summary:
        send_note(made.skipped_summary)
    get_run_logger().info("%s: %s", summary, uri)
    shown = f"{plain(summary, DESCRIPTION_CHARS)}; {len(table)} shown. All rows: {uri}"
    RunArtifact("table", f"{flow_name}-rows").show(table or [{"id": "none"}], shown)


def publish_rejects(flow_name: str, rejects: Path, count: int, *, lined: bool = True) -> None:
    """Publish a table of the first rejects.

    `lined` says whether their line numbers are those of a user's file. For a catalog that the run
    generated, each reason names the place instead.
    """
    if not count:
        return
    with rejects.open(encoding="utf-8") as lines:
        remaining = (each for each in map(json.loads, lines) if not each.get("forgotten"))
        rows = list(islice(remaining, TABLE_ROWS))
    first = rows[0]
    place = f"line {first['line']}, " if lined else ""
    column = f"column {first['field']}: " if first["field"] else ""
    invalid = counted(count, "invalid row")
    get_run_logger().warning("%s; the first: %s%s%s", invalid, place, column, first["reason"])
    table = plain_rows(
        ({"line": row["line"]} if lined else {})
        | {"column": row["field"] or "", "reason": row["reason"]}
        for row in rows
    )
    shown = f"{invalid}; {len(rows)} shown"
    RunArtifact("table", f"{flow_name}-rejects").show(table, shown)


def publish_preflight(
    flow_name: str, planned: Planned, estimate: Estimate, rate: Rate | None
) -> None:
    """Publish a table of what the run will do and take."""
    counts, before = planned.counts, planned.before
    facts = {
        "rows": planned.rows,
        "rejected": counts.rejected,
        "done before": len(before.records),
        "failed for good before": len(before.failures),
        "share another row's picture": counts.shared,
        "items to do": estimate.items,
        **{f"items of task {task}": rows for task, rows in sorted(counts.by_task.items())},
        "pictures looked at": estimate.sampled,
        "of these would fail": "; ".join(plain(each) for each in estimate.problems) or "none",
        "masks that look like mistakes": "; ".join(plain(each) for each in estimate.hints)
        or "none",
        "tokens of a picture": _known(estimate.tokens, "{:.0f}"),
        "replica-hours": _known(estimate.replica_hours, "{:.2f}"),
        "cost": _known(estimate.cost, "{:.2f}"),
    }
    if rate is None:
        note = "No run under this output has measured the model's speed yet."
    elif rate.run_id is None:
        note = "The model's speed is that of a setting."
    else:
        note = f"The model's speed was measured by run {rate.run_id} over {counted(rate.items, 'item')}."
    table = [{"what": what, "value": str(value)} for what, value in facts.items()]
    RunArtifact("table", f"{flow_name}-preflight").show(table, f"What this run will do. {note}")


def _known(value: float | None, form: str) -> str:
    return "not known" if value is None else form.format(value)


def publish_results(flow_name: str, summary: Summary, shown: Iterable[Result]) -> None:
    """Publish a table of the first results, as many as a page holds."""
    rows = [
        {
            "row": plain(each.row_id or f"line {each.line}"),
            "task": plain(each.task or ""),
            "status": each.status.replace("_", " "),
            "error": plain(f"{each.error_code}: {each.error}") if each.error_code else "",
            "hints": plain(each.hints or ""),
            "output": each.output_uri or "",
        }
        for each in islice(shown, TABLE_ROWS)
    ]
    description = f"{summary.line}. All rows: {summary.results}"
    RunArtifact("table", f"{flow_name}-results").show(rows or [{"row": "none"}], description)


def publish_review(table: list[dict[str, str]], run_id: str) -> None:
    """Publish a table of the rows that a run held back, and their state, those waiting first."""
    rows = plain_rows(sorted(table, key=lambda row: row["state"] != "waiting"))
    waiting = sum(row["state"] == "waiting" for row in table)
    description = (
        f"{waiting:,} waiting for a decision, of {counted(len(table), 'row')} that run {run_id} "
        f"held back; {len(rows)} shown"
    )
    RunArtifact("table", "review-run-rows").show(rows or [{"row": "none"}], description)


def publish_findings(table: list[dict[str, str]], line: str, run_id: str) -> None:
    """Publish a table of what an audit found wrong."""
    rows = plain_rows(table)
    description = f"run {run_id}: {line}; {len(rows)} of {counted(len(table), 'finding')} shown"
    RunArtifact("table", "audit-run-findings").show(rows or [{"problem": "none"}], description)
