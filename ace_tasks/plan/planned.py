"""The plan that a run works from, and the standing of each of its rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from pathlib import Path

import numpy as np

from ace_tasks.plan import plan_file
from ace_tasks.plan.outline import Outline, PlanCounts
from ace_tasks.plan.plan_file import PlanFiles, PlannedRow
from ace_tasks.plan.resume import FinishedItems
from ace_tasks.specs import WorkItem

_AT_ONCE = 10_000


class Standing(IntEnum):
    """The standing of a row before a run edits anything."""

    TO_DO = 0
    DONE = 1
    FAILED_BEFORE = 2
    """It would only fail again, or a person decides about it."""
    SHARED = 3
    """Its picture is another row's, whatever the standing of that row."""


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan and its rejects on disk, and what earlier runs did with it. It decides what to do."""

    files: PlanFiles
    counts: PlanCounts
    before: FinishedItems
    standings: np.ndarray  # bytes: the `Standing` of each row, in the plan's order
    rows_to_do: int  # includes those that share a picture
    rows_failed_before: int  # likewise

    @classmethod
    def of(cls, files: PlanFiles, counts: PlanCounts, before: FinishedItems) -> Planned:
        standings, outline = _standings(before), before.outline
        rows_to_do, rows_failed_before = (
            _rows_of(outline, standings == each)
            for each in (Standing.TO_DO, Standing.FAILED_BEFORE)
        )
        return cls(files, counts, before, standings, rows_to_do, rows_failed_before)

    @property
    def rows(self) -> int:
        """The number of rows in the catalog."""
        return self.counts.planned + self.counts.rejected + self.counts.forgotten

    @property
    def outline(self) -> Outline:
        return self.before.outline

    @property
    def rejects_path(self) -> Path:
        return self.files.rejects

    def positions_to_do(self) -> np.ndarray:
        """Return the positions in the plan of the items to edit."""
        return np.flatnonzero(self.standings == Standing.TO_DO)

    def items_at(self, positions: Collection[int]) -> list[WorkItem]:
        """Return the items at these positions, in the plan's order."""
        return plan_file.items_at(self.files.plan, positions)

    def read(self) -> Iterator[tuple[PlannedRow, Standing]]:
        """Yield every row with its standing, in the plan's order."""
        rows = plan_file.read_plan(self.files.plan)
        # As one list they would take eight bytes each.
        starts = range(0, len(self.standings), _AT_ONCE)
        parts = (self.standings[start : start + _AT_ONCE].tolist() for start in starts)
        yield from zip(rows, map(Standing, chain.from_iterable(parts)), strict=True)


def _rows_of(outline: Outline, chosen: np.ndarray) -> int:
    """Return how many rows have an item of a chosen row, which several may share."""
    is_chosen = np.zeros(len(outline.item_ids), bool)
    is_chosen[outline.items[chosen]] = True
    return int(is_chosen[outline.items].sum())


def _standings(before: FinishedItems) -> np.ndarray:
    outline = before.outline
    of_items = np.full(len(outline.item_ids), Standing.TO_DO, np.uint8)
    of_items[outline.item_ids.marked(before.failures)] = Standing.FAILED_BEFORE
    of_items[before.records.marks] = Standing.DONE
    standings: np.ndarray = of_items[outline.items]
    standings[outline.shares] = Standing.SHARED
    return standings
