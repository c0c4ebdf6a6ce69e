"""Edit what is planned: shards as Prefect task runs, fed to one pool; one result for every row."""

from __future__ import annotations

import concurrent.futures
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Failed

from ace_tasks.engine.dispatcher import Dispatcher, Status
from ace_tasks.engine.queue import ShardStatus
from ace_tasks.errors import Cancelled, FatalError, Forgotten
from ace_tasks.plan import plan_file
from ace_tasks.plan.plan_file import PlannedRow
from ace_tasks.plan.planned import Planned, Standing
from ace_tasks.provenance.outcomes import Outcome
from ace_tasks.runs.published import FinishedPictures, finished_pictures
from ace_tasks.runs.report.pages import PAGE_ITEMS
from ace_tasks.runs.results import FAILED_STATUSES, Result, ResultsWriter
from ace_tasks.specs import WorkItem
from flows.steps.open_run import Run, untracked
from flows.steps.pool import open_pool
from flows.ui.events import FailureAlarm
from flows.ui.live import Live

_POLL_S = 0.5
_SHARDS_AHEAD = 2  # the tail of one shard overlaps the head of the next
MAX_SHARD_THREADS = 64


@dataclass(eq=False)
class RunResults:
    """What became of every row, written to disk; and a sample of it for people."""

    results: ResultsWriter
    parquet_path: Path
    csv_path: Path
    failures_path: Path
    max_shown: int
    rejected_sample: list[Result] = field(default_factory=list)
    status: Status = field(default_factory=Status)
    # Failures, then rows whose mask looks like a mistake, then others.
    _samples: tuple[list[Result], ...] = field(default_factory=lambda: ([], [], []))
    _items: dict[int, str] = field(default_factory=dict)  # line → a sampled row's item, as JSON

    def offer(self, result: Result, of: WorkItem | PlannedRow) -> None:
        """Take a row for people while there is room, or in the place of one less worth seeing."""
        group = 0 if result.status in FAILED_STATUSES else 1 if result.hints else 2
        if len(self._items) >= self.max_shown:
            less = next((each for each in reversed(self._samples[group + 1 :]) if each), None)
            if less is None:
                return
            del self._items[less.pop().line]
        self._samples[group].append(result)
        item_json = of.item_json if isinstance(of, PlannedRow) else of.model_dump_json()
        self._items[result.line] = item_json

    def sample(self) -> list[Result]:
        """Rows for the contact sheet, in the order of `_samples`, each group in catalog order."""
        return [
            each for group in self._samples for each in sorted(group, key=lambda each: each.line)
        ]

    def item_of(self, result: Result) -> WorkItem:
        """Of a row in the sample."""
        return WorkItem.model_validate_json(self._items[result.line])


def edit_items(run: Run, planned: Planned) -> RunResults:
    """Edit every planned item that is not done; account for every row of the catalog.

    Raises OverBudget once the run's replicas have held their places for longer than they may.
    """
    log = get_run_logger()
    parquet_path, csv_path = run.scratch / "results.parquet", run.scratch / "results.csv"
    failures_path = run.scratch / "failures.jsonl"
    to_do, shared_ids = planned.rows_to_do, planned.outline.shared_item_ids()
    headline = (
        f"{planned.rows} rows: {planned.counts.planned - to_do} done before, {to_do} to do"
        + (f", {planned.counts.rejected} rejected" if planned.counts.rejected else "")
        + (f", {planned.counts.forgotten} forgotten" if planned.counts.forgotten else "")
    )
    log.info(headline)
    with (
        Live(run.flow_name, planned.rows, headline) as live,
        ResultsWriter(parquet_path, csv_path) as results,
        failures_path.open("w", encoding="utf-8") as failures,
        finished_pictures(run.outputs, run.output, planned.before.records, run.scratch) as pictures,
    ):
        max_shown = run.environment.report_pages * PAGE_ITEMS
        edited = RunResults(results, parquet_path, csv_path, failures_path, max_shown)
        ledger = _Ledger(edited, failures, shared_ids)
        for reject in _read_rejects(planned.rejects_path):
            ledger.reject(reject)
        groups = plan_file.shards(_to_do(planned, ledger, pictures), run.options.shard_size)
        first = next(groups, None)
        if first is not None:
            alarm = FailureAlarm(run.events, run.environment.alert_failure_share)
            with open_pool(run) as pool:
                edited.status = pool.status
                _edit_shards(
                    chain([first], groups), pool, run.options.shard_size, ledger, live, alarm
                )
        for row, standing in planned.read() if shared_ids else ():
            if standing is Standing.SHARED:
                ledger.share(row)
        results.check_complete(planned.rows)
        tally = results.tally
        live.update(tally.total, tally.not_done, tally.by_error, edited.status)
    return edited


