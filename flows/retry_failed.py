"""Try the failed rows of a run again: all of them, or those with certain error codes."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State

from ace_tasks.errors import A_PERSON_DECIDES, SettingsError, SuspectMask
from ace_tasks.provenance.keys import failures_key, results_key
from ace_tasks.runs.history import read_summary
from ace_tasks.runs.results import failed_rows, items_to_review
from ace_tasks.settings import read_environment
from ace_tasks.store import Store
from flows.options.places import Codes, Output, RunId
from flows.options.review import ReviewOptions
from flows.options.run import WorkOptions, again
from flows.steps.edit import MAX_SHARD_THREADS
from flows.steps.execute import execute_run
from flows.steps.open_run import Run, RunRequest, open_run
from flows.ui.forms import form_flow


@form_flow("retry-failed", "retry {failed_run}", threads=MAX_SHARD_THREADS)
def retry_failed(
    output: Output,
    failed_run: RunId,
    codes: Codes = "",
    run: WorkOptions = WorkOptions(),
) -> State[Any]:
    """Edit the failed rows of an earlier run again, with its catalog's rules, variant and settings.

    Rejected rows are left out: correct them in the catalog and run it again. Pictures that wait for
    review, or were discarded, are left alone unless `codes` names their code. Masks that look like
    mistakes are used if `codes` names `suspect_mask`.
    """
    summary = read_summary(Store(read_environment().output_store), output, failed_run)
    wanted = frozenset(code.strip() for code in codes.split(",") if code.strip())
    is_strict = summary.review.strict_masks and SuspectMask.code not in wanted
    request = RunRequest(
        summary.catalog,
        output,
        summary.variant,
        summary.pixels,
        summary.review.model_copy(update={"strict_masks": is_strict}),
        again(run),
        summary.buckets,
    )
    with open_run(request) as opened:
        file = select_failed(opened, failed_run, wanted)
        return execute_run(opened, ReviewOptions(), file, wanted)


def select_failed(run: Run, failed_run: str, codes: Collection[str]) -> Path:
    """Write the wanted failures of a run as a catalog file. Raises SettingsError."""
    results = run.outputs.get(run.uri(results_key(failed_run, "parquet")))
    ids = failed_rows(results, codes)
    if not ids and items_to_review(results):
        raise SettingsError(
            f"codes: the pictures of {failed_run} that wait for review or were discarded are made "
            f"again only by code; accepted: {', '.join(sorted(A_PERSON_DECIDES))}; given none"
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
