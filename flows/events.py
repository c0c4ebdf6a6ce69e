"""What a run tells automations: that its pool has started, and that too much of it fails.

`infra/automations.py` listens. Losing an event never fails a run.
"""

from __future__ import annotations

from typing import Any

from prefect.events import emit_event

from ace_tasks.engine import Status
from flows.progress import decoration
from flows.run import Run

POOL_STARTED = "ace-catalog.pool-started"
FAILURES_ABOVE_LIMIT = "ace-catalog.failures-above-limit"
_LEAST_ITEMS = 20  # of fewer, one failure says little


def tell_pool_started(run: Run) -> None:
    _tell(POOL_STARTED, run, {"output": run.output})


class FailureAlarm:
    """Tells, once a run, that more of its items fail than should."""

    def __init__(self, run: Run):
        self._run = run
        self._limit = run.environment.alert_failure_share
        self._told = False

    def look(self, status: Status) -> None:
        edited = status.done + status.failed
        if self._told or edited < _LEAST_ITEMS or status.failed <= self._limit * edited:
            return
        self._told = True
        payload = {
            "output": self._run.output,
            "failed": status.failed,
            "edited": edited,
            "limit": self._limit,
        }
        _tell(FAILURES_ABOVE_LIMIT, self._run, payload)


def _tell(event: str, run: Run, payload: dict[str, Any]) -> None:
    with decoration(event):
        emit_event(
            event=event,
            resource={
                "prefect.resource.id": f"prefect.flow-run.{run.run_id}",
                "prefect.resource.name": run.flow_name,
            },
            payload=payload,
        )
