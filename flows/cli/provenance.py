"""The commands `audit`, `reproduce` and `forget`: prove, remake or delete what a run left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ace_tasks.settings import read_environment
from ace_tasks.store import Store
from ace_tasks.wording import counted
from flows.cli.arguments import Json, JsonLines
from flows.cli.terminal import EXIT_FAILURES, line, out, print_json, run_flow
from flows.options.groups import described
from flows.options.places import (
    AcceptLicense,
    DeleteForGood,
    ForgottenRun,
    ForgottenSource,
    Output,
    RunId,
    SampleItems,
)

if TYPE_CHECKING:
    from ace_tasks.runs.reproduce import Reproduction


@described
def audit(
    output: Output, run: RunId, /, *, sample: SampleItems = 1000, as_json: Json = False
) -> None:
    """Check that a run accounts for all rows and proves all pictures. Exit code 1: it does not."""
    run_flow("audit_run", "auditing", plans=False, **locals())


@described
def reproduce(
    records: Annotated[
        list[str],
        Field(
            description="URIs of records, or an output URI for all of its records.", min_length=1
        ),
    ],
    /,
    *,
    variant: Annotated[
        str, Field(description="The variant's place. Empty = the place that the record names.")
    ] = "",
    sources: Annotated[
        Path | None, Field(description="A folder with the sources, if they were local files.")
    ] = None,
    threads: Annotated[
        int,
        Field(description="CPU threads. 0 = as recorded. Other numbers round differently.", ge=0),
    ] = 0,
    batch_size: Annotated[
        int, Field(description="Number of copies of each picture that share a pass.", ge=1, le=64)
    ] = 1,
    device: Annotated[
        str, Field(description="The device that remakes the pictures: cpu or cuda.")
    ] = "cpu",
    accept_license: AcceptLicense = False,
    as_json: JsonLines = False,
) -> None:
    """Make recorded pictures again and compare their pixels. Exit code 1: some differ."""
    from ace_tasks.runs.reproduce import Asked, Reproducer, record_uris  # torch

    environment = read_environment()
    asked = Asked(variant, sources, threads, batch_size, accept_license)
    reproducer, identical, count = Reproducer(environment, device, asked), 0, 0
    for place in records:
        for uri in record_uris(Store(environment.output_store), place):
            made = reproducer.reproduce(uri)
            count += 1
            identical += made.identical
            if as_json:
                print_json(made.as_dict())
            else:
                out.print(line(f"{uri}: {_describe(made)}"))
    if not as_json:
        out.print(f"{identical} of {count} bit-identical")
    raise SystemExit(0 if identical == count else EXIT_FAILURES)


def _describe(made: Reproduction) -> str:
    """Return how a picture that was made again compares with the recorded one."""
    how = "identical" if made.identical else "not the same"
    levels = made.largest_difference
    if not made.identical and made.psnr_db is not None and levels is not None:
        how += f", PSNR {made.psnr_db:.1f} dB, at most {counted(levels, 'level')}"
    return "; ".join([how, *made.differs])


@described
def forget(
    output: Output,
    /,
    *,
    source: ForgottenSource = "",
    run: ForgottenRun = "",
    delete: DeleteForGood = False,
    as_json: Json = False,
) -> None:
    """List all that was made from a source or by a run, or with --delete delete it.

    What was deleted is not made again.
    """
    run_flow("forget", "forgetting", plans=False, **locals())
