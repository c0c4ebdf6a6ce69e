"""Audit a run: re-read its results, records and pictures."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from ace_tasks.provenance.keys import audit_key, plan_key, rejects_key, results_key
from ace_tasks.runs.audit import Audit, Auditor
from ace_tasks.runs.history import read_summary
from ace_tasks.settings import read_environment
from ace_tasks.store import Store, join_uri
from flows.options.places import Output, RunId, SampleItems
from flows.ui.forms import form_flow
from flows.ui.tables import publish_findings


@form_flow("audit-run", "audit {run}")
def audit_run(output: Output, run: RunId, sample: SampleItems = 1000) -> State[Any]:
    """Check that every row is accounted for, and that a record proves every picture.

    The run ends `Completed`, or `AuditFailed` with a table of what is wrong. It changes nothing but
    the audited run's `audit.json`.
    """
    output = output.rstrip("/")
    store = Store(read_environment().output_store)
    read_summary(store, output, run)
    audit = look(store, output, run, sample)
    uri = join_uri(output, audit_key(run))
    store.put(uri, audit.model_dump_json(indent=1).encode(), "application/json")
    publish_findings(table := _table(audit), audit.line, run)
    get_run_logger().info("%s; %s", audit.line, uri)
    data = {"line": audit.line, "audit": uri, "table": table, **audit.model_dump(mode="json")}
    if audit.findings:
        return Failed(name="AuditFailed", message=audit.line, data=data)
    return Completed(message=audit.line, data=data)


def look(store: Store, output: str, run: str, sample: int) -> Audit:
    """Audit a run. Raises NotFound if its plan or results are gone."""
    with tempfile.TemporaryDirectory(prefix="ace-audit-") as scratch:
        for key in (plan_key(run), rejects_key(run), results_key(run, "parquet")):
            store.download(join_uri(output, key), Path(scratch) / key.rpartition("/")[2])
        return Auditor(store, output, Path(scratch)).audit(run, sample)


def _table(audit: Audit) -> list[dict[str, str]]:
    return [
        {"problem": each.problem, "row": each.row_id or "", "detail": each.detail}
        for each in audit.findings
    ]
