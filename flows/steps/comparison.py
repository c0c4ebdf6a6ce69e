"""Edit a few rows in several ways, each of them a run of its own, and show them side by side.

A comparison plans the catalog as its first alternative would, and chooses rows as a canary does.
Each alternative is then a part of the run: planned, edited and written down as a run over these
rows. So its items are those of the whole run, which finds them done.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from ace_tasks.engine.session import check_device
from ace_tasks.errors import SettingsError
from ace_tasks.plan import plan_file
from ace_tasks.plan.planned import Planned
from ace_tasks.plan.price import Estimate
from ace_tasks.provenance.keys import report_key
from ace_tasks.runs.report.cards import Entry
from ace_tasks.runs.report.comparison import Choice, Column, ComparisonPage, seconds_of
from ace_tasks.runs.results import Summary
from ace_tasks.specs import WorkItem, quote
from ace_tasks.wording import counted
from flows.options.comparison import Alternative
from flows.steps.contact_sheet import with_record
from flows.steps.edit import edit_items
from flows.steps.finish import finish_run
from flows.steps.open_run import (
    Run,
    end_without_summary,
    part_of,
    plan_catalog,
    refusals_noted,
    write_catalog,
)
from flows.steps.pool import one_session
from flows.steps.preflight import preflight
from flows.steps.run_results import RunResults
from flows.steps.stratified import stratified
from flows.steps.whole_run import RestyleRun, WholeRun
from flows.ui.live import format_duration
from flows.ui.run_form import find_form, without_user
from flows.ui.sheet import PublishedSheet


@dataclass(eq=False)
class ComparedRun:
    """One alternative: the whole run that it stands for, and its own run over a few rows."""

    alternative: Alternative
    whole: WholeRun
    run: Run
    planned: Planned
    summary: Summary | None = None
    entries: dict[str, Entry] = field(default_factory=dict)  # row id → the row as it ended
    rejects: dict[str, str] = field(default_factory=dict)  # row id → why

    @property
    def name(self) -> str:
        return self.alternative.name

    @cached_property
    def choice(self) -> Choice:
        """The means by which a person starts the whole run."""
        parameters = self.whole.parameters()
        form = find_form(self.whole.deployment)
        return Choice(
            command=self.whole.command_line(),
            deployment=self.whole.deployment.partition("/")[0],
            parameters=json.dumps(parameters, indent=1, ensure_ascii=False),
            forms=form.both_filled(parameters, self.name) if form else {},
        )

    def take(self, edited: RunResults, summary: Summary) -> None:
        """Keep how the rows ended."""
        self.summary = summary
        for result in edited.rejected_sample:
            self.rejects[str(result.row_id)] = str(result.error)
        for result in edited.sample():
            entry = Entry(edited.item_of(result), result)
            self.entries[str(result.row_id)] = with_record(self.run, self.run.outputs, entry)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison before it edits anything. `left` is how many pictures the catalog has besides."""

    run: Run
    items: list[WorkItem]
    left: int
    compared: list[ComparedRun]

    @property
    def run_ids(self) -> dict[str, str]:
        """The run of each alternative, by its name."""
        return {each.name: each.run.run_id for each in self.compared}

    @cached_property
    def sheet(self) -> PublishedSheet:
        """The place of its page, and its one link among the artifacts."""
        run, public = self.run, self.run.environment.public_base_url

        def uri_of(page: int) -> str:
            return run.uri(report_key(run.run_id, page))

        return PublishedSheet(run.flow_name, uri_of, run.outputs, public, "comparison")


def whole_runs(whole: WholeRun, alternatives: dict[str, Alternative]) -> dict[str, WholeRun]:
    """Return the whole run that each alternative stands for, by its place. Raises SettingsError."""
    found = {}
    for place, alternative in alternatives.items():
        try:
            found[place] = whole.changed(alternative)
            found[place].request().check()
        except SettingsError as error:
            raise SettingsError(f"{place} ({alternative.name}): {error}") from None
    return found


