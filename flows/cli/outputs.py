"""The commands `status`, `pictures`, `feed` and `sweep`, which work on an output URI."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import Field

from ace_tasks.runs import sweep as sweeping
from ace_tasks.runs import take_out
from ace_tasks.runs.history import NEWEST, PastRun, past_run, past_runs
from ace_tasks.settings import read_environment
from ace_tasks.store import Store
from ace_tasks.wording import counted
from flows.cli.arguments import Json, JsonLines
from flows.cli.terminal import (
    EXIT_CANCELLED,
    EXIT_FAILURES,
    counting,
    err,
    line,
    out,
    print_json,
    run_flow,
)
from flows.options.groups import described
from flows.options.places import (
    DeleteOrphans,
    FeedTo,
    NewestOrRun,
    OlderThanHours,
    OtherFeed,
    Output,
    Overwrite,
    PublicBaseUrl,
    SweptRun,
)


@described
def status(
    output: Output,
    run: Annotated[str, Field(description="The id of one run. Empty = all runs.")] = "",
    /,
    *,
    as_json: JsonLines = False,
) -> None:
    """List the runs under an output, and how each ended."""
    store, output = Store(read_environment().output_store), output.rstrip("/")
    runs = [past_run(store, output, run)] if run else past_runs(store, output)
    for each in runs:
        if as_json:
            print_json(_as_dict(each))
            continue
        outcome = each.summary or each.ending
        how = "not ended, or cut short"
        if outcome:
            how = f"{outcome.flow:16}{outcome.state:22}{outcome.line}"
        out.print(line(f"{each.run_id}  {each.began_at:%Y-%m-%d %H:%M}  {how}"))
        if each.summary and each.summary.unsigned_before:
            out.print(line(f"  {each.summary.unsigned_before}"))
    if not runs and not as_json:
        out.print(line(f"no runs under {output}"))


def _as_dict(run: PastRun) -> dict[str, Any]:
    began = {"run_id": run.run_id, "began_at": run.began_at.isoformat()}
    outcome = run.summary or run.ending
    ended = outcome.model_dump(mode="json") if outcome else {"state": None}
    return began | ended


@described
def pictures(
    output: Output,
    to: Annotated[str, Field(description="Where to copy them: a folder, or s3://bucket/prefix.")],
    /,
    *,
    run: NewestOrRun = NEWEST,
    overwrite: Annotated[
        bool,
        Parameter(negative=""),
        Field(
            description="Replace files whose content differs. Off = leave them, and report them."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy out the current picture of each row, as ROW-ID.EXT. Exit code 1: some rows have none."""
    store = Store(read_environment().output_store)
    try:
        with closing(take_out.TakeOut(store, output, run, to, overwrite=overwrite)) as taking:
            account = take_out.Account(taking.run_id, to)
            for each in counting("copying", taking.take(), taking.rows):
                account.add(each)
    except KeyboardInterrupt:
        err.print("cancelled; run the same command again to continue")
        raise SystemExit(EXIT_CANCELLED) from None
    if as_json:
        print_json(account.as_dict())
    else:
        out.print("\n".join(map(line, account.lines())))
    raise SystemExit(EXIT_FAILURES if account.without else 0)


@described
def feed(
    output: Output,
    to: FeedTo,
    /,
    *,
    run: NewestOrRun = NEWEST,
    public_base_url: PublicBaseUrl = "",
    source: OtherFeed = "",
    overwrite: Annotated[Overwrite, Parameter(negative="")] = False,
    as_json: Json = False,
) -> None:
    """Write a product feed with the links of edited pictures. Exit code 1: some rows have none."""
    run_flow("write_feed", "writing", plans=False, **locals())


@described
def sweep(
    output: Output,
    /,
    *,
    older_than_hours: OlderThanHours = 24.0,
    run: SweptRun = "",
    delete: DeleteOrphans = False,
) -> None:
    """List pictures that no record names, or with --delete delete them.

    A crash between two writes may leave such pictures.
    """
    store = Store(read_environment().output_store)
    found = deleted = 0
    for each in sweeping.sweep(store, output.rstrip("/"), older_than_hours, run, delete=delete):
        found += 1
        deleted += each.is_deleted
        out.print(f"{'deleted' if each.is_deleted else 'found'} {line(each.uri)}")
    out.print(f"{counted(found, 'picture')} without a record, {deleted:,} deleted")
