"""Events for automations: a run's pool has started, or too many of its items fail.

`infra/automations.py` defines what they trigger. Losing an event never fails a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect.events import emit_event

from ace_tasks.engine.dispatcher import Status
from flows.ui.artifacts import decoration

POOL_STARTED = "ace-catalog.pool-started"
FAILURES_ABOVE_LIMIT = "ace-catalog.failures-above-limit"
_LEAST_ITEMS = 20  # with fewer, one failure says little


@dataclass(frozen=True)
class EventEmitter:
    """The emitter of one flow run's events."""

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
    """An alarm that goes off once per run, when too many of its items fail."""

    def __init__(self, events: EventEmitter, limit: float):
        """Set the alarm. `limit` is the share of failures, from 0 to 1, that is still accepted."""
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
