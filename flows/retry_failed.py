"""Try the failed rows of a run again: all of them, or those with some codes."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner

from ace_tasks.errors import A_PERSON_DECIDES, SettingsError, SuspectMask
from ace_tasks.plan.resume import RetryRules
from ace_tasks.provenance.keys import failures_key, results_key
from ace_tasks.runs.history import read_summary
from ace_tasks.runs.results import failed_rows, items_to_review
from ace_tasks.settings import read_environment
from ace_tasks.store import Store
from flows.options import (
    AcceptLicense,
    AllowUnguardedWrites,
    Codes,
    MaxFailed,
    Output,
    Replicas,
    RunId,
    ShardSize,
)
from flows.steps.edit import MAX_SHARD_THREADS
from flows.steps.execute import RunOptions, execute_run
from flows.steps.open_run import Run, open_run, plan_catalog, untracked


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

    Rejected rows are not among them: they need their catalog mended. Pictures that wait for a
    person, or were discarded, are left alone unless their code is named. Masks that look like
    mistakes are taken if the code `suspect_mask` is named.
    """
    summary = read_summary(Store(read_environment().output_store), output, failed_run)
    wanted = {code.strip() for code in codes.split(",") if code.strip()}
    strict_masks = summary.review.strict_masks and SuspectMask.code not in wanted
    with open_run(
        summary.catalog,
        output,
        summary.variant,
        summary.pixels,
        summary.review.model_copy(update={"strict_masks": strict_masks}),
        buckets=summary.buckets,
        accept_license=accept_license,
        allow_unguarded_writes=allow_unguarded_writes,
    ) as run:
        file = select_failed(run, failed_run, wanted)
        # What failed is edited, be there a picture of an earlier version of the code.
        rules = RetryRules(failures=True, named=frozenset(wanted), redo_older=True)
        return execute_run(
            run,
            lambda overrides: plan_catalog(untracked(run), rules, overrides, file),
            RunOptions(max_failed=max_failed, replicas=replicas, shard_size=shard_size),
        )


def select_failed(run: Run, failed_run: str, codes: Collection[str]) -> Path:
    """Write the wanted failures of a run as a catalog file. Raises SettingsError."""
    results = run.outputs.get(run.uri(results_key(failed_run, "parquet")))
    ids = failed_rows(results, codes)
    if not ids and items_to_review(results):
        raise SettingsError(
            f"codes: the pictures that {failed_run} held back, or found discarded, are made again "
            f"only by name; accepted: {', '.join(sorted(A_PERSON_DECIDES))}; given none"
        )
    if not ids:
        raise SettingsError(f"failed_run: no row failed in {failed_run}")
    failures = run.outputs.get(run.uri(failures_key(failed_run)))
    lines = [
        line for line in failures.decode().split("\n") if line and json.loads(line)["id"] in ids
    ]
    file = run.scratch / "retry.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
