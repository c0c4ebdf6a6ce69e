"""`ace-catalog`: the flows from a terminal, with a progress bar.

Exit codes: 0 every row has its picture, or the training or evaluation is done; 1 some rows have
none, or it is not done yet; 2 the run could not go on; 130 cancelled.
"""

from __future__ import annotations

import enum
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from ace_tasks import plan as planning
from ace_tasks import provenance, resume
from ace_tasks.catalog import open_catalog, read_rows, to_specs
from ace_tasks.errors import AceError
from ace_tasks.model.sources import (
    check_license,
    identify,
    open_variant,
    open_vision,
    with_vision,
)
from ace_tasks.settings import read_environment
from ace_tasks.specs import AutoMask, MaskRules, PixelSettings, row_schema
from ace_tasks.store import Store, open_stores

# Prefect reads it when it is imported, in `edit`; a terminal wants the bar, not the log.
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' own, over ours

EXIT_FAILURES, EXIT_FATAL, EXIT_CANCELLED = 1, 2, 130
_REJECTS_SHOWN = 20


class Geometry(enum.StrEnum):
    CATALOG = "catalog"
    REFERENCE = "reference"


app = typer.Typer(
    help="Edit whole catalogs of pictures with ACE++.", no_args_is_help=True, add_completion=False
)
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

Catalog = Annotated[str, typer.Argument(help="JSONL, CSV or Parquet, at s3:// or a local path.")]
Output = Annotated[str, typer.Argument(help="Where pictures and records go: s3://bucket/prefix.")]
VariantName = Annotated[
    str, typer.Option(help="The model variant, such as toy, or the place of a variant.json.")
]
AutoMaskName = Annotated[
    str, typer.Option(help='How the mask "auto" is made: grabcut, border or model. Empty: refused.')
]
AllowEmpty = Annotated[
    bool, typer.Option(help="A mask may select nothing: its picture is published as it is.")
]
AllowFull = Annotated[bool, typer.Option(help="A mask may select all of its picture.")]
AcceptLicense = Annotated[
    bool, typer.Option(help="I have read and accept the licence of the variant's weights (once).")
]


@app.command()
def edit(
    catalog: Catalog,
    output: Output,
    variant: VariantName,
    geometry: Annotated[
        Geometry, typer.Option(help="catalog: sizes kept. reference: as ACE++'s own code.")
    ] = Geometry.CATALOG,
    feather: Annotated[
        float,
        typer.Option(min=0, max=0.25, help="Width of the blend at a mask's edge, in sides."),
    ] = 0.01,
    crop_to_mask: Annotated[
        bool, typer.Option(help="Work on a window where a mask is small in a large picture.")
    ] = True,
    candidates: Annotated[
        int, typer.Option(min=1, max=16, help="Pictures to try for a row; the best is kept.")
    ] = 1,
    keep_candidates: Annotated[
        bool, typer.Option(help="Also store those that were not chosen.")
    ] = False,
    review_below: Annotated[
        float, typer.Option(min=0, max=1, help="Hold pictures of a lower score back; 0: none.")
    ] = 0,
    auto_mask: AutoMaskName = "",
    allow_empty_masks: AllowEmpty = False,
    allow_full_masks: AllowFull = False,
    preset: Annotated[
        str, typer.Option(help="Such as white-2000, of rows that name none. Empty: size kept.")
    ] = "",
    quality: Annotated[
        int, typer.Option(min=0, max=100, help="Of rows that say none. 0: 95; WebP lossless.")
    ] = 0,
    strict: Annotated[bool, typer.Option(help="Stop if a row is no valid spec.")] = False,
    max_failed: Annotated[int, typer.Option(min=0, help="Failures a good run may have.")] = 0,
    retry_failures: Annotated[bool, typer.Option(help="Try what failed for good again.")] = False,
    replicas: Annotated[int, typer.Option(min=0, help="0: one a GPU, or one on a CPU.")] = 0,
    shard_size: Annotated[int, typer.Option(min=1, max=10_000, help="Rows in a task run.")] = 32,
    accept_license: AcceptLicense = False,
    allow_unguarded_writes: Annotated[
        bool, typer.Option(help="Go on with a store that ignores If-None-Match.")
    ] = False,
) -> None:
    """Edit every row of a catalog that is not edited yet."""
    from flows.edit_catalog import edit_catalog  # Prefect and Ray: only when they are needed

    _run_flow(
        edit_catalog,
        "editing",
        catalog=catalog,
        output=output,
        variant=variant,
        geometry=geometry.value,
        feather=feather,
        crop_to_mask=crop_to_mask,
        candidates=candidates,
        keep_candidates=keep_candidates,
        review_below=review_below,
        auto_mask=auto_mask,
        allow_empty_masks=allow_empty_masks,
        allow_full_masks=allow_full_masks,
        preset=preset,
        quality=quality,
        strict=strict,
        max_failed=max_failed,
        retry_failures=retry_failures,
        replicas=replicas,
        shard_size=shard_size,
        accept_license=accept_license,
        allow_unguarded_writes=allow_unguarded_writes,
    )


