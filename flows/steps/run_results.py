"""The results of a run: one for every row, on disk, and a sample of rows for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from ace_tasks.engine.dispatcher import Status
from ace_tasks.errors import Forgotten
from ace_tasks.plan.plan_file import PlannedRow
from ace_tasks.provenance.outcomes import Done, Outcome
from ace_tasks.provenance.record import LossRecord
from ace_tasks.runs.report.pages import PAGE_ITEMS
from ace_tasks.runs.results import FAILED_STATUSES, Result, ResultsWriter
from ace_tasks.specs import WorkItem

PARQUET, CSV, FAILURES = "results.parquet", "results.csv", "failures.jsonl"


@dataclass(eq=False)
class RunResults:
    """The result of every row, and a sample of rows for people. See `open_results`."""

    written: ResultsWriter
    failures: TextIO
    max_shown: int
    rejected_sample: list[Result] = field(default_factory=list)
    status: Status = field(default_factory=Status)
    losses: list[LossRecord] = field(default_factory=list)  # of items that were made twice
    # Item whose picture several rows share → the result of the row that it was made for.
    _shared: dict[str, Result | None] = field(default_factory=dict)
    # Failures, then rows whose mask looks like a mistake, then others.
    _samples: tuple[list[Result], ...] = field(default_factory=lambda: ([], [], []))
    _items: dict[int, str] = field(default_factory=dict)  # line → a sampled row's item, as JSON

    def enter(self, result: Result, of: WorkItem | PlannedRow) -> None:
        """Write a planned row's result. Its item is read only if it failed."""
        if result.item_id in self._shared and result.same_as is None:
            self._shared[result.item_id] = result
        if result.error_code == Forgotten.code:  # nothing of its row may be quoted
            self._forget(result.line, result.error)
            return
        self.written.write(result)
        self.offer(result, of)
        if result.status in FAILED_STATUSES:
            item = of.item if isinstance(of, PlannedRow) else of
            row = item.spec.model_dump(mode="json", exclude_none=True)
            self.failures.write(json.dumps(row, ensure_ascii=False) + "\n")

    def enter_shard(self, items: Iterable[WorkItem], outcomes: Iterable[Outcome]) -> None:
        by_id = {item.item_id: item for item in items}
        for outcome in outcomes:
            item = by_id.pop(outcome.item_id)  # a KeyError here is an outcome reported twice
            if isinstance(outcome, Done) and outcome.loss:
                self.losses.append(outcome.loss)
            self.enter(Result.of(item, outcome), item)

    def enter_shared(self, row: PlannedRow) -> None:
        """Enter the outcome of the row that shares its picture, under this row's own line."""
        original = self._shared[row.item_id]
        assert original is not None
        result = replace(original, line=row.line, row_id=row.row_id, same_as=row.same_as)
        self.enter(result, row)

    def enter_reject(self, reject: dict[str, Any]) -> None:
        if reject.get("forgotten"):
            self._forget(reject["line"], reject["reason"])
            return
        row = reject["row"] if isinstance(reject["row"], dict) else {}
        row_id, task = (_cut(row.get(name)) for name in ("id", "task"))
        column = f"{reject['field']}: " if reject["field"] else ""
        error = f"{column}{reject['reason']}"
        result = Result(reject["line"], row_id, task, "rejected", error_code="bad_row", error=error)
        self.written.write(result)
        if len(self.rejected_sample) < PAGE_ITEMS:
            self.rejected_sample.append(result)

    def _forget(self, line: int, reason: str | None) -> None:
        self.written.write(Result(line, None, None, status="forgotten", error=reason))

    def offer(self, result: Result, of: WorkItem | PlannedRow) -> None:
        """Sample a row for people while there is room, or in place of one less worth seeing."""
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
        """Return rows for the contact sheet, in the groups of `_samples`, each in catalog order."""
        return [
            each for group in self._samples for each in sorted(group, key=lambda each: each.line)
        ]

    def item_of(self, result: Result) -> WorkItem:
        """Return the item of a row in the sample."""
        return WorkItem.model_validate_json(self._items[result.line])


def _cut(cell: Any) -> str | None:
    return None if cell is None else str(cell)[:128]


@contextmanager
def open_results(
    folder: Path, *, max_shown: int, shared_ids: Iterable[str] = ()
) -> Iterator[RunResults]:
    """Write `PARQUET`, `CSV` and `FAILURES` into a folder while the body works."""
    with (
        ResultsWriter(folder / PARQUET, folder / CSV) as written,
        (folder / FAILURES).open("w", encoding="utf-8") as failures,
    ):
        yield RunResults(written, failures, max_shown, _shared=dict.fromkeys(shared_ids))
