"""Finish a run: publish results, contact sheet and, last, the summary."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from ace_tasks.plan.planned import Planned
from ace_tasks.provenance.keys import (
    failures_key,
    rejects_key,
    results_key,
    summary_key,
)
from ace_tasks.runs.loss import Loss
from ace_tasks.runs.results import Summary
from flows.steps.contact_sheet import publish_report
from flows.steps.open_run import Run
from flows.steps.preflight import rates
from flows.steps.run_results import CSV, FAILURES, PARQUET, RunResults
from flows.ui.summary import publish_summary
from flows.ui.tables import publish_results


def finish_run(run: Run, planned: Planned, edited: RunResults) -> State[Any]:
    """Publish results, contact sheet and, last, the summary. Return the run's final state."""
    log = get_run_logger()
    for file, key, content_type in (
        (PARQUET, results_key(run.run_id, "parquet"), "application/vnd.apache.parquet"),
        (CSV, results_key(run.run_id, "csv"), "text/csv"),
        (FAILURES, failures_key(run.run_id), "application/x-ndjson"),
    ):
        run.upload(run.scratch / file, key, content_type)
    summary = _summary(run, planned, edited)
    report_uri = publish_report(run, planned, edited, summary)
    shown = [*edited.rejected_sample, *edited.sample()]
    publish_results(run.flow_name, summary, shown)
    publish_summary(summary, run.report.link if report_uri else None)
    rates(run).measured(
        run.run_id, summary.done, summary.token_steps, summary.phases_s.get("generate", 0)
    )
    body = summary.model_dump_json(indent=1).encode()
    run.outputs.put(run.uri(summary_key(run.run_id)), body, "application/json")
    log.info("%s; contact sheet: %s", summary.line, report_uri)
    content = summary.model_dump(mode="json")
    if summary.state == "Completed":
        return Completed(message=summary.line, data=content)
    where = f"; failures: {summary.failures}" if summary.failures else ""
    return Failed(name="FinishedWithFailures", message=f"{summary.line}{where}", data=content)


def _summary(run: Run, planned: Planned, edited: RunResults) -> Summary:
    tally, status = edited.written.tally, edited.status
    ended_at = datetime.now(UTC)
    seconds = (ended_at - run.started_at).total_seconds()
    counted = ("done", "done_before", "failed", "failed_before", "rejected", "forgotten")
    by_status = {name: tally.by_status[name] for name in counted}
    failed = by_status["failed"] + by_status["failed_before"]
    return Summary(
        run_id=run.run_id,
        flow=run.flow_name,
        state="FinishedWithFailures" if tally.not_done > run.options.max_failed else "Completed",
        catalog=run.catalog,
        buckets=run.buckets,
        output=run.output,
        variant=run.variant_name,
        pixels=run.pixels,
        review=run.review,
        started_at=run.started_at,
        ended_at=ended_at,
        rows=planned.rows,
        **by_status,
        skipped=run.skipped,
        shared=planned.counts.shared,
        by_error=dict(tally.by_error),
        hinted=tally.hinted,
        by_hint=dict(tally.by_hint),
        replicas=status.replicas_most,
        replicas_asked=run.replicas_asked,
        deaths=status.deaths,
        replica_hours=round(run.spent_s / 3600, 4),
        seconds=round(seconds, 3),
        items_per_second=round(status.done / seconds, 4),
        token_steps=status.token_steps,
        phases_s={phase: round(seconds, 3) for phase, seconds in sorted(status.phases_s.items())},
        busy_share=round(status.busy_s / status.ready_s, 4) if status.ready_s else None,
        memory=dict(status.memory),
        loss=Loss.of(edited.losses),
        signed=run.environment.marks.signs,
        results=run.uri(results_key(run.run_id, "csv")),
        failures=run.uri(failures_key(run.run_id)) if failed else None,
        rejects=run.uri(rejects_key(run.run_id)) if planned.counts.rejected else None,
    )
