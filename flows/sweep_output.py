"""List pictures that no record names, as a run that was cut between two writes leaves them."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from ace_tasks.runs.sweep import sweep
from ace_tasks.settings import read_environment
from ace_tasks.store import Store
from flows.options.places import DeleteOrphans, OlderThanHours, Output, SweptRun
from flows.ui.forms import form_flow


@form_flow("sweep-output", "sweep {output}")
def sweep_output(
    output: Output,
    older_than_hours: OlderThanHours = 24.0,
    run: SweptRun = "",
    delete: DeleteOrphans = False,
) -> State[Any]:
    """List pictures of ours that no record names; with `delete`, delete them.

    Nothing is touched that is not proved to be ours: see `ace_tasks.provenance.ownership`. Two
    hours after a run was cancelled, an automation starts this for what that run wrote.
    """
    store = Store(read_environment().output_store)
    found = deleted = 0
    for each in sweep(store, output.rstrip("/"), older_than_hours, run, delete=delete):
        found += 1
        deleted += each.is_deleted
        get_run_logger().info("%s %s", "deleted" if each.is_deleted else "found", each.uri)
    message = f"{found} pictures without a record, {deleted} deleted"
    if found and not delete:
        message += "; switch on `delete` to delete them"
    return Completed(message=message, data={"found": found, "deleted": deleted})
