"""The summary of a finished run: its results, and how to retry the failed rows."""

from __future__ import annotations

import json
import shlex
from urllib.parse import quote

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_UI_URL

from ace_tasks.errors import item_error_codes
from ace_tasks.runs.loss import Loss
from ace_tasks.runs.results import Summary
from ace_tasks.wording import counted
from flows.ui.artifacts import RunArtifact, decoration
from flows.ui.live import format_duration
from flows.ui.tables import plain

_RETRY = "retry-failed/retry-failed"


def publish_summary(summary: Summary, report: str | None) -> None:
    """Publish the summary of a run. `report` is a link to the contact sheet, or None."""
    with decoration("summary"):  # it asks the API for the form
        content = text(summary, report, _form(summary))
        RunArtifact("markdown", f"{summary.flow}-summary").show(content, summary.line)


def text(summary: Summary, report: str | None, form: str | None) -> str:
    """Return the summary as Markdown. `form` is the URL of the UI's form for a retry, or None."""
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
    if summary.failures:
        parts.append(_retry(summary, form))
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


def _form(summary: Summary) -> str | None:
    """Return the URL of the UI's form, filled in; None if the deployment or the UI is missing."""
    base = PREFECT_UI_URL.value()
    if not (base and summary.failures):
        return None
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(_RETRY)
        except ObjectNotFound:
            return None
    # Quoted twice, because the UI decodes what its router has decoded already.
    parameters = quote(quote(json.dumps(retry_parameters(summary)), safe=""), safe="")
    return f"{base}/deployments/deployment/{deployment.id}/run?parameters={parameters}"
