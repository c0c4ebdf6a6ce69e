"""The command `check-store`, which tries a store out."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from ace_tasks.settings import read_environment
from ace_tasks.store import Store
from ace_tasks.store_report import examine
from flows.cli.arguments import JsonLines
from flows.cli.terminal import EXIT_FAILURES, line, out, print_json
from flows.options.groups import described
from flows.options.places import Output


@described
def check_store(output: Output, /, *, as_json: JsonLines = False) -> None:
    """Try out the store of an output, and print what it does. Exit code 1: runs refuse it."""
    findings = examine(Store(read_environment().output_store), output.rstrip("/"))
    table = Table("asked", "seen", "what follows")
    for each in findings:
        table.add_row(each.asked, line(each.seen), each.follows, style="" if each.fits else "red")
        if as_json:
            print_json(asdict(each))
    if not as_json:
        out.print(table)
    raise SystemExit(0 if all(each.fits for each in findings) else EXIT_FAILURES)
