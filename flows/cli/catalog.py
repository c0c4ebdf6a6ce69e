"""`plan`, `schema`: a catalog is checked before it is paid for."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from rich.table import Table

from ace_tasks.catalog.files import open_catalog, read_rows, to_specs
from ace_tasks.errors import SuspectMask
from ace_tasks.model.sources import check_license, identify, open_variant, open_vision, with_vision
from ace_tasks.plan import plan_file as planning
from ace_tasks.plan.identify import refuse_unproved
from ace_tasks.plan.outline import Outline
from ace_tasks.plan.plan_file import Basis, PlanFiles
from ace_tasks.plan.resume import RetryRules, find_finished
from ace_tasks.provenance.record import record_schema
from ace_tasks.provenance.tombstones import NOTHING_FORGOTTEN, Tombstones
from ace_tasks.settings import read_environment
from ace_tasks.specs import row_schema
from ace_tasks.store import open_stores
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
        str, Field(description="Also count what is finished under this s3://bucket/prefix.")
    ] = "",
    look: Annotated[
        bool, Field(description="Also read every picture and mask, and say what looks wrong.")
    ] = False,
    as_json: JsonCounts = False,
    pixels: Annotated[CatalogPixels, PIXELS] = CatalogPixels(),
    masking: Annotated[MaskOptions, MASKING] = MaskOptions(),
    redo_older: RedoOlder = False,
    accept_license: AcceptLicense = False,
) -> None:
    """Check and identify a catalog; edits nothing, writes nothing. Exit code 1: a row has a problem."""
    settings = pixels.settings(masking)
    environment = read_environment()
    sources, outputs = open_stores(environment.source_store, environment.output_store)
    weights = environment.weights(accept_license)
    found = open_variant(variant, weights)
    check_license(found, weights)
    model = identify(found, weights)
    settings = with_vision(settings, open_vision(environment, weights))
    with tempfile.TemporaryDirectory(prefix="ace-plan-") as scratch:
        files = PlanFiles.within(Path(scratch))
        with open_catalog(catalog, sources) as file:
            specs = to_specs(read_rows(file), catalog, environment.allowed_buckets)
            forgotten = NOTHING_FORGOTTEN
            if output:
                specs = refuse_unproved(specs, outputs, output.rstrip("/"))
                forgotten = Tombstones.read(outputs, output.rstrip("/"))
            planning.build_plan(specs, Basis(model, settings), sources, files, forgotten)
        counts = Outline.read(files.plan).count(files.rejects)
        if look:
            from flows.cli.look import look_over, print_findings, print_table  # OpenCV, Pillow

            findings = look_over(files.plan, counts.planned, sources, err)
            if as_json:
                raise SystemExit(EXIT_FAILURES if print_findings(findings, files.rejects) else 0)
        before = None
        if output:
            rules = RetryRules(lifted=frozenset({SuspectMask.code}), redo_older=redo_older)
            before = find_finished(outputs, output.rstrip("/"), files.plan, rules)
        if as_json:
            content = dataclasses.asdict(counts)
            if before:
                content |= {"done_before": len(before.records), "failed": len(before.failures)}
            print(json.dumps(content))
            raise SystemExit(EXIT_FAILURES if counts.rejected else 0)
        print_rejects(files.rejects, counts.rejected)
        table = Table("task", "rows")
        for task, rows in sorted(counts.by_task.items()):
            table.add_row(task, str(rows))
        out.print(table)
        line = f"{counts.planned} rows planned, {counts.rejected} rejected"
        if counts.shared:
            line += f", {counts.shared} share the picture of another row"
        if counts.forgotten:
            line += f", {counts.forgotten} forgotten"
        if before:
            line += f"; {len(before.records)} items done before, {len(before.failures)} failed"
        problems = counts.rejected
        if look:
            problems += print_table(findings, out)
        out.print(line)
    raise SystemExit(EXIT_FAILURES if problems else 0)


@described
def schema(
    *,
    of: Annotated[
        Literal["row", "record"],
        Field(description="The schema of a catalog's row, or of a picture's record."),
    ] = "row",
    check: Annotated[
        Path | None, Field(description="Compare with this file instead. Exit code 1: it differs.")
    ] = None,
    write: Annotated[Path | None, Field(description="Write it to this file.")] = None,
) -> None:
    """Print the JSON Schema of a catalog row, or of a record."""
    text = (
        json.dumps(row_schema() if of == "row" else record_schema(), indent=2, ensure_ascii=False)
        + "\n"
    )
    if check:
        if not check.exists() or check.read_text() != text:
            err.print(f"{check} is stale; run: ace-catalog schema --of {of} --write {check}")
            raise SystemExit(EXIT_FAILURES)
    elif write:
        write.write_text(text)
    else:
        print(text, end="")
