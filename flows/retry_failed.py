"""Try the failed rows of a run again: all of them, or those with some codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner

from ace_tasks import provenance
from ace_tasks.errors import SettingsError
from ace_tasks.history import read_summary
from ace_tasks.results import failed_rows
from ace_tasks.settings import read_environment
from ace_tasks.store import Store
from flows.conduct import Conduct, conduct
from flows.edit import MAX_SHARD_THREADS
from flows.parameters import (
    AcceptLicense,
    AllowUnguardedWrites,
    Codes,
    MaxFailed,
    Output,
    Replicas,
    RunId,
    ShardSize,
)
from flows.run import Run, open_run, plan_catalog, untracked


@flow(
    name="retry-failed",
    flow_run_name="retry {failed_run}",
    task_runner=ThreadPoolTaskRunner(max_workers=MAX_SHARD_THREADS),  # type: ignore[arg-type]
    validate_parameters=True,
    persist_result=False,
)
def retry_failed(
    output: Output,
    failed_run: RunId,
    codes: Codes = "",
    max_failed: MaxFailed = 0,
    replicas: Replicas = 0,
    shard_size: ShardSize = 32,
    accept_license: AcceptLicense = False,
    allow_unguarded_writes: AllowUnguardedWrites = False,
) -> State[Any]:
    """Edit again what failed in an earlier run, with its catalog's rules, variant and settings.

    Rejected rows are not among them: they need their catalog mended.
    """
    summary = read_summary(Store(read_environment().output_store), output, failed_run)
    with open_run(
        summary.catalog,
        output,
        summary.variant,
        summary.pixels,
        summary.review,
        buckets=summary.buckets,
        accept_license=accept_license,
        allow_unguarded_writes=allow_unguarded_writes,
    ) as run:
        file = select_failed(run, failed_run, codes)
        return conduct(
            run,
            lambda changes: plan_catalog(untracked(run), False, True, file, changes),
            Conduct(max_failed=max_failed, replicas=replicas, shard_size=shard_size),
        )


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
