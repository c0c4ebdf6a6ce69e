"""Edit the planned items: feed shards as Prefect task runs to one pool, with a result per row."""

from __future__ import annotations

import concurrent.futures
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Failed

from ace_tasks.engine.dispatcher import Dispatcher
from ace_tasks.engine.queue import ShardStatus
from ace_tasks.errors import Cancelled, FatalError
from ace_tasks.plan import plan_file
from ace_tasks.plan.plan_file import PlannedRow
from ace_tasks.plan.planned import Planned, Standing
from ace_tasks.provenance.outcomes import Outcome
from ace_tasks.runs.published import FinishedPictures, finished_pictures
from ace_tasks.runs.report.pages import PAGE_ITEMS
from ace_tasks.runs.results import Result
from ace_tasks.specs import WorkItem
from ace_tasks.wording import counted
from flows.steps.contact_sheet import growing_sheet
from flows.steps.loss_sample import sample_to_compare
from flows.steps.open_run import Run
from flows.steps.pool import open_pool
from flows.steps.run_results import RunResults, open_results
from flows.ui.events import FailureAlarm
from flows.ui.forms import step
from flows.ui.live import Live, showing

_POLL_S = 0.5
_SHARDS_AHEAD = 2  # the tail of one shard overlaps the head of the next
MAX_SHARD_THREADS = 64


def edit_items(run: Run, planned: Planned) -> RunResults:
    """Edit every planned item that is not done, and enter a result for every row of the catalog.

    Raises OverBudget once the run's replicas have held their places longer than its budget allows.
    """
    shared_ids = planned.outline.shared_item_ids()
    headline = _headline(planned)
    get_run_logger().info(headline)
    shown = run.environment.report_pages * PAGE_ITEMS
    with (
        showing(run.flow_name, planned.rows, headline) as live,
        open_results(run.scratch, max_shown=shown, shared_ids=shared_ids) as edited,
        finished_pictures(run.outputs, run.output, planned.before.records, run.scratch) as pictures,
    ):
        with planned.rejects_path.open(encoding="utf-8") as rejects:
            for reject in map(json.loads, rejects):
                edited.enter_reject(reject)
        made_twice = sample_to_compare(run, planned)
        _edit_shards(run, planned, _to_do(planned, edited, pictures), edited, live, made_twice)
        for row, standing in planned.read() if shared_ids else ():
            if standing is Standing.SHARED:
                edited.enter_shared(row)
        edited.written.check_complete(planned.rows)
        tally = edited.written.tally
        live.update(tally.total, tally.not_done, tally.by_error, edited.status)
    return edited


def _headline(planned: Planned) -> str:
    counts, to_do, failed = planned.counts, planned.rows_to_do, planned.rows_failed_before
    done = counts.planned - to_do - failed
    return (
        f"{counted(planned.rows, 'row')}: {done:,} done before, {to_do:,} to do"
        + (f", {failed:,} failed before" if failed else "")
        + (f", {counts.rejected:,} rejected" if counts.rejected else "")
        + (f", {counts.forgotten:,} forgotten" if counts.forgotten else "")
    )


def _to_do(planned: Planned, edited: RunResults, pictures: FinishedPictures) -> Iterator[WorkItem]:
    """Yield the items to edit, in order, and enter the results of the finished ones on the way."""
    for row, standing in planned.read():
        if standing is Standing.TO_DO:
            yield row.item
        elif standing is Standing.DONE:
            edited.enter(_done_before(row, pictures), row)
        elif standing is Standing.FAILED_BEFORE:
            failure = planned.before.failures[row.item_id]
            error = {"error_code": failure.code, "error": failure.message}
            edited.enter(_result(row, status="failed_before", **error), row)