def compare_runs(
    run: Run, alternatives: dict[str, Alternative], wholes: dict[str, WholeRun], rows: int
) -> State[Any]:
    """Choose rows, plan and price all alternatives, edit one after the other, and show them.

    Raises FatalError before any GPU work for alternatives that make no picture or the same ones,
    and for a price above the limit. A comparison that was cut short starts again from the top, and
    finds the pictures that it made.
    """
    if not run.options.dry_run:
        check_device(run.environment.device, run.environment.ray_address)
    with ExitStack() as noted:
        noted.enter_context(refusals_noted(run))
        # First, because a variant that is not there is known at once, and a plan takes its time.
        parts = {place: part_of(run, place, whole.request()) for place, whole in wholes.items()}
        place, whole = next(iter(wholes.items()))
        items, left = _choose(run, alternatives[place], whole, rows)
        compared = []
        for place, part in parts.items():
            noted.enter_context(refusals_noted(part))
            planned = plan_catalog(part, file=_write_rows(part, wholes[place], items))
            compared.append(ComparedRun(alternatives[place], wholes[place], part, planned))
        for each in compared:
            _check_valid(each.alternative, each.planned)
        _check_different(compared)
        estimate = Estimate.total([preflight(each.run, each.planned) for each in compared])
        run.budget.check(estimate)
    comparison = Comparison(run, items, left, compared)
    if run.options.dry_run:
        return _end_dry(comparison, estimate)
    _edit(comparison)
    return _finish(comparison)


def _choose(
    run: Run, alternative: Alternative, whole: WholeRun, rows: int
) -> tuple[list[WorkItem], int]:
    """Return a few items of the catalog as a run would plan it, and how many others it has.

    They are chosen among all, done or not, so that a later comparison has the same rows.
    """
    file = write_catalog(run, whole.rows(run)) if isinstance(whole, RestyleRun) else None
    planned = plan_catalog(run, file=file)
    _check_valid(alternative, planned)
    positions = np.flatnonzero(~planned.outline.shares)
    items = planned.items_at(stratified(planned.outline, positions, rows))
    get_run_logger().info("comparing on %s", counted(len(items), "row"))
    return items, len(positions) - len(items)


def _write_rows(part: Run, whole: WholeRun, items: Sequence[WorkItem]) -> Path:
    """Write the rows that an alternative makes of the chosen ones."""
    file = part.scratch / "rows.jsonl"
    lines = (json.dumps(whole.row(each), ensure_ascii=False) for each in items)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _check_valid(alternative: Alternative, planned: Planned) -> None:
    """Raise SettingsError if an alternative can make no picture at all."""
    if planned.counts.planned:
        return
    with planned.rejects_path.open(encoding="utf-8") as rejects:
        first = json.loads(next(rejects))
    column = f"column {first['field']}: " if first["field"] else ""
    raise SettingsError(
        f"alternatives: accepted: those with a valid row; given {quote(alternative.name)}, which "
        f"has none: {column}{first['reason']}"
    )


def _check_different(compared: Sequence[ComparedRun]) -> None:
    """Raise SettingsError if two alternatives make the same pictures."""
    ids = {each.name: sorted(plan_file.read_ids(each.planned.files.plan)) for each in compared}
    for one, other in combinations(ids, 2):
        if ids[one] and ids[one] == ids[other]:
            raise SettingsError(
                f"alternatives: accepted: those that make different pictures; given {quote(one)} "
                f"and {quote(other)}, which make the same"
            )


def _edit(comparison: Comparison) -> None:
    """Edit the rows of each alternative, and show the page before and after each."""
    publish_comparison(comparison)
    compared, spent_s = comparison.compared, 0.0
    is_work = any(each.planned.rows_to_do for each in compared)
    with one_session(comparison.run) if is_work else nullcontext():
        for each in compared:
            # The limits hold for all of them together.
            each.run.budget = replace(comparison.run.budget, before_s=spent_s)
            each.run.started_at = datetime.now(UTC)
            edited = edit_items(each.run, each.planned)
            spent_s += each.run.spent_s
            state = finish_run(each.run, each.planned, edited)
            each.take(edited, Summary.model_validate(state.data))
            publish_comparison(comparison)


