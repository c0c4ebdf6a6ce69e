"""Automations on a Prefect server, for runs that never start, die, fail or are cancelled.

They cover runs tagged `ace-catalog`: those of our deployments and of the terminal.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import (
    AutomationCore,
    CallWebhook,
    ChangeFlowRunState,
    EventTrigger,
    Posture,
    ResourceSpecification,
    RunDeployment,
    SendNotification,
)
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType

from flows.ui.events import FAILURES_ABOVE_LIMIT, POOL_STARTED

TAG = "ace-catalog"
ZOMBIE = "ace-catalog: a run without a heartbeat is crashed"
STRANDED = "ace-catalog: a run that stays pending is crashed"
FAILING = "ace-catalog: tell that too much of a run fails"
CANCELLED = "ace-catalog: sweep what a cancelled run left"

# After a server was away for a minute, it must not mark every run as crashed.
SILENCE = timedelta(minutes=5)
# A worker waits 15 minutes for a pod to start (infra/pools.py) and then says so itself.
PENDING = timedelta(minutes=30)
_SWEEP_AFTER = timedelta(hours=2)
_OLDER_THAN_HOURS = 1  # another run may write there, and its record comes seconds after its picture
_CANCEL_WITHIN = timedelta(days=30)  # after the pool has started
# Events are named after states, and our states have names other than their types.
_HEARTBEAT = "prefect.flow-run.heartbeat"
_OVER = (
    "Completed",
    "Failed",
    "Crashed",
    "Cancelled",
    "FinishedWithFailures",
    "Rejected",
    "AuditFailed",
    "LinksKept",
    "NotDoneYet",
    "TimedOut",
    "RolledBack",
)
_WAITING = ("Suspended", "Paused", "Scheduled", "AwaitingRetry", "AwaitingConcurrencySlot", "Late")
_NOTICE = (
    "{{ event.payload.failed }} of {{ event.payload.edited }} items of "
    "{{ flow_run.name }} failed so far ({{ event.payload.output }}): {{ flow_run | ui_url }}"
)


def zombie(silence: timedelta = SILENCE) -> AutomationCore:
    """Return the automation that marks silent runs as crashed: their process or machine is gone."""
    expected = {f"prefect.flow-run.{state}" for state in (*_OVER, *_WAITING)}
    return AutomationCore(
        name=ZOMBIE,
        description=f"Marks a run as crashed after {silence} without a heartbeat. A run sends one "
        "every 30 s.",
        trigger=_trigger(
            Posture.Proactive,
            after={_HEARTBEAT},
            expect=expected | {_HEARTBEAT},
            within=silence,
            match_related=_tagged(),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="No heartbeat: its process or its machine is gone. Start the same run "
                "again to continue it.",
            )
        ],
    )


def stranded(patience: timedelta = PENDING) -> AutomationCore:
    """Return the automation that marks runs as crashed whose worker died before it started them.

    Such a run has sent no heartbeat. It would keep its place in the queue, and that of its
    deployment, for ever.
    """
    expected = {f"prefect.flow-run.{state}" for state in (*_OVER, *_WAITING, "Running")}
    return AutomationCore(
        name=STRANDED,
        description=f"Marks a run as crashed that is still pending after {patience}.",
        trigger=_trigger(
            Posture.Proactive,
            after={"prefect.flow-run.Pending"},
            expect=expected,
            within=patience,
            match_related=_tagged(),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="It stayed pending: its worker is gone. Start the same run again.",
            )
        ],
    )


def failing(block_id: UUID, *, webhook: bool) -> AutomationCore:
    """Return the automation that reports failures.

    `block_id` is that of a notification block, or of a webhook, which keeps the address secret.
    """
    action = (
        CallWebhook(block_document_id=block_id, payload=_NOTICE)
        if webhook
        else SendNotification(
            block_document_id=block_id, subject="ace-catalog: many items fail", body=_NOTICE
        )
    )
    return AutomationCore(
        name=FAILING,
        description="Notifies once per run, if more of it fails than ACE_ALERT_FAILURE_SHARE.",
        trigger=_trigger(Posture.Reactive, expect={FAILURES_ABOVE_LIMIT}),
        actions=[action],
    )


def cancelled(sweep_deployment_id: UUID) -> AutomationCore:
    """Return the automation that sweeps pictures without a record after a cancelled run.

    The run's process ends its pool by itself.
    """
    output = _filled_in("flow_run.parameters['output']")
    return AutomationCore(
        name=CANCELLED,
        description=f"Sweeps the output {_SWEEP_AFTER} after the cancel, if the pool had started.",
        trigger=_trigger(
            Posture.Reactive,
            after={POOL_STARTED},
            expect={"prefect.flow-run.Cancelled"},
            within=_CANCEL_WITHIN,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=sweep_deployment_id,
                parameters={
                    "output": output,
                    "older_than_hours": _OLDER_THAN_HOURS,
                    "run": _filled_in("flow_run.id"),
                    "delete": True,
                },
                schedule_after=_SWEEP_AFTER,
            )
        ],
    )


def _filled_in(expression: str) -> dict[str, str]:
    return {"__prefect_kind": "jinja", "template": f"{{{{ {expression} }}}}"}


def _tagged() -> ResourceSpecification:
    return ResourceSpecification(
        {"prefect.resource.id": [f"prefect.tag.{TAG}"], "prefect.resource.role": ["tag"]}
    )


def _trigger(posture: Any, **more: Any) -> EventTrigger:
    return EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        posture=posture,
        threshold=1,
        **more,
    )


async def put(client: PrefectClient, wanted: AutomationCore) -> UUID:
    """Create an automation, or update the one of that name."""
    for found in await client.read_automations_by_name(wanted.name):
        await client.update_automation(found.id, wanted)
        return found.id
    return await client.create_automation(wanted)
