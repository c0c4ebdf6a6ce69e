"""A plan that a run works by, and what is finished of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ace_tasks.plan import plan_file, resume
from ace_tasks.plan.plan_file import PlanCounts, PlannedRow


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan and its rejects on disk, and what earlier runs did of it."""

    path: Path
    rejects_path: Path
    counts: PlanCounts
    before: resume.FinishedItems

    @property
    def rows(self) -> int:
        return self.counts.planned + self.counts.rejected + self.counts.forgotten

    def read(self) -> Iterator[PlannedRow]:
        return plan_file.read_plan(self.path)