class _Ledger:
    """Keeps the account: one result a row, and the samples for people."""

    def __init__(self, edited: RunResults, failures: Any, shared_ids: set[str]):
        self._edited = edited
        self._failures = failures
        self._shared: dict[str, Result | None] = dict.fromkeys(shared_ids)
        self.tally = edited.results.tally

    def enter(self, result: Result, of: WorkItem | PlannedRow) -> None:
        """A planned row's item is read for those that failed."""
        if result.item_id in self._shared and result.same_as is None:
            self._shared[result.item_id] = result
        if result.error_code == Forgotten.code:  # nothing of its row is to be quoted
            self._forgotten(result.line, result.error)
            return
        self._edited.results.write(result)
        self._edited.offer(result, of)
        if result.status in FAILED_STATUSES:
            item = of.item if isinstance(of, PlannedRow) else of
            row = item.spec.model_dump(mode="json", exclude_none=True)
            self._failures.write(json.dumps(row, ensure_ascii=False) + "\n")

    def share(self, row: PlannedRow) -> None:
        """A row whose picture is another row's: same outcome, own line."""
        original = self._shared[row.item_id]
        assert original is not None
        result = replace(original, line=row.line, row_id=row.row_id, same_as=row.same_as)
        self.enter(result, row)

    def reject(self, reject: dict[str, Any]) -> None:
        if reject.get("forgotten"):
            self._forgotten(reject["line"], reject["reason"])
            return
        row = reject["row"] if isinstance(reject["row"], dict) else {}
        row_id, task_name = row.get("id"), row.get("task")
        column = f"{reject['field']}: " if reject["field"] else ""
        result = Result(
            line=reject["line"],
            row_id=None if row_id is None else str(row_id)[:128],
            task=None if task_name is None else str(task_name)[:128],
            status="rejected",
            error_code="bad_row",
            error=f"{column}{reject['reason']}",
        )
        self._edited.results.write(result)
        if len(self._edited.rejected_sample) < PAGE_ITEMS:
            self._edited.rejected_sample.append(result)

    def _forgotten(self, line: int, reason: str | None) -> None:
        self._edited.results.write(Result(line, None, None, status="forgotten", error=reason))


def _read_rejects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _to_do(planned: Planned, ledger: _Ledger, pictures: FinishedPictures) -> Iterator[WorkItem]:
    """The items to edit, in order; enters the finished ones into the ledger as it passes them."""
    for row, standing in planned.read():
        if standing is Standing.TO_DO:
            yield row.item
        elif standing is Standing.DONE:
            ledger.enter(_done_before(row, pictures), row)
        elif standing is Standing.FAILED_BEFORE:
            failure = planned.before.failures[row.item_id]
            ledger.enter(_failed(row, "failed_before", failure.code, failure.message), row)


def _done_before(row: PlannedRow, pictures: FinishedPictures) -> Result:
    """The result of a row whose item has a record; a failure, if the record cannot be read."""
    if (bad := pictures.bad_record(row.item_id)) is not None:
        return _failed(row, "failed", bad.code, str(bad))
    picture = pictures.find(row.item_id)
    return Result(
        line=row.line,
        row_id=row.row_id,
        task=row.task,
        item_id=row.item_id,
        status="done_before",
        output_uri=picture.uri if picture else None,
        sha256=picture.sha256 if picture else None,
    )


def _failed(
    row: PlannedRow, status: Literal["failed", "failed_before"], code: str, message: str
) -> Result:
    return Result(
        line=row.line,
        row_id=row.row_id,
        task=row.task,
        item_id=row.item_id,
        status=status,
        error_code=code,
        error=message,
    )


@task(
    name="shard",
    task_run_name="shard-{index}",
    cache_policy=NO_CACHE,
    retries=0,  # the dispatcher owns retries
    persist_result=False,
)
def edit_shard(
    index: int, items: list[WorkItem], pool: Dispatcher, outcomes: list[Outcome]
) -> State[Any] | None:
    """One shard through the pool; the pool outlives it.

    Its outcomes go into a list that it is given: a flow run remembers whatever a task returns, and
    each of its elements, to its end.
    """
    try:
        outcomes += pool.edit(items, index)
    except (FatalError, Cancelled) as error:
        return Failed(message=f"stopped: {error}")
    return None


def _edit_shards(
    groups: Iterable[list[WorkItem]],
    pool: Dispatcher,
    shard_size: int,
    ledger: _Ledger,
    live: Live,
    alarm: FailureAlarm,
) -> None:
    """Submit a window of shards, enter their outcomes as they end, until none is left. The window
    grows with the pool.
    """
    numbered = enumerate(groups)
    window: dict[concurrent.futures.Future[Any], tuple[int, list[WorkItem], list[Outcome]]] = {}
    while True:
        feeding = math.ceil(pool.status.capacity / shard_size)
        at_once = min(feeding + _SHARDS_AHEAD, MAX_SHARD_THREADS)
        for index, items in islice(numbered, max(at_once - len(window), 0)):
            outcomes: list[Outcome] = []
            future: Any = edit_shard.submit(
                index, untracked(items), untracked(pool), untracked(outcomes)
            )
            window[future.wrapped_future] = (index, items, outcomes)
        if not window:
            return
        done, _ = concurrent.futures.wait(
            window, timeout=_POLL_S, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for each in done:
            index, items, outcomes = window.pop(each)
            state = each.result()
            if not state.is_completed():
                raise pool.error or Cancelled(state.message or "a shard stopped")
            _enter_outcomes(outcomes, items, ledger)
            live.end_shard(ShardStatus.of(index, len(items), outcomes))
        alarm.look(pool.status)
        at_work = {index for index, _, _ in window.values()}
        working = [shard for shard in pool.shards() if shard.index in at_work]
        tally = ledger.tally
        live.update(tally.total, tally.not_done, tally.by_error, pool.status, working)


def _enter_outcomes(outcomes: list[Outcome], items: list[WorkItem], ledger: _Ledger) -> None:
    by_id = {item.item_id: item for item in items}
    for outcome in outcomes:
        item = by_id.pop(outcome.item_id)  # a KeyError here is an outcome told twice
        ledger.enter(Result.of(item, outcome), item)
