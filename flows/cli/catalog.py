"""The commands `plan` and `schema`: check a catalog before paying for its edits."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from rich.table import Table

from ace_tasks.catalog.files import Checked, Reject, open_catalog, read_rows, to_specs
from ace_tasks.errors import SuspectMask
from ace_tasks.model.sources import check_license, identify, open_variant, open_vision, with_vision
from ace_tasks.plan import plan_file as planning
from ace_tasks.plan.identify import refuse_unproved
from ace_tasks.plan.outline import Outline, PlanCounts
from ace_tasks.plan.plan_file import Basis, PlanFiles
from ace_tasks.plan.resume import FinishedItems, RetryRules, find_finished
from ace_tasks.provenance.record import record_schema
from ace_tasks.provenance.tombstones import NOTHING_FORGOTTEN, Tombstones
from ace_tasks.settings import Environment, read_environment
from ace_tasks.specs import PixelSettings, row_schema
from ace_tasks.store import Store, open_stores
from ace_tasks.wording import counted
from flows.cli.arguments import MASKING, PIXELS, JsonCounts
from flows.cli.terminal import EXIT_FAILURES, err, out, print_rejects
from flows.options.groups import described
from flows.options.masking import MaskOptions
from flows.options.pixels import CatalogPixels
from flows.options.places import AcceptLicense, Catalog, Variant
from flows.options.run import RedoOlder


@described
def plan(
    catalog: Catalog,
    /,
    *,
    variant: Variant,
    output: Annotated[
        str,
        Field(
            description="Also count what is finished under this s3://bucket/prefix. Empty = nothing."
        ),
    ] = "",
    look: Annotated[
        bool, Field(description="Also read every picture and mask, and report what looks wrong.")
    ] = False,
    as_json: JsonCounts = False,
    pixels: Annotated[CatalogPixels, PIXELS] = CatalogPixels(),
    masking: Annotated[MaskOptions, MASKING] = MaskOptions(),
    redo_older: RedoOlder = False,
    accept_license: AcceptLicense = False,
) -> None:
    """Check a catalog without editing or writing anything. Exit code 1: a row has a problem."""
    settings = pixels.settings(masking)
    environment = read_environment()
    sources, outputs = open_stores(environment.source_store, environment.output_store)
    basis = _basis(environment, variant, settings, accept_license=accept_license)
    output = output.rstrip("/")
    with tempfile.TemporaryDirectory(prefix="ace-plan-") as scratch:
        files = PlanFiles.within(Path(scratch))
        with open_catalog(catalog, sources) as file:
            specs = to_specs(read_rows(file), catalog, environment.allowed_buckets)
            _build(files, specs, basis, sources, outputs, output)
        counts = Outline.read(files.plan).count(files.rejects)
        problems = counts.rejected
        if look:
            from flows.cli.look import look_over, print_findings, print_table  # OpenCV, Pillow

            findings = look_over(files.plan, counts.planned, sources, err)
        if look and as_json:
            raise SystemExit(EXIT_FAILURES if print_findings(findings, files.rejects) else 0)
        rules = RetryRules(lifted=frozenset({SuspectMask.code}), redo_older=redo_older)
        before = find_finished(outputs, output, files.plan, rules) if output else None
        if as_json:
            _print_counts(counts, before)
        else:
            print_rejects(files.rejects, counts.rejected)
            _print_tasks(counts)
            problems += print_table(findings, out) if look else 0
            out.print(_line(counts, before))
    raise SystemExit(EXIT_FAILURES if problems else 0)


def _basis(
    environment: Environment, variant: str, settings: PixelSettings, *, accept_license: bool
) -> Basis:
    """Identify the model and settings that would make the pictures."""
    weights = environment.weights(accept_license=accept_license)
    found = open_variant(variant, weights)
    check_license(found, weights)
    model = identify(found, weights)
    return Basis(model, with_vision(settings, open_vision(environment, weights)))


def _build(
    files: PlanFiles,
    specs: Iterable[Checked | Reject],
    basis: Basis,
    sources: Store,
    outputs: Store,
    output: str,
) -> None:
    """Identify every row, and refuse what a run that writes to `output` would refuse.

    An empty `output` refuses nothing.
    """
    forgotten = NOTHING_FORGOTTEN
    if output:
        specs = refuse_unproved(specs, outputs, output)
        forgotten = Tombstones.read(outputs, output)
    planning.build_plan(specs, basis, sources, files, forgotten)


def _print_counts(counts: PlanCounts, before: FinishedItems | None) -> None:
    content = dataclasses.asdict(counts)
    if before:
        content |= {"done_before": len(before.records), "failed": len(before.failures)}
    print(json.dumps(content))


def _print_tasks(counts: PlanCounts) -> None:
    table = Table("task", "rows")
    for task, rows in sorted(counts.by_task.items()):
        table.add_row(task, str(rows))
    out.print(table)


def _line(counts: PlanCounts, before: FinishedItems | None) -> str:
    line = f"{counted(counts.planned, 'row')} planned, {counts.rejected:,} rejected"
    if counts.shared:
        line += f", {counts.shared:,} with the picture of another row"
    if counts.forgotten:
        line += f", {counts.forgotten:,} forgotten"
    if before:
        line += (
            f"; {counted(len(before.records), 'item')} done before, {len(before.failures):,} failed"
        )
    return line


@described
def schema(
    *,
    of: Annotated[
        Literal["row", "record"],
        Field(description="Which schema: that of a catalog's row, or of a picture's record."),
    ] = "row",
    check: Annotated[
        Path | None,
        Field(description="Compare the schema with this file instead. Exit code 1: it differs."),
    ] = None,
    write: Annotated[Path | None, Field(description="Write the schema to this file.")] = None,
) -> None:
    """Print the JSON Schema of a catalog row, or of a record."""
    content = row_schema() if of == "row" else record_schema()
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if check:
        if not check.exists() or check.read_text() != text:
            err.print(f"{check} is stale; run: ace-catalog schema --of {of} --write {check}")
            raise SystemExit(EXIT_FAILURES)
    elif write:
        write.write_text(text)
    else:
        print(text, end="")