def publish_comparison(comparison: Comparison) -> str:
    """Write the page of what is made so far, and return its URI."""
    run = comparison.run
    page = ComparisonPage(
        title=flow_run.name or f"Comparison of {run.catalog}",
        facts={
            "rows": len(comparison.items),
            "run": run.run_id,
            "output": run.output,
        },
        items=comparison.items,
        columns=[_column(comparison, each) for each in comparison.compared],
        output_uri=run.output,
        sources=run.sources,
        outputs=run.outputs,
    )
    return comparison.sheet.publish(page)


def _column(comparison: Comparison, each: ComparedRun) -> Column:
    column = Column(
        name=each.name,
        settings=each.alternative.text,
        run_id=each.run.run_id,
        choice=each.choice,
        entries=each.entries,
        rejects=each.rejects,
    )
    return replace(column, whole=_price(comparison, column))


def _price(comparison: Comparison, column: Column) -> str:
    """Return for a person what the rest of the catalog would take, at most.

    How many of the others an earlier run has made is not counted, because that takes a plan of the
    whole catalog for each alternative.
    """
    seconds = [seconds_of(each) for each in column.records]
    price = comparison.run.environment.price_per_hour
    found = Estimate.measured(comparison.left, seconds, price)
    more = f"at most {counted(comparison.left, 'more picture')}"
    if found.replica_hours is None:
        return f"{more}: {found.summary}"
    cost = "" if found.cost is None else f", cost {found.cost:.2f}"
    return f"{more}: about {format_duration(3600 * found.replica_hours)} of a replica{cost}"


def _end_dry(comparison: Comparison, estimate: Estimate) -> State[Any]:
    for run in (comparison.run, *(each.run for each in comparison.compared)):
        end_without_summary(run, "DryRun", items=estimate.items)
    to_do = counted(estimate.items, "item")
    message = f"dry run: {to_do} to do, {estimate.summary}; nothing was edited"
    return Completed(message=message, data=dataclasses.asdict(estimate))


def _finish(comparison: Comparison) -> State[Any]:
    """Note what was compared, and return the run's final state."""
    run = comparison.run
    end_without_summary(
        run, "Compared", pictures=len(comparison.items), alternatives=comparison.run_ids
    )
    table = list(_table(comparison))
    line = f"compared on {counted(len(comparison.items), 'row')}: {', '.join(comparison.run_ids)}"
    report = run.uri(report_key(run.run_id))
    get_run_logger().info("%s; %s", line, report)
    data = {
        "report": report,
        "page": comparison.sheet.link,
        "open": without_user(flow_run.ui_url),
        "table": table,
        "alternatives": list(_data(comparison)),
    }
    failed = [
        each for each in comparison.compared if each.summary and each.summary.state != "Completed"
    ]
    if failed:
        names = ", ".join(each.name for each in failed)
        message = f"{line}; rows without a picture: {names}"
        return Failed(name="FinishedWithFailures", message=message, data=data)
    return Completed(message=line, data=data)


def _table(comparison: Comparison) -> Iterator[dict[str, str]]:
    for column in (_column(comparison, each) for each in comparison.compared):
        yield {
            "alternative": column.name,
            "settings": column.settings,
            "score": f"{column.scores.total:.2f}" if column.scores else "",
            "seconds": f"{column.seconds:.2f}" if column.seconds else "",
            "the whole catalog": column.whole,
        }


def _data(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for each in comparison.compared:
        yield {
            "name": each.name,
            "run_id": each.run.run_id,
            "command": each.whole.command_line(),
            "deployment": each.whole.deployment,
            "parameters": each.whole.parameters(),
        }
