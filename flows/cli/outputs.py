"""`sweep`: what lies under an output URI."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.markup import escape

from ace_tasks import provenance
from ace_tasks.settings import read_environment
from ace_tasks.store import Store
from flows.cli.options import Output
from flows.cli.terminal import out


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