def _done_before(row: PlannedRow, pictures: FinishedPictures) -> Result:
    """Return the result of an item that has a record; a failure if the record cannot be read."""
    if (bad := pictures.bad_record(row.item_id)) is not None:
        return _result(row, status="failed", error_code=bad.code, error=str(bad))
    picture = pictures.find(row.item_id)
    found = {"output_uri": picture.uri, "sha256": picture.sha256} if picture else {}
    return _result(row, status="done_before", **found)


def _result(row: PlannedRow, **fields: Any) -> Result:
    return Result(row.line, row.row_id, row.task, item_id=row.item_id, **fields)


@dataclass(eq=False)
class _Shard:
    """The items of one task run, and their outcomes.

    Outcomes go into a list of the task's argument as they come. A flow run keeps whatever a task
    returns, and each of its elements, until it ends.
    """

    index: int
    items: list[WorkItem]
    outcomes: list[Outcome] = field(default_factory=list)
    seen: int = 0  # how many of the outcomes `newest` has returned

    def newest(self) -> list[tuple[WorkItem, Outcome]]:
        """Return the items that got an outcome since the last call."""
        newest = self.outcomes[self.seen :]
        self.seen += len(newest)
        return [(self._by_id[each.item_id], each) for each in newest]

    @cached_property
    def _by_id(self) -> dict[str, WorkItem]:
        return {item.item_id: item for item in self.items}


@step("shard", "shard-{shard.index}")
def edit_shard(shard: _Shard, pool: Dispatcher) -> State[Any] | None:
    """Edit one shard by the pool, which outlives it."""
    try:
        pool.edit(shard.items, shard.index, shard.outcomes)
    except (FatalError, Cancelled) as error:
        return Failed(message=f"stopped: {error}")
    return None


def _edit_shards(
    run: Run,
    planned: Planned,
    items: Iterator[WorkItem],
    edited: RunResults,
    live: Live,
    made_twice: frozenset[str],
) -> None:
    """Edit the items. Start nothing if there are none."""
    first = next(items, None)
    if first is None:
        return
    alarm = FailureAlarm(run.events, run.environment.alert_failure_share)
    tally = edited.written.tally
    with (
        growing_sheet(run, len(planned.positions_to_do())) as sheet,
        open_pool(run, made_twice) as pool,
    ):
        edited.status = pool.status
        shards = plan_file.shards(chain([first], items), run.options.shard_size)
        for ended, at_work in _ended_shards(shards, pool, run.options.shard_size):
            for shard in (*ended, *at_work.values()):
                sheet.note(shard.newest())
            for shard in ended:
                edited.enter_shard(shard.items, shard.outcomes)
                live.end_shard(ShardStatus.of(shard.index, len(shard.items), shard.outcomes))
            alarm.look(pool.status)
            working = [each for each in pool.shards() if each.index in at_work]
            live.update(tally.total, tally.not_done, tally.by_error, pool.status, working)


def _ended_shards(
    groups: Iterator[list[WorkItem]], pool: Dispatcher, shard_size: int
) -> Iterator[tuple[list[_Shard], dict[int, _Shard]]]:
    """Keep a window of shards at work until none is left. It grows with the pool.

    Yield, at least twice a second, the shards that have ended, and those at work by number.
    """
    shards = (_Shard(index, items) for index, items in enumerate(groups))
    window: dict[concurrent.futures.Future[Any], _Shard] = {}
    while True:
        feeding = math.ceil(pool.status.capacity / shard_size)
        at_once = min(feeding + _SHARDS_AHEAD, MAX_SHARD_THREADS)
        for shard in islice(shards, max(at_once - len(window), 0)):
            future: Any = edit_shard.submit(shard, pool)
            window[future.wrapped_future] = shard
        if not window:
            return
        done, _ = concurrent.futures.wait(
            window, timeout=_POLL_S, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for state in (each.result() for each in done):
            if not state.is_completed():
                raise pool.error or Cancelled(state.message or "a shard stopped")
        yield [window.pop(each) for each in done], {each.index: each for each in window.values()}
