"""A few pictures first, and a person's word before the others are made."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment
from prefect.states import Failed
from pydantic import BaseModel, Field

from ace_tasks import provenance
from ace_tasks.changes import NO_CHANGES, Changes
from ace_tasks.errors import Cancelled, FatalError, NotFound, SettingsError
from ace_tasks.provenance import Outcome
from ace_tasks.review import Review
from ace_tasks.specs import MAX_SEED, WorkItem
from flows.edit import open_pool
from flows.preflight import items_at, to_do
from flows.review_run import RunHeld, decide, show
from flows.run import Planned, Run, untracked

_KEY = "canary"
_HOLD = "among the first pictures of its run"
KEEP_SEED = -1

Decision = Literal["approve", "reject", "approve with changes"]


@dataclass(frozen=True)
class Canary:
    """`items`: how many are made first; 0: none, and nobody is asked."""

    items: int = 0
    wait_hours: float = 72

    def check(self) -> None:
        """Raises SettingsError where there is nobody to ask."""
        if self.items and not deployment.id:
            raise SettingsError(
                "canary: accepted: in a run of a deployment, which the UI can answer; without one, "
                "edit a short catalog first"
            )


NO_CANARY = Canary()


class Approval(RunInput):
    """What the person who looked at the first pictures says."""

    decision: Decision = Field(
        "approve",
        description="approve: publish these, and go on. reject: discard these, and end. approve "
        "with changes: discard these, and go on with the prompt or seed below.",
    )
    prompt: str = Field(
        "", description="The new prompt of every row; {prompt} in it stands for the row's own."
    )
    # A number alone: an optional one makes Prefect's form ask which type is meant.
    seed: int = Field(
        KEEP_SEED, ge=KEEP_SEED, le=MAX_SEED, description="The new seed of every row; -1: as it is."
    )

    def changes(self) -> Changes:
        """Raises SettingsError for an answer that contradicts itself."""
        seed = None if self.seed == KEEP_SEED else self.seed
        changes = Changes(prompt=self.prompt.strip(), seed=seed)
        if bool(changes) != (self.decision == "approve with changes"):
            raise SettingsError(
                "approval: accepted: a prompt or a seed with 'approve with changes', and only "
                f"there; given {self.decision!r} {'with' if changes else 'without'} one"
            )
        changes.check()
        return changes


class Trial(BaseModel):
    """`canary.json`: which items came first, and what was said of them."""

    items: dict[str, str]  # row id → item id
    decision: Decision | None = None
    changes: Changes = NO_CHANGES

    @classmethod
    def read(cls, run: Run) -> Trial | None:
        try:
            return cls.model_validate_json(run.outputs.get(cls._uri(run)))
        except NotFound:
            return None

    def write(self, run: Run) -> None:
        body = self.model_dump_json(indent=1).encode()
        run.outputs.put(self._uri(run), body, "application/json")

    @staticmethod
    def _uri(run: Run) -> str:
        return run.uri(provenance.canary_key(run.run_id))


def said(run: Run, canary: Canary) -> Changes:
    """What a person who was asked already wants changed."""
    trial = Trial.read(run) if canary.items else None
    return trial.changes if trial else NO_CHANGES


def ask(run: Run, planned: Planned, canary: Canary, replicas: int) -> State[Any] | Changes | None:
    """Make a few of the items to do, hold them for review, and wait for a person's answer.

    The run is suspended, without a pool or a process, and starts from the top once it is answered:
    what was made, and what was said, is found again. Returns the state the run ends in; or what is
    to be changed in all rows, empty if nothing is; None: there was nothing to ask, or to decide.
    """
    if not canary.items:
        return None
    trial = Trial.read(run)
    if trial is None:
        trial = Trial(
            items={item.row_id: item.item_id for item in stratified(planned, canary.items)}
        )
        trial.write(run)
    if not trial.items:
        return None
    held = RunHeld(
        run.run_id, run.output, trial.items, run.sources, run.outputs,
        Review(run.outputs, run.output, by=run.run_id), max_shown=len(trial.items),
    )  # fmt: skip
    if trial.decision is None:
        make(untracked(run), untracked(planned), untracked(held), replicas)
        show(held, decide(held, {}))
        answer = _answer(len(trial.items), canary)
        trial = Trial(items=trial.items, decision=answer.decision, changes=answer.changes())
        trial.write(run)
    deed: Literal["promote", "discard"] = "promote" if trial.decision == "approve" else "discard"
    decide(held, dict.fromkeys(trial.items.values(), deed))
    get_run_logger().info("the first %d pictures: %s", len(trial.items), trial.decision)
    if trial.decision == "reject":
        told = f"the first {len(trial.items)} pictures were rejected; nothing else was made"
        return Failed(name="Rejected", message=told, data={"rejected": len(trial.items)})
    return trial.changes


def _answer(count: int, canary: Canary) -> Approval:
    """Suspend the run; its answer, once there is one."""
    told = (
        f"{count} pictures wait: see the contact sheet among this run's artifacts. Without an "
        f"answer within {canary.wait_hours:g} hours the run fails; its pictures wait on."
    )
    seconds = int(timedelta(hours=canary.wait_hours).total_seconds())
    asked = Approval.with_initial_data(description=told)
    return suspend_flow_run(wait_for_input=asked, timeout=seconds, key=_KEY)


def stratified(planned: Planned, count: int) -> list[WorkItem]:
    """As many items to do of each task as can be, spread over the plan, which is sorted by adapter
    and shape.
    """
    places: dict[str, array[int]] = {}
    for position, task_name in to_do(planned):
        places.setdefault(task_name, array("q")).append(position)
    chosen: set[int] = set()
    left = count
    for number, of_task in enumerate(sorted(places.values(), key=len)):  # the smallest first
        share = min(len(of_task), -(-left // (len(places) - number)))
        chosen.update(of_task[n * len(of_task) // share] for n in range(share))
        left -= share
    return items_at(planned, chosen)


@task(name="canary", cache_policy=NO_CACHE, retries=0, persist_result=False)
def make(run: Run, planned: Planned, held: RunHeld, replicas: int) -> list[Outcome] | State[Any]:
    """Edit those that are not held yet, and hold them."""
    missing = {i for i in held.rows.values() if held.review.look(i).standing == "gone"}
    items = [row.item for row in planned.read() if row.item_id in missing and not row.same_as]
    if not items:
        return []
    holding = replace(run, review=run.review.model_copy(update={"hold": _HOLD}))
    try:
        with open_pool(holding, replicas) as pool:
            return pool.edit(items, shard=0)
    except (FatalError, Cancelled) as error:
        return Failed(message=f"stopped: {error}")
