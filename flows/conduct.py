"""From a plan to a finished run: what every flow over a catalog does, whatever its rows came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from ace_tasks.changes import Changes
from ace_tasks.engine import check_device
from ace_tasks.price import NO_LIMIT, Budget, Estimate
from ace_tasks.review import Review
from flows.canary import NO_CANARY, Canary, ask, said
from flows.edit import edit_items
from flows.finish import finish_run
from flows.preflight import preflight
from flows.run import Planned, Run, end_without_summary, refusals_noted, untracked


@dataclass(frozen=True)
class Conduct:
    """How a run is carried out; none of it changes a pixel. See the flows' parameters."""

    max_failed: int = 0
    replicas: int = 0
    shard_size: int = 32
    dry_run: bool = False
    budget: Budget = NO_LIMIT
    canary: Canary = NO_CANARY


def conduct(run: Run, plan: Callable[[Changes], Planned], how: Conduct) -> State[Any]:
    """Plan, price, try a few, edit, finish. `plan` is called again after a person's word.

    Starts from the top whenever the run does: after a crash, a Retry, or an answer.
    """
    how.canary.check()
    with refusals_noted(run):
        if not how.dry_run:
            check_device(run.environment.device, run.environment.ray_address)
        planned = plan(said(run, how.canary))
        estimate = preflight(untracked(run), untracked(planned), how.budget)
    if how.dry_run:
        end_without_summary(run, "DryRun", items=estimate.items)
        return _dry(estimate)
    word = ask(run, planned, how.canary, how.replicas, how.budget)
    if isinstance(word, State):
        return word
    if word is not None:
        with refusals_noted(run):
            planned = plan(word)
    edited = edit_items(
        run, planned, replicas=how.replicas, shard_size=how.shard_size, budget=how.budget
    )
    review = Review(run.outputs, run.output, by=run.run_id)
    for failure in planned.before.reopened:
        review.clear_published(failure.item_id)
    return finish_run(run, planned, edited, how.max_failed)


def _dry(estimate: Estimate) -> State[Any]:
    message = f"dry run: {estimate.items} items to do, {estimate.told}; nothing was edited"
    return Completed(message=message, data=dataclasses.asdict(estimate))