@app.command()
def retry(
    output: Output,
    failed_run: Annotated[str, typer.Argument(help="The run's id, as under runs/.")],
    codes: Annotated[
        str, typer.Option(help="Error codes to retry, comma-separated. Empty: all.")
    ] = "",
    max_failed: Annotated[int, typer.Option(min=0, help="Failures a good run may have.")] = 0,
    replicas: Annotated[int, typer.Option(min=0, help="0: one a GPU, or one on a CPU.")] = 0,
    accept_license: AcceptLicense = False,
) -> None:
    """Try the failed rows of a run again."""
    from flows.retry_failed import retry_failed

    _run_flow(
        retry_failed,
        "editing",
        output=output,
        failed_run=failed_run,
        codes=codes,
        max_failed=max_failed,
        replicas=replicas,
        accept_license=accept_license,
    )


@app.command()
def review(
    output: Output,
    run: Annotated[str, typer.Argument(help="The run's id, as under runs/.")],
    promote: Annotated[str, typer.Option(help="Rows to publish, comma-separated, or: all.")] = "",
    discard: Annotated[
        str, typer.Option(help="Rows whose picture is not wanted, comma-separated, or: all.")
    ] = "",
) -> None:
    """Show the pictures that a run held back; publish or discard them."""
    from flows.review_run import review_run

    _run_flow(review_run, "reviewing", output=output, run=run, promote=promote, discard=discard)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Such as mini, or a file that ends in .json.")],
    output: Annotated[str, typer.Argument(help="Where the variant goes: s3://bucket/prefix.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that share each step.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of each; 0: a share.")] = 0,
    stop_after_minutes: Annotated[
        float, typer.Option(min=0, help="Then stop; the same command goes on. 0: until done.")
    ] = 0,
    photos: Annotated[str, typer.Option(help="A folder of photographs for the VAE.")] = "",
    start_from: Annotated[
        str, typer.Option(help="A variant to start from: a name, a folder or s3://….")
    ] = "",
    catalog: Annotated[
        str, typer.Option(help="Learn from this catalog, whose column `target` has the answers.")
    ] = "",
    accept_license: AcceptLicense = False,
) -> None:
    """Train a variant by a recipe: from nothing, or from another variant."""
    from flows.train_ace import train_ace

    _run_flow(
        train_ace,
        "training",
        recipe=recipe,
        output=output,
        workers=workers,
        threads=threads,
        stop_after_minutes=stop_after_minutes,
        photos=photos,
        start_from=start_from,
        catalog=catalog,
        accept_license=accept_license,
    )


@app.command()
def evaluate(
    variant: Annotated[str, typer.Argument(help="Such as toy, or the place of a variant.json.")],
    output: Annotated[str, typer.Argument(help="Where tables go: s3://bucket/prefix or a folder.")],
    examples: Annotated[int, typer.Option(min=1, max=10_000, help="Of each task.")] = 64,
    tasks: Annotated[
        str, typer.Option(help="Comma-separated, as in add,recolour. Empty: all.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Which examples.")] = 1,
    size_px: Annotated[int, typer.Option(min=0, help="Side; 0: the variant's.")] = 0,
    baselines: Annotated[bool, typer.Option(help="Also measure what needs no training.")] = True,
    accept_license: AcceptLicense = False,
) -> None:
    """Measure a variant on held-back examples with exact answers, beside baselines."""
    from flows.evaluate import evaluate as evaluate_flow

    _run_flow(
        evaluate_flow,
        "measuring",
        variant=variant,
        output=output,
        examples=examples,
        tasks=tasks,
        seed=seed,
        size_px=size_px,
        baselines=baselines,
        accept_license=accept_license,
    )


@app.command()
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


