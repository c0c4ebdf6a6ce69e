"""`ace-catalog`: the flows from a terminal, with a progress bar.

Exit codes: 0 every row has its picture, or the training or evaluation is done; 1 some rows have
none, or it is not done yet; 2 the run could not go on; 130 cancelled.
"""

from __future__ import annotations

import typer

from ace_tasks.errors import AceError
from flows.cli.catalog import plan, schema
from flows.cli.editing import edit, restyle, retry, review, try_on
from flows.cli.outputs import pictures, status, sweep
from flows.cli.provenance import audit, development_ca, forget, reproduce
from flows.cli.terminal import EXIT_FATAL, err, line
from flows.cli.training import evaluate, train

app = typer.Typer(
    help="Edit whole catalogs of pictures with ACE++.", no_args_is_help=True, add_completion=False
)
for command in (
    edit, restyle, try_on, retry, review, status, pictures, train, evaluate, sweep, plan, schema, audit, reproduce, forget, development_ca,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    """Entry point; an error of ours is one line, not a traceback."""
    try:
        app()
    except AceError as error:
        err.print(f"[red]stopped[/red]: {line(f'{type(error).__name__}: {error}')}")
        raise SystemExit(EXIT_FATAL) from None
