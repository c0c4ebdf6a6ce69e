"""Items on their way through the pool, and the shards that wait for them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ace_tasks.provenance import Failed, Outcome
from ace_tasks.specs import WorkItem


@dataclass(eq=False)
class Shard:
    """What one caller of `Dispatcher.edit` waits for."""

    index: int
    left: int
    outcomes: list[Outcome] = field(default_factory=list)
    unwritten: list[tuple[WorkItem, Failed]] = field(default_factory=list)
    finished: threading.Event = field(default_factory=threading.Event)

    def deliver(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.left -= 1
        if not self.left:
            self.finished.set()


@dataclass(eq=False)
class Job:
    """One item on its way through the pool."""

    item: WorkItem
    shard: Shard
    attempts: int = 0
    deaths_alone: int = 0
    losses: int = 0  # with its replica, nobody to blame
    dispatched_at: float = 0
