"""From a plan to a finished run: what every flow over a catalog does, whatever its rows came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from ace_tasks.catalog.overrides import Overrides
from ace_tasks.engine.session import check_device
from ace_tasks.plan.planned import Planned
from ace_tasks.plan.price import NO_LIMIT, Budget, Estimate
from ace_tasks.runs.review import Review
from flows.steps.canary import NO_CANARY, Canary, ask, requested_changes
from flows.steps.edit import edit_items
from flows.steps.finish import finish_run
from flows.steps.open_run import Run, end_without_summary, refusals_noted, untracked
from flows.steps.preflight import preflight


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; none of it changes a pixel. See the flows' parameters."""

    max_failed: int = 0
    replicas: int = 0
    shard_size: int = 32
    dry_run: bool = False
    budget: Budget = NO_LIMIT
    canary: Canary = NO_CANARY


def execute_run(run: Run, plan: Callable[[Overrides], Planned], options: RunOptions) -> State[Any]:
    """Plan, price, try a few, edit, finish. `plan` is called again after a person's word.

    Starts from the top whenever the run does: after a crash, a Retry, or an answer.
    """
    options.canary.check()
    with refusals_noted(run):
        if not options.dry_run:
            check_device(run.environment.device, run.environment.ray_address)
        planned = plan(requested_changes(run, options.canary))
        estimate = preflight(untracked(run), untracked(planned), options.budget)
    if options.dry_run:
        end_without_summary(run, "DryRun", items=estimate.items)
        return _dry(estimate)
    answer = ask(run, planned, options.canary, options.replicas, options.budget)
    if isinstance(answer, State):
        return answer
    if answer is not None:
        with refusals_noted(run):
            planned = plan(answer)
    edited = edit_items(
        run,
        planned,
        replicas=options.replicas,
        shard_size=options.shard_size,
        budget=options.budget,
    )
    review = Review(run.outputs, run.output, by=run.run_id)
    for failure in planned.before.reopened:
        review.clear_published(failure.item_id)
    return finish_run(run, planned, edited, options.max_failed)


def _dry(estimate: Estimate) -> State[Any]:
    message = f"dry run: {estimate.items} items to do, {estimate.summary}; nothing was edited"
    return Completed(message=message, data=dataclasses.asdict(estimate))