@app.command()
def plan(
    catalog: Catalog,
    variant: VariantName,
    output: Annotated[
        str, typer.Option(help="Also count what is finished under this s3://bucket/prefix.")
    ] = "",
    look: Annotated[
        bool, typer.Option(help="Also read every picture and mask, and say what looks wrong.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --look: a JSON object a row, and nothing else.")
    ] = False,
    auto_mask: AutoMaskName = "",
    allow_empty_masks: AllowEmpty = False,
    allow_full_masks: AllowFull = False,
    accept_license: AcceptLicense = False,
) -> None:
    """Check and identify a catalog; edits nothing, writes nothing. Exit code 1: a row has a problem."""
    if as_json and not look:
        raise typer.BadParameter("needs --look", param_hint="--json")
    pixels = PixelSettings(
        masks=MaskRules(allow_empty=allow_empty_masks, allow_full=allow_full_masks),
        auto_mask=AutoMask.named(auto_mask),
    )
    environment = read_environment()
    sources, outputs = open_stores(environment.source_store, environment.output_store)
    weights = environment.weights(accept_license)
    found = open_variant(variant, weights)
    check_license(found, weights)
    model = identify(found, weights)
    pixels = with_vision(pixels, open_vision(environment, weights))
    with tempfile.TemporaryDirectory(prefix="ace-plan-") as scratch:
        path, rejects = Path(scratch) / "plan.parquet", Path(scratch) / "rejects.jsonl"
        with open_catalog(catalog, sources) as file:
            specs = to_specs(read_rows(file), catalog, environment.allowed_buckets)
            planning.build_plan(specs, model, sources, path, rejects, pixels)
        counts = planning.count(path, rejects)
        if look:
            from flows.look import look_over, print_json, print_table  # OpenCV, Pillow

            findings = look_over(path, counts.planned, sources, err)
            if as_json:
                raise typer.Exit(EXIT_FAILURES if print_json(findings, rejects) else 0)
        _print_rejects(rejects, counts.rejected)
        table = Table("task", "rows")
        for task, rows in sorted(counts.by_task.items()):
            table.add_row(task, str(rows))
        out.print(table)
        line = f"{counts.planned} rows planned, {counts.rejected} rejected"
        if counts.shared:
            line += f", {counts.shared} share the picture of another row"
        if output:
            before = resume.finished(outputs, output.rstrip("/"), path, retry_failures=False)
            line += f"; {len(before.records)} items done before, {len(before.failures)} failed"
        problems = counts.rejected
        if look:
            problems += print_table(findings, out)
        out.print(line)
    raise typer.Exit(EXIT_FAILURES if problems else 0)


@app.command()
def schema(
    check: Annotated[
        Path | None, typer.Option(help="Compare with this file instead; exit 1 if it differs.")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
) -> None:
    """Print the JSON Schema of a catalog row."""
    text = json.dumps(row_schema(), indent=2, ensure_ascii=False) + "\n"
    if check:
        if not check.exists() or check.read_text() != text:
            err.print(f"{check} is stale; run: ace-catalog schema --write {check}")
            raise typer.Exit(EXIT_FAILURES)
    elif write:
        write.write_text(text)
    else:
        print(text, end="")


def _run_flow(flow: Any, doing: str, **parameters: Any) -> None:
    """Run a flow under a progress bar, say how it ended, and exit with its code."""
    try:
        with _progress_bar(doing):
            state = flow(**parameters, return_state=True)
    except KeyboardInterrupt:
        err.print("cancelled; the same command goes on where it was")
        raise typer.Exit(EXIT_CANCELLED) from None
    _report(state)


@contextmanager
def _progress_bar(doing: str) -> Iterator[None]:
    from flows.progress import Moment, listening

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Bar(*columns, console=err) as bar:
        task = bar.add_task("planning", total=None, detail="")
        told: set[str] = set()

        def show(moment: Moment) -> None:
            if moment.headline not in told:  # one a run, or one a stage of a training
                told.add(moment.headline)
                out.print(moment.headline)
            detail = f"{moment.failed} failed" if moment.failed else ""
            if not moment.replicas and moment.accounted < moment.total:
                detail = "replicas are starting"
            bar.update(
                task,
                description=doing,
                total=moment.total,
                completed=moment.accounted,
                detail=detail,
            )

        with listening(show):
            yield


def _report(state: Any) -> None:
    """Print how a flow run ended, and exit with its code."""
    message = str(state.message or state.name)
    if state.is_completed() or state.name == "FinishedWithFailures":
        summary = state.result(raise_on_failure=False)
        out.print(f"[bold]{state.name}[/bold]: {escape(message)}")
        _print_table(summary.get("table", []))
        for name in (
            "results",
            "failures",
            "rejects",
            "variant",
            "evaluation",
            "samples",
            "report",
        ):
            if summary.get(name):
                out.print(f"  {name:11}{escape(summary[name])}")
        raise typer.Exit(0 if state.name == "Completed" else EXIT_FAILURES)
    prefix = "Flow run encountered an exception: "
    err.print(f"[red]stopped[/red]: {escape(message.removeprefix(prefix))}")
    raise typer.Exit(EXIT_FATAL)


def _print_table(rows: list[dict[str, str]]) -> None:
    if not rows:
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(escape, row.values()))
    out.print(table)


def _print_rejects(path: Path, count: int) -> None:
    if not count:
        return
    table = Table("line", "column", "reason")
    with path.open(encoding="utf-8") as lines:
        for row in map(json.loads, islice(lines, _REJECTS_SHOWN)):
            table.add_row(str(row["line"]), escape(row["field"] or ""), escape(row["reason"]))
    out.print(table)
    if count > _REJECTS_SHOWN:
        out.print(f"… and {count - _REJECTS_SHOWN} more")


def main() -> None:
    """Entry point; an error of ours is one line, not a traceback."""
    try:
        app()
    except AceError as error:
        err.print(f"[red]stopped[/red]: {escape(f'{type(error).__name__}: {error}')}")
        raise SystemExit(EXIT_FATAL) from None


if __name__ == "__main__":
    main()
