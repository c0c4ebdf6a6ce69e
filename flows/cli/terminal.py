"""Printing for all commands, and running a flow under a progress bar.

Text from a catalog, a feed, a store or a record is made harmless here. `out` and `err` never show a
control character; `line` is for a value that must not break the line either.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from rich import progress
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ace_tasks.harmless import harmless, harmless_json

# Prefect reads these when a flow imports it. A terminal wants the progress bar, not the log.
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")  # a dead run is noticed by it
os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "7")  # four minutes, as infra/pools.py has it
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")  # send nothing to Prefect
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # they would cover our bar

EXIT_FAILURES, EXIT_FATAL, EXIT_CANCELLED = 1, 2, 130
_REJECTS_SHOWN = 20
_PLACES = (
    "results",
    "failures",
    "rejects",
    "variant",
    "evaluation",
    "samples",
    "report",
    "audit",
    "page",
    "open",
)
_FEED_PLACES = ("feed", "ai_pictures", "kept_links")

T = TypeVar("T")


class _HarmlessConsole(Console):
    """A console on which only rich's own markup has an effect, and no control character."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(harmless(text, keep="\n"), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(harmless(segment.text, keep="\n"), segment.style)


out = _HarmlessConsole(soft_wrap=True)
err = _HarmlessConsole(stderr=True, soft_wrap=True)


def line(value: Any) -> str:
    """Return a value as text for a line or a cell: on one line, without markup."""
    return escape(harmless(str(value)))


def print_json(value: Any) -> None:
    """Print one JSON object on its own line, without control characters."""
    print(harmless_json(json.dumps(value, ensure_ascii=False, default=str)))


def run_flow(
    name: str, doing: str, *, plans: bool = True, as_json: bool = False, **parameters: Any
) -> None:
    """Run a flow under a progress bar, print how it ended, and exit with its code.

    `name` is both the flow's file and its function. It is imported only now, because Prefect, and
    for most flows Ray, take seconds. A flow that `plans` reports what it does of how much. With
    `as_json`, only the summary goes to standard output, as one JSON object.
    """
    flow = getattr(import_module(f"flows.{name}"), name)
    from prefect import tags

    try:
        with _progress_bar(doing, plans=plans, quiet=as_json), tags("ace-catalog"):
            state = flow(**parameters, return_state=True)
    except KeyboardInterrupt:
        err.print("cancelled; run the same command again to continue")
        raise SystemExit(EXIT_CANCELLED) from None
    _report(state, as_json=as_json)


@contextmanager
def _progress_bar(doing: str, *, plans: bool, quiet: bool) -> Iterator[None]:
    from flows.ui.tables import Moment, listening

    with _bar(progress.TextColumn("{task.fields[detail]}")) as bar:
        task = bar.add_task("planning" if plans else doing, total=None, detail="")
        printed: set[str] = set()

        def show(moment: Moment) -> None:
            if moment.headline not in printed:  # one per run, or per stage of a training
                printed.add(moment.headline)
                if not quiet:
                    out.print(line(moment.headline))
            detail = f"{moment.failed} failed" if moment.failed else ""
            if not moment.replicas and moment.accounted < moment.total:
                detail = "replicas are starting"
            done = moment.accounted
            bar.update(task, description=doing, total=moment.total, completed=done, detail=detail)

        def note(text: str) -> None:
            (err if quiet else out).print(line(text))

        with listening(show, note):
            yield


def counting(doing: str, each: Iterable[T], total: int) -> Iterator[T]:
    """Yield each element under a progress bar that counts them."""
    with _bar() as bar:
        yield from bar.track(each, total, description=doing)


class _CountColumn(progress.MofNCompleteColumn):
    """The count of what is done, of how much. It is empty while nobody knows how much there is."""

    def render(self, task: progress.Task) -> Text:
        return Text() if task.total is None else super().render(task)


def _bar(*more: progress.ProgressColumn) -> progress.Progress:
    count = _CountColumn(), progress.TimeElapsedColumn()
    description = progress.TextColumn("{task.description}")
    return progress.Progress(description, progress.BarColumn(), *count, *more, console=err)


def _report(state: Any, *, as_json: bool) -> None:
    """Print how a flow run ended, and exit with its code."""
    message = str(state.message or state.name)
    if state.is_completed() or state.name in {"FinishedWithFailures", "AuditFailed"}:
        summary = state.result(raise_on_failure=False)
        code = 0 if state.name == "Completed" else EXIT_FAILURES
        if as_json:
            print_json(summary)
            raise SystemExit(code)
        out.print(f"[bold]{line(state.name)}[/bold]: {line(message)}")
        print_table(summary.get("table", []))
        for name in _PLACES + _FEED_PLACES:
            if summary.get(name):
                out.print(f"  {name:12}{line(summary[name])}")
        raise SystemExit(code)
    prefix = "Flow run encountered an exception: "
    err.print(f"[red]stopped[/red]: {line(message.removeprefix(prefix))}")
    raise SystemExit(EXIT_FATAL)


def print_rejects(path: Path, count: int) -> None:
    if not count:
        return
    table = Table("line", "column", "reason")
    with path.open(encoding="utf-8") as lines:
        wrong = (each for each in map(json.loads, lines) if not each.get("forgotten"))
        for row in islice(wrong, _REJECTS_SHOWN):
            table.add_row(str(row["line"]), line(row["field"] or ""), line(row["reason"]))
    out.print(table)
    if count > _REJECTS_SHOWN:
        out.print(f"… and {count - _REJECTS_SHOWN} more")


def print_table(rows: list[dict[str, str]]) -> None:
    if not rows:
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(line, row.values()))
    out.print(table)
