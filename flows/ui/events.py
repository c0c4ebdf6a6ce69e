"""What a run tells automations: that its pool has started, and that too much of it fails.

`infra/automations.py` listens. Losing an event never fails a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect.events import emit_event

from ace_tasks.engine.dispatcher import Status
from flows.ui.artifacts import decoration

POOL_STARTED = "ace-catalog.pool-started"
FAILURES_ABOVE_LIMIT = "ace-catalog.failures-above-limit"
_LEAST_ITEMS = 20  # of fewer, one failure says little


@dataclass(frozen=True)
class EventEmitter:
    """Tells automations what happens in one flow run."""

    run_id: str
    flow_name: str
    output: str

    def pool_started(self) -> None:
        self.emit(POOL_STARTED, {"output": self.output})

    def emit(self, event: str, payload: dict[str, Any]) -> None:
        with decoration(event):
            emit_event(
                event=event,
                resource={
                    "prefect.resource.id": f"prefect.flow-run.{self.run_id}",
                    "prefect.resource.name": self.flow_name,
                },
                payload=payload,
            )


class FailureAlarm:
    """Tells, once a run, that more of its items fail than should."""

    def __init__(self, events: EventEmitter, limit: float):
        """`limit`: the share of failures that is still fine."""
        self._events = events
        self._limit = limit
        self._raised = False

    def look(self, status: Status) -> None:
        edited = status.done + status.failed
        if self._raised or edited < _LEAST_ITEMS or status.failed <= self._limit * edited:
            return
        self._raised = True
        payload = {
            "output": self._events.output,
            "failed": status.failed,
            "edited": edited,
            "limit": self._limit,
        }
        self._events.emit(FAILURES_ABOVE_LIMIT, payload)
