"""Estimate before any GPU work what a run will do and take, and stop it if that is too much."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger

from ace_tasks.catalog.files import Reject, Row, to_specs
from ace_tasks.errors import SuspectMask
from ace_tasks.plan.identify import identified
from ace_tasks.plan.planned import Planned
from ace_tasks.plan.price import Estimate, Rate, Rates
from ace_tasks.replica import inspect as looking
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import WorkItem
from flows.steps.open_run import Run
from flows.ui.forms import step
from flows.ui.tables import publish_preflight

SAMPLE = 16


@step("preflight")
def preflight(run: Run, planned: Planned) -> Estimate:
    """Look at a few of the items to do, and estimate what all of them will take.

    Raises OverBudget if that is more than the run may take.
    """
    positions = planned.positions_to_do()
    # Spread evenly, because a plan is sorted by what decides the time of an item.
    items = planned.items_at(positions[:: max(1, -(-len(positions) // SAMPLE))].tolist())
    rate = known_rate(run)
    estimate = _estimate(run, items, len(positions), rate)
    publish_preflight(run.flow_name, planned, estimate, rate)
    for each in estimate.problems:
        get_run_logger().warning("would fail: %s", each)
    for each in estimate.hints:
        get_run_logger().warning("looks like a mistake: %s", each)
    run.budget.check(estimate)
    return estimate


def price_of(run: Run, count: int, sample: list[dict[str, Any]]) -> str:
    """Return for a person what `count` rows would take, from a few that are not planned yet."""
    rows = [Row(line, cells) for line, cells in enumerate(sample, start=1)]
    specs = to_specs(rows, run.catalog, run.allowed_buckets)
    known = identified(specs, run.model, run.sources, run.pixels)
    items = [each[0].item for each in known if not isinstance(each, Reject)]
    return _estimate(run, items, count, known_rate(run)).summary


def _estimate(run: Run, items: list[WorkItem], count: int, rate: Rate | None) -> Estimate:
    """Estimate what `count` items take, from a look at some of them."""
    sample, problems, hints = [], [], []
    findings = looking.look_over(items, run.sources, ImageLimits())
    for item, finding in zip(items, findings, strict=True):
        if finding.problem:
            problems.append(f"row {finding.row_id}: {finding.problem}")
            continue
        if finding.hint_codes:
            hint = f"row {finding.row_id}: {'; '.join(finding.hints)}"
            if run.review.strict_masks:
                problems.append(f"{hint} ({SuspectMask.code})")
                continue
            hints.append(hint)
        if finding.tokens is not None:
            sample.append((finding.tokens, item.resolved.steps * item.resolved.candidates))
    return Estimate.of(count, sample, problems, rate, run.environment.price_per_hour, hints)


def known_rate(run: Run) -> Rate | None:
    """Return the rate that a setting gives, or that an earlier run under this output measured."""
    setting = run.environment.seconds_per_million_token_steps
    return Rate(seconds_per_million=setting) if setting else rates(run).read()


def rates(run: Run) -> Rates:
    # A fast run has a speed of its own, which says nothing of other runs.
    kind = "-fast" if run.pixels.shortcuts else ""
    device = f"{run.environment.device or 'auto'}{kind}"
    return Rates(run.outputs, run.output, run.model.fingerprint, device)
