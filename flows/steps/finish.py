"""Finish a run: publish results, contact sheet and, last, the summary."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import ValidationError

from ace_tasks.errors import AceError, BadRecord, NeedsReview
from ace_tasks.plan.planned import Planned
from ace_tasks.provenance.keys import (
    failures_key,
    rejects_key,
    report_key,
    results_key,
    summary_key,
)
from ace_tasks.runs.loss import Loss
from ace_tasks.runs.report.cards import Entry
from ace_tasks.runs.report.pages import Sheet
from ace_tasks.runs.results import Summary
from ace_tasks.runs.review import Review
from ace_tasks.settings import ImageLimits
from ace_tasks.store import Store, open_stores
from flows.steps.open_run import Run
from flows.steps.preflight import rates
from flows.steps.run_results import CSV, FAILURES, PARQUET, RunResults
from flows.ui.sheet import link_to, publish_sheet
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
    report_uri = _publish_report(run, planned, edited, summary)
    shown = [*edited.rejected_sample, *edited.sample()]
    publish_results(run.flow_name, summary, shown)
    link = report_uri and link_to(report_uri, run.outputs, run.environment.public_base_url)
    publish_summary(summary, link)
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


def _publish_report(run: Run, planned: Planned, edited: RunResults, summary: Summary) -> str | None:
    """Write the contact sheet, and return its URI. An error is logged and never fails the run."""
    try:
        sheet = _sheet(run, planned, edited, summary)
        return publish_sheet(
            sheet,
            run.flow_name,
            lambda page: run.uri(report_key(run.run_id, page)),
            run.outputs,
            run.environment.public_base_url,
        )
    except (AceError, ValidationError) as error:
        get_run_logger().warning("no contact sheet: %s", error)
        return None


def _sheet(run: Run, planned: Planned, edited: RunResults, summary: Summary) -> Sheet:
    # Thousands of pictures are read. If the store is away, waiting for each is not worth it.
    sources, outputs = open_stores(
        *(each.model_copy(update={"patience_s": 0})
          for each in (run.environment.source_store, run.environment.output_store))
    )  # fmt: skip
    return Sheet(
        title=flow_run.name or f"Edits of {run.catalog}",
        facts={
            "result": summary.line,
            "variant": summary.variant,
            "run": summary.run_id,
            "ended": summary.ended_at.strftime("%Y-%m-%d %H:%M UTC"),
        }
        | ({"lost by speed fast": summary.loss.line} if summary.loss else {})
        | ({"masks to check": summary.masks_to_check} if summary.hinted else {}),
        results=edited.sample(),
        entry_of=lambda result: _with_record(run, outputs, Entry(edited.item_of(result), result)),
        total=planned.counts.planned,
        output_uri=run.output,
        sources=sources,
        outputs=outputs,
        limits=ImageLimits(),
    )


def _with_record(run: Run, outputs: Store, entry: Entry) -> Entry:
    """Return the entry with the record that made its picture or holds it back, and its place."""
    held_back = entry.result.error_code == NeedsReview.code
    if not held_back and entry.result.status not in {"done", "done_before"}:
        return entry
    try:
        held = Review(outputs, run.output, by=run.run_id).look(entry.item.item_id)
    except BadRecord:  # somebody has changed it since; keep the sheet of the others
        return entry
    if held.record is None or (held_back and held.standing != "waiting"):
        return entry
    # Results name the picture's place now; a record keeps the place from before a move.
    place = entry.result.output_uri or held.picture
    return Entry(entry.item, replace(entry.result, output_uri=place), held.record)
