"""Run the steps that every flow over a catalog shares, from a plan to a finished run."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from ace_tasks.engine.session import check_device
from ace_tasks.plan.planned import Planned
from ace_tasks.plan.price import Estimate
from ace_tasks.runs.review import Review
from ace_tasks.wording import counted
from flows.options.review import ReviewOptions
from flows.steps.canary import ask, check_canary, requested_changes
from flows.steps.edit import edit_items
from flows.steps.finish import finish_run
from flows.steps.open_run import Run, end_without_summary, plan_catalog, refusals_noted
from flows.steps.preflight import preflight


def execute_run(
    run: Run, review: ReviewOptions, file: Path | None = None, named: frozenset[str] = frozenset()
) -> State[Any]:
    """Plan, estimate, try a few pictures, edit, finish. See `plan_catalog` for `file` and `named`.

    A run that crashed, was retried or was answered starts again from the top of this function.
    """
    check_canary(review)
    plan = partial(plan_catalog, run, file=file, named=named)
    with refusals_noted(run):
        if not run.options.dry_run:
            check_device(run.environment.device, run.environment.ray_address)
        planned = plan(requested_changes(run, review))
        estimate = preflight(run, planned)
    if run.options.dry_run:
        return _end_dry(run, estimate)
    answer = ask(run, planned, review)
    if isinstance(answer, State):
        return answer
    if answer is not None:
        with refusals_noted(run):
            planned = plan(answer)
    edited = edit_items(run, planned)
    _clear_reopened(run, planned)
    return finish_run(run, planned, edited)


def _end_dry(run: Run, estimate: Estimate) -> State[Any]:
    end_without_summary(run, "DryRun", items=estimate.items)
    to_do = counted(estimate.items, "item")
    message = f"dry run: {to_do} to do, {estimate.summary}; nothing was edited"
    return Completed(message=message, data=dataclasses.asdict(estimate))


def _clear_reopened(run: Run, planned: Planned) -> None:
    """Remove pictures from review whose rows this run has published."""
    review = Review(run.outputs, run.output, by=run.run_id)
    for failure in planned.before.reopened:
        review.clear_published(failure.item_id)
