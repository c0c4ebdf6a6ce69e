"""Make a few pictures first, and wait for a person's decision before making the others."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput, keyset_from_paused_state
from prefect.input.actions import read_flow_run_input
from prefect.runtime import deployment
from prefect.states import Failed, Suspended
from pydantic import Field, ValidationError

from ace_tasks.catalog.overrides import NO_OVERRIDES, Overrides
from ace_tasks.errors import SettingsError
from ace_tasks.plan.planned import Planned, Standing
from ace_tasks.runs.decisions import ReviewDecision
from ace_tasks.runs.review import Review
from ace_tasks.specs import MAX_SEED
from ace_tasks.wording import counted
from flows.options.review import ReviewOptions
from flows.steps.open_run import Run, end_without_summary
from flows.steps.pool import open_pool
from flows.steps.review import RunHeld, decide, show
from flows.steps.stratified import stratified
from flows.steps.trial import Decision, Trial
from flows.ui.forms import step

_AFTERWARDS = (
    "The run waits for your answer all the same: open it and press Resume. If you approve, the "
    "pictures that you rejected here stay rejected, and the others are published."
)
_HOLD = "among the first pictures of its run"
KEEP_SEED = -1


def check_canary(review: ReviewOptions) -> None:
    """Raise SettingsError if a canary is wanted in a run that nobody can answer."""
    if review.canary and not deployment.id:
        raise SettingsError(
            "canary: accepted: in a run of a deployment, which a person can answer in the UI; "
            "elsewhere, edit a short catalog first"
        )


class Approval(RunInput):
    """The answer of the person who looked at the first pictures."""

    # No default: a run that is resumed without an answer is asked again, never published.
    decision: Decision = Field(
        description="approve: publish these pictures and go on. reject: discard them and end the "
        "run. approve with changes: discard them and go on with the prompt or seed below.",
    )
    prompt: str = Field(
        "",
        description="The new prompt of every row. {prompt} in it becomes the row's own. Empty = "
        "keep the prompts.",
    )
    # A plain number, because Prefect's form asks for the type of an optional one.
    seed: int = Field(
        KEEP_SEED,
        ge=KEEP_SEED,
        le=MAX_SEED,
        description="The new seed of every row. -1 = keep the seeds.",
    )

    def changes(self) -> Overrides:
        """Return the changes. Raises SettingsError for an answer that contradicts itself."""
        seed = None if self.seed == KEEP_SEED else self.seed
        changes = Overrides(prompt=self.prompt.strip(), seed=seed)
        if bool(changes) != (self.decision == "approve with changes"):
            raise SettingsError(
                "approval: accepted: a prompt or a seed with 'approve with changes', and only "
                f"there; given {self.decision!r} {'with' if changes else 'without'} one"
            )
        changes.check()
        return changes


def requested_changes(run: Run, review: ReviewOptions) -> Overrides:
    """Return the changes that a person has already asked for."""
    trial = Trial.read(run.outputs, run.output, run.run_id) if review.canary else None
    return trial.changes if trial else NO_OVERRIDES


def ask(run: Run, planned: Planned, review: ReviewOptions) -> State[Any] | Overrides | None:
    """Make a few of the items to do, hold them for review, and wait for a person's answer.

    The run is suspended, without a pool or a process, and starts from the top once it is answered;
    it then finds its pictures and the answer again. Return the state that the run ends in, or the
    changes to make in all rows, which may be empty, or None if there was nothing to ask.

    The time of the first pictures counts towards the run's budget, also after the run was
    suspended. Raises OverBudget.
    """
    if not review.canary:
        return None
    place = (run.outputs, run.output, run.run_id)
    trial = Trial.read(*place)
    if trial is None:
        chosen = stratified(planned.outline, planned.positions_to_do(), review.canary)
        items = planned.items_at(chosen)
        trial = Trial(items={item.row_id: item.item_id for item in items})
        trial.write(*place)
    if not trial.items and trial.decision is None:
        return None
    run.spent_s = trial.replica_s
    stores, by_run = (run.sources, run.outputs), Review(run.outputs, run.output, by=run.run_id)
    held = RunHeld(run.run_id, run.output, trial.items, *stores, by_run, len(trial.items))
    if trial.decision is None:
        try:
            make(run, planned, held)
        finally:
            trial = trial.model_copy(update={"replica_s": run.spent_s})
            trial.write(*place)
        trial = _decided(run, trial, held, review.canary_wait_hours)
        trial.write(*place)
    decision: ReviewDecision = "promote" if trial.decision == "approve" else "discard"
    decide(held, dict.fromkeys(trial.items.values(), decision))
    get_run_logger().info(
        "a person looked at %s and decided: %s",
        counted(len(trial.items), "picture"),
        trial.decision,
    )
    if trial.decision == "reject":
        end_without_summary(run, "Rejected", pictures=len(trial.items))
        looked_at = counted(len(trial.items), "picture")
        message = f"rejected after a look at {looked_at}; nothing else was made"
        return Failed(name="Rejected", message=message, data={"rejected": len(trial.items)})
    return trial.changes


def _decided(run: Run, trial: Trial, held: RunHeld, wait_hours: float) -> Trial:
    """Return the trial with a person's decision; without a valid one, suspend the run and ask.

    Each question has its own key, because Prefect takes a key that was used for answered. (The run
    count cannot serve as key: a run that is resumed keeps it.)
    """
    problem = ""
    if trial.asked:
        try:
            answer = _answer_to(trial.asked)
            if answer:
                return trial.model_copy(
                    update={"decision": answer.decision, "changes": answer.changes()}
                )
        except (SettingsError, ValidationError) as error:
            problem = f"The last answer was not accepted: {error}. "
            get_run_logger().warning(
                "the answer was not accepted, so the run asks again: %s", error
            )
    key = f"canary-{uuid.uuid4().hex}"
    trial.model_copy(update={"asked": key}).write(run.outputs, run.output, run.run_id)
    show(held, decide(held, {}), _AFTERWARDS)
    description = (
        f"{problem}Decide about {counted(len(trial.items), 'picture')}: see the contact sheet among this "
        f"run's artifacts. Without an answer within {wait_hours:g} h the run fails, and its "
        "pictures stay held for review."
    )
    seconds = int(timedelta(hours=wait_hours).total_seconds())
    form = Approval.with_initial_data(description=description)
    suspend_flow_run(wait_for_input=form, timeout=seconds, key=key)
    raise AssertionError("Prefect treated the run as answered already")


def _answer_to(key: str) -> Approval | None:
    """Return the answer that was given under this key, if any. Raises ValidationError."""
    given: Any = read_flow_run_input(keyset_from_paused_state(Suspended(pause_key=key))["response"])
    return Approval(**given) if given else None


@step("canary")
def make(run: Run, planned: Planned, held: RunHeld) -> None:
    """Edit the items that are not held yet, and hold their pictures for review.

    Raises FatalError and Cancelled, so that nobody is asked about pictures that could not be made.
    """
    missing = {i for i in held.rows.values() if held.review.look(i).standing == "gone"}
    items = [
        row.item
        for row, standing in planned.read()
        if standing is not Standing.SHARED and row.item_id in missing
    ]
    if not items:
        return
    holding = replace(run, review=run.review.model_copy(update={"hold": _HOLD}))
    try:
        with open_pool(holding) as pool:
            pool.edit(items, shard=0)
    finally:
        run.spent_s = holding.spent_s
