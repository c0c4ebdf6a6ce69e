"""Delete pictures that no record names, as a run that was cut between two writes leaves them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from ace_tasks import provenance
from ace_tasks.settings import read_environment
from ace_tasks.store import Store
from flows.parameters import OlderThanHours, Output


@flow(
    name="sweep-output",
    flow_run_name="sweep {output}",
    validate_parameters=True,
    persist_result=False,
)
def sweep_output(output: Output, older_than_hours: OlderThanHours = 24.0) -> State[Any]:
    """Delete pictures that no record names.

    An automation starts it two hours after a run was cancelled whose pool had started.
    """
    store = Store(read_environment().output_store)
    before = datetime.now(UTC) - timedelta(hours=older_than_hours)
    deleted = 0
    for each in provenance.orphan_pictures(store, output.rstrip("/"), before):
        store.delete(each.uri)
        get_run_logger().info("deleted %s", each.uri)
        deleted += 1
    return Completed(
        message=f"{deleted} pictures without a record deleted", data={"deleted": deleted}
    )
