"""Try the failed rows of a run again: all of them, or those with some codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from ace_tasks import provenance
from ace_tasks.errors import NotFound, SettingsError
from ace_tasks.results import Summary, failed_rows
from ace_tasks.settings import read_environment
from ace_tasks.store import Store, join_uri
from flows.conduct import Conduct, conduct
from flows.edit import MAX_SHARD_THREADS
from flows.form import described
from flows.run import Run, open_run, plan_catalog, untracked


@described
@flow(
    name="retry-failed",
    flow_run_name="retry {failed_run}",
    task_runner=ThreadPoolTaskRunner(max_workers=MAX_SHARD_THREADS),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def retry_failed(
    output: Annotated[str, Field(description="The run's output: s3://bucket/prefix.")],
    failed_run: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9-]{1,64}$", description="The run's id, as under runs/."),
    ],
    codes: Annotated[
        str,
        Field(description="Error codes to retry, comma-separated, such as timeout. Empty: all."),
    ] = "",
    max_failed: Annotated[
        int, Field(ge=0, description="How many failures a completed run may have.")
    ] = 0,
    replicas: Annotated[
        int, Field(ge=0, description="Model replicas; 0: one for each GPU, or one on a CPU.")
    ] = 0,
    shard_size: Annotated[
        int, Field(ge=1, le=10_000, description="Rows in one task run of the UI.")
    ] = 32,
    accept_license: Annotated[
        bool,
        Field(description="I have read and accept the licence of the variant's weights (once)."),
    ] = False,
    allow_unguarded_writes: Annotated[
        bool,
        Field(description="Go on with a store that ignores If-None-Match; runs may then collide."),
    ] = False,
) -> State[Any]:
    """Edit again what failed in an earlier run, with its catalog's rules, variant and settings.

    Rejected rows are not among them: they need their catalog mended.
    """
    summary = read_summary(output, failed_run)
    with open_run(
        summary.catalog,
        output,
        summary.variant,
        summary.pixels,
        summary.review,
        accept_license=accept_license,
        allow_unguarded_writes=allow_unguarded_writes,
    ) as run:
        file = select_failed(run, failed_run, codes)
        return conduct(
            run,
            lambda changes: plan_catalog(untracked(run), False, True, file, changes),
            Conduct(max_failed=max_failed, replicas=replicas, shard_size=shard_size),
        )


def read_summary(output: str, run_id: str) -> Summary:
    """The summary of a run that came to its end. Raises SettingsError."""
    store = Store(read_environment().output_store)
    try:
        body = store.get(join_uri(output, provenance.summary_key(run_id)))
    except NotFound:
        raise SettingsError(
            f"failed_run: {run_id} has no summary under {output}: no such run, or it did not come "
            "to its end; start it again and it goes on where it was"
        ) from None
    return Summary.model_validate_json(body)


def select_failed(run: Run, failed_run: str, codes: str) -> Path:
    """Write the wanted failures of a run as a catalog file. Raises SettingsError."""
    wanted = [code.strip() for code in codes.split(",") if code.strip()]
    results = run.outputs.get(run.uri(provenance.results_key(failed_run, "parquet")))
    ids = failed_rows(results, wanted)
    if not ids:
        raise SettingsError(f"failed_run: no row failed in {failed_run}")
    failures = run.outputs.get(run.uri(provenance.failures_key(failed_run)))
    lines = [
        line for line in failures.decode().split("\n") if line and json.loads(line)["id"] in ids
    ]
    file = run.scratch / "retry.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
