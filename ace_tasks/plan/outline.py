"""An outline of a plan: its rows without their items, in 34 bytes of memory each."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet

from ace_tasks.plan.item_ids import digests_of


@dataclass
class PlanCounts:
    """Counts of the rows of a catalog, by what became of them in its plan."""

    planned: int = 0
    rejected: int = 0
    forgotten: int = 0
    shared: int = 0
    by_task: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Outline:
    """The item id, the sharing and the task of every row of a plan, in the plan's order."""

    digests: np.ndarray  # of item ids, see `digests_of`
    shares: np.ndarray  # booleans: whether the picture is another row's
    tasks: np.ndarray  # bytes: index of the task in `task_names`
    task_names: tuple[str, ...]

    @classmethod
    def read(cls, plan_path: Path) -> Outline:
        """Read the light columns of a plan, once."""
        names: dict[str, int] = {}
        digests, shares, tasks = [digests_of([])], [np.empty(0, bool)], [np.empty(0, np.uint8)]
        with pyarrow.parquet.ParquetFile(plan_path) as parquet:
            for batch in parquet.iter_batches(columns=["item_id", "same_as", "task"]):
                digests.append(digests_of(batch.column("item_id").to_pylist()))
                shares.append(np.asarray(batch.column("same_as").is_valid()))
                numbers = [
                    names.setdefault(each, len(names)) for each in batch.column("task").to_pylist()
                ]
                tasks.append(np.array(numbers, np.uint8))
        return cls(
            np.concatenate(digests), np.concatenate(shares), np.concatenate(tasks), tuple(names)
        )

    def __len__(self) -> int:
        return len(self.digests)

    def task_of(self, position: int) -> str:
        return self.task_names[int(self.tasks[position])]

    def shared_item_ids(self) -> set[str]:
        """Return the item ids that several rows share."""
        return {bytes(each).hex() for each in np.unique(self.digests[self.shares]).view("V32")}

    def count(self, rejects_path: Path) -> PlanCounts:
        """Count the rows, and those of the catalog that are not in the plan."""
        rows = np.bincount(self.tasks, minlength=len(self.task_names)).tolist()
        counts = PlanCounts(
            planned=len(self),
            shared=int(self.shares.sum()),
            by_task=dict(zip(self.task_names, rows, strict=True)),
        )
        with rejects_path.open(encoding="utf-8") as lines:
            for line in lines:
                if json.loads(line).get("forgotten"):
                    counts.forgotten += 1
                else:
                    counts.rejected += 1
        return counts
