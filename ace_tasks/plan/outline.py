"""An outline of a plan: its rows without their items, in 38 bytes of memory each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet

from ace_tasks.plan.item_ids import ItemIds


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
    """The item, the sharing and the task of every row of a plan, in the plan's order."""

    item_ids: ItemIds  # of all rows, each once
    items: np.ndarray  # uint32: the position of a row's item in `item_ids`
    shares: np.ndarray  # booleans: whether the picture is another row's
    tasks: np.ndarray  # bytes: index of the task in `task_names`
    task_names: tuple[str, ...]

    @classmethod
    def read(cls, plan_path: Path) -> Outline:
        """Read the light columns of a plan."""
        names: dict[str, int] = {}
        with pyarrow.parquet.ParquetFile(plan_path) as parquet:
            rows = parquet.metadata.num_rows
            items, shares = np.empty(rows, np.uint32), np.empty(rows, bool)
            tasks, end = np.empty(rows, np.uint8), 0
            # The ids are read twice, because both orders of them would take twice the memory.
            item_ids = ItemIds.of_batches(_read_ids(parquet), rows)
            for batch in parquet.iter_batches(columns=["item_id", "same_as", "task"]):
                here = slice(end, end := end + batch.num_rows)
                items[here] = item_ids.positions(batch.column("item_id").to_pylist())
                shares[here] = np.asarray(batch.column("same_as").is_valid())
                tasks[here] = [
                    names.setdefault(each, len(names)) for each in batch.column("task").to_pylist()
                ]
        return cls(item_ids, items, shares, tasks, tuple(names))

    def __len__(self) -> int:
        return len(self.items)

    def task_of(self, position: int) -> str:
        return self.task_names[int(self.tasks[position])]

    def shared_item_ids(self) -> set[str]:
        """Return the item ids that several rows share."""
        return set(self.item_ids.at(np.unique(self.items[self.shares])))

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


def _read_ids(parquet: pyarrow.parquet.ParquetFile) -> Iterator[list[str]]:
    for batch in parquet.iter_batches(columns=["item_id"]):
        yield batch.column("item_id").to_pylist()
