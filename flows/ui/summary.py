"""The summary of a finished run: its results, and how to retry the failed rows."""

from __future__ import annotations

import json
import shlex

from ace_tasks.errors import NeedsReview, item_error_codes
from ace_tasks.runs.loss import Loss
from ace_tasks.runs.results import Summary
from ace_tasks.wording import counted
from flows.ui.artifacts import RunArtifact
from flows.ui.live import format_duration
from flows.ui.run_form import find_form
from flows.ui.tables import plain

_RETRY = "retry-failed/retry-failed"
_REVIEW = "review-run/review-run"


def publish_summary(summary: Summary, report: str | None) -> None:
    """Publish the summary of a run. `report` is a link to the contact sheet, or None."""
    content = text(summary, report, *_forms(summary))
    RunArtifact("markdown", f"{summary.flow}-summary").show(content, summary.line)


def text(
    summary: Summary,
    report: str | None,
    retry_form: str | None = None,
    review_form: str | None = None,
) -> str:
    """Return the summary as Markdown. The forms are addresses of forms in the UI, filled in."""
    parts = [f"## {plain(summary.state)}", plain(summary.line)]
    if report:
        parts.append(f"[Contact sheet]({report})")
    asked = f" of {summary.replicas_asked} asked for" if summary.replicas_asked else ""
    hours = "" if summary.replica_hours is None else f", {summary.replica_hours:.2f} replica-hours"
    busy = "" if summary.busy_share is None else f", busy {summary.busy_share:.0%} of their time"
    parts.append(
        f"{format_duration(summary.seconds)}, {summary.items_per_second:.2f} items/s; at most "
        f"{counted(summary.replicas, 'replica')}{asked}{hours}{busy}; {summary.deaths} died."
    )
    if summary.memory.keys() - {"resident"}:
        modes = ", ".join(f"{mode} {count}" for mode, count in sorted(summary.memory.items()))
        parts.append(f"The model did not fit its device whole. Pictures by `memory`: {modes}.")
    if summary.by_error:
        transient = item_error_codes()
        parts.append("| error | rows | the same command again |\n|---|---|---|")
        parts[-1] += "".join(
            f"\n| {plain(code)} | {rows} | {'tries it' if transient.get(code) else 'leaves it'} |"
            for code, rows in sorted(summary.by_error.items(), key=lambda each: -each[1])
        )
    if summary.hinted:
        parts.append(
            f"**Masks to check:** {plain(summary.masks_to_check)}. The contact sheet shows them, "
            "and the column `hints` of the results names the problem."
        )
    if summary.loss:
        parts.append(_lost(summary.loss))
    if NeedsReview.code in summary.by_error:
        parts.append(_decide(summary, review_form))
    if summary.failures:
        parts.append(_retry(summary, retry_form))
    if summary.rejects:
        parts.append(
            f"{counted(summary.rejected, 'invalid row')}. `{summary.rejects}` names the problems. "
            "Correct what it names in the catalog, and run it again: nothing else is edited."
        )
    if summary.unsigned_before:
        parts.append(f"{summary.unsigned_before[0].upper()}{summary.unsigned_before[1:]}.")
    parts.append(f"All rows: `{summary.results}`")
    return "\n\n".join(parts) + "\n"


def _lost(loss: Loss) -> str:
    rows = "".join(
        f"\n| {name.replace('_', ' ')} | {each.fast:g} | {each.exact:g} |"
        for name, each in loss.scores.items()
    )
    return (
        f"### Lost by speed fast\n\n{loss.line}.\n\n"
        f"| mean score | fast | exact |\n|---|---|---|{rows}"
    )


def retry_parameters(summary: Summary) -> dict[str, str]:
    """Return parameters of the deployment `retry-failed` for all failed rows of this run."""
    return {"output": summary.output, "failed_run": summary.run_id}


def review_parameters(summary: Summary) -> dict[str, str]:
    """Return parameters of the deployment `review-run` for the rows that this run held back."""
    return {"output": summary.output, "run": summary.run_id}


def _retry(summary: Summary, form: str | None) -> str:
    given = retry_parameters(summary)
    filled = f" ([its form, filled in]({form}))" if form else ""
    parameters = " ".join(f"-p {shlex.quote(f'{name}={value}')}" for name, value in given.items())
    command = shlex.join(["ace-catalog", "retry", *given.values()])
    return (
        f"### Try the failed rows again\n\nDeployment `retry-failed`{filled}, with\n\n"
        f"```json\n{json.dumps(given, indent=1)}\n```\n\n`codes` limits it to some errors, "
        "such as `timeout,quarantined`. From a terminal, use either of\n\n"
        f"```console\n$ prefect deployment run {_RETRY} {parameters}\n$ {command}\n```"
    )


def _decide(summary: Summary, form: str | None) -> str:
    waiting = counted(summary.by_error[NeedsReview.code], "row")
    given = review_parameters(summary)
    filled = f" ([its form, filled in]({form}))" if form else ""
    return (
        f"### Decide about held pictures\n\nHeld for a person: {waiting}. Deployment "
        f"`review-run`{filled} shows them on a page where you keep or reject each. From a "
        f"terminal:\n\n```console\n$ {shlex.join(['ace-catalog', 'review', *given.values()])}"
        "\n```"
    )


def _forms(summary: Summary) -> tuple[str | None, str | None]:
    """Return the addresses of the UI's forms for a retry and a review, filled in, where needed."""
    retry = find_form(_RETRY) if summary.failures else None
    review = find_form(_REVIEW) if NeedsReview.code in summary.by_error else None
    return (
        retry.filled(retry_parameters(summary)) if retry else None,
        review.filled(review_parameters(summary)) if review else None,
    )
