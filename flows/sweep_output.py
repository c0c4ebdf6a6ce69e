"""List pictures without a record, as a run leaves them that was cut short between two writes."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from ace_tasks.runs.sweep import sweep
from ace_tasks.settings import read_environment
from ace_tasks.store import Store
from ace_tasks.wording import counted
from flows.options.places import DeleteOrphans, OlderThanHours, Output, SweptRun
from flows.ui.forms import form_flow


@form_flow("sweep-output", "sweep {output}")
def sweep_output(
    output: Output,
    older_than_hours: OlderThanHours = 24.0,
    run: SweptRun = "",
    delete: DeleteOrphans = False,
) -> State[Any]:
    """List pictures of this product without a record. With `delete`, delete them.

    Only files that are proved to come from this product are touched; see
    `ace_tasks.provenance.ownership`. Two hours after a run is cancelled, an automation starts this
    flow for the pictures of that run.
    """
    store = Store(read_environment().output_store)
    found = deleted = 0
    for each in sweep(store, output.rstrip("/"), older_than_hours, run, delete=delete):
        found += 1
        deleted += each.is_deleted
        get_run_logger().info("%s %s", "deleted" if each.is_deleted else "found", each.uri)
    message = f"{counted(found, 'picture')} without a record, {deleted:,} deleted"
    if found and not delete:
        message += "; switch on `delete` to delete them"
    return Completed(message=message, data={"found": found, "deleted": deleted})
