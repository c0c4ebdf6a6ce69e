"""`status`, `sweep`: what lies under an output URI."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.markup import escape

from ace_tasks import provenance
from ace_tasks.history import PastRun, past_runs, read_summary
from ace_tasks.settings import read_environment
from ace_tasks.store import Store
from flows.cli.terminal import out
from flows.parameters import Output


def status(
    output: Output,
    run: Annotated[str, typer.Argument(help="Only this run, by its id. Empty: all.")] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object a run, a line each; nothing else.")
    ] = False,
) -> None:
    """Say which runs there are, and how each ended."""
    store, output = Store(read_environment().output_store), output.rstrip("/")
    if run:
        summary = read_summary(store, output, run)
        runs = [PastRun(run, summary.started_at, summary)]
    else:
        runs = past_runs(store, output)
    for each in runs:
        if as_json:
            print(_as_json(each))
            continue
        told = each.summary
        how = f"{told.flow:16}{told.state:22}{told.line}" if told else "not ended, or cut short"
        out.print(escape(f"{each.run_id}  {each.began_at:%Y-%m-%d %H:%M}  {how}"))
    if not runs and not as_json:
        out.print(escape(f"no runs under {output}"))


def _as_json(run: PastRun) -> str:
    began = {"run_id": run.run_id, "began_at": run.began_at.isoformat()}
    ended = run.summary.model_dump(mode="json") if run.summary else {"state": None}
    return json.dumps(began | ended, ensure_ascii=False)


def sweep(
    output: Output,
    delete: Annotated[bool, typer.Option(help="Delete them; else only list them.")] = False,
    older_than_hours: Annotated[
        float, typer.Option(min=0, help="Leave younger ones: their record may still come.")
    ] = 24,
) -> None:
    """Find pictures that no record names, as a crash between two writes leaves them."""
    store = Store(read_environment().output_store)
    before = datetime.now(UTC) - timedelta(hours=older_than_hours)
    found = 0
    for each in provenance.orphan_pictures(store, output.rstrip("/"), before):
        found += 1
        if delete:
            store.delete(each.uri)
        out.print(f"{'deleted' if delete else 'orphan'} {escape(each.uri)}")
    out.print(f"{found} pictures without a record{' deleted' if delete else ''}")
