"""`ace-catalog`: the flows from a terminal, with a progress bar."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

# Prefect reads it when it is imported; a terminal wants the bar, not the log.
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")

from ace_tasks import provenance
from ace_tasks.errors import FatalError
from ace_tasks.specs import row_schema

EXIT_FAILURES, EXIT_FATAL = 1, 2

app = typer.Typer(
    help="Edit whole catalogs of pictures with ACE++.", no_args_is_help=True, add_completion=False
)
out = Console()
err = Console(stderr=True)

Catalog = Annotated[str, typer.Argument(help="JSONL, CSV or Parquet, at s3:// or a local path.")]
Output = Annotated[str, typer.Argument(help="Where pictures and records go: s3://bucket/prefix.")]
VariantName = Annotated[str, typer.Option(help="The model variant, such as toy.")]


@app.command()
def edit(
    catalog: Catalog,
    output: Output,
    variant: VariantName,
    strict: Annotated[bool, typer.Option(help="Stop if a row is no valid spec.")] = False,
    max_failed: Annotated[int, typer.Option(min=0, help="Failures a good run may have.")] = 0,
    retry_failures: Annotated[bool, typer.Option(help="Try what failed for good again.")] = False,
    replicas: Annotated[int, typer.Option(min=0, help="0: one a GPU, or one on a CPU.")] = 0,
    shard_size: Annotated[int, typer.Option(min=1, max=10_000)] = 32,
    allow_unguarded_writes: Annotated[
        bool, typer.Option(help="Go on with a store that ignores If-None-Match.")
    ] = False,
) -> None:
    """Edit every row of a catalog that is not edited yet. Exit 1: some rows have no picture."""
    from flows.edit_catalog import edit_catalog

    with _bar() as listener:
        from flows.progress import listening

        with listening(listener):
            state = edit_catalog(
                catalog=catalog,
                output=output,
                variant=variant,
                strict=strict,
                max_failed=max_failed,
                retry_failures=retry_failures,
                replicas=replicas,
                shard_size=shard_size,
                allow_unguarded_writes=allow_unguarded_writes,
                return_state=True,
            )
    _finish(state)
