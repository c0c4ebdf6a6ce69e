"""The command `ace-catalog`, which runs the flows in a terminal with a progress bar.

Exit codes: 0 every row has its picture, or the training or evaluation is done; 1 some rows have
none, or it is not done yet; 2 the run could not go on, or the command was mistyped; 130 cancelled.

arguments   flags in titled groups
mistakes    the explanation of a mistyped command
terminal    what is printed, and flows under a progress bar
catalog     plan, schema
look        the look of `plan` at pictures and masks
editing     compare, edit, restyle, try-on, retry, review
outputs     status, pictures, feed, sweep
stores      check-store
provenance  audit, reproduce, forget
training    train, evaluate
"""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError, Parameter

from ace_tasks.errors import AceError
from flows.cli.catalog import plan, schema
from flows.cli.editing import compare, edit, restyle, retry, review, try_on
from flows.cli.mistakes import explain
from flows.cli.outputs import feed, pictures, status, sweep
from flows.cli.provenance import audit, forget, reproduce
from flows.cli.stores import check_store
from flows.cli.terminal import EXIT_FATAL, err, line
from flows.cli.training import evaluate, train

app = App(
    name="ace-catalog",
    help="Edit catalogs of pictures with ACE++.",
    help_flags=["--help"],
    version_flags=[],
    default_parameter=Parameter(negative_iterable=()),
)
for command in (
    compare,
    edit,
    restyle,
    try_on,
    retry,
    review,
    status,
    pictures,
    feed,
    train,
    evaluate,
    sweep,
    plan,
    schema,
    audit,
    reproduce,
    forget,
    check_store,
):
    app.command(command)


def main() -> None:
    """Run a command. Print an error of ours, or a mistyped command, without a traceback."""
    arguments = sys.argv[1:]
    if not arguments:
        app.help_print([])
        raise SystemExit(EXIT_FATAL)
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        err.print(explain(error))
        raise SystemExit(EXIT_FATAL) from None
    except AceError as error:
        err.print(f"[red]stopped[/red]: {line(f'{type(error).__name__}: {error}')}")
        raise SystemExit(EXIT_FATAL) from None
