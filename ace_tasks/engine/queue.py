"""Items on their way through the pool, their queue, and the shards that wait for them."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ace_tasks.provenance.outcomes import Failed, Outcome
from ace_tasks.specs import WorkItem

_MAX_OVERTAKEN = 64  # a minute's work of a GPU at a second an item


@dataclass(frozen=True)
class ShardStatus:
    """A shard at one moment, for whoever watches the run."""

    index: int
    items: int
    done: int
    by_error: Counter[str]  # failed items, by code

    @classmethod
    def of(cls, index: int, items: int, outcomes: Sequence[Outcome]) -> ShardStatus:
        by_error = Counter(each.code for each in outcomes if isinstance(each, Failed))
        return cls(index, items, len(outcomes) - by_error.total(), by_error)


@dataclass(eq=False)
class Shard:
    """The items that one caller of `Dispatcher.edit` waits for."""

    index: int
    items: int
    outcomes: list[Outcome] = field(default_factory=list)
    unwritten: list[tuple[WorkItem, Failed]] = field(default_factory=list)
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def left(self) -> int:
        return self.items - len(self.outcomes)

    def status(self) -> ShardStatus:
        """Return a snapshot of the shard. Safe from any thread."""
        outcomes = list(self.outcomes)
        return ShardStatus.of(self.index, self.items, outcomes)

    def deliver(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if not self.left:
            self.finished.set()


@dataclass(eq=False)
class Job:
    """One item on its way through the pool."""

    item: WorkItem
    shard: Shard
    attempts: int = 0
    deaths_alone: int = 0
    losses: int = 0  # how often it was lost with its replica, with nobody to blame
    dispatched_at: float = 0

    def __post_init__(self) -> None:
        self.group = self.item.resolved.group


class Queue:
    """Jobs that wait, the oldest first.

    However, a worker gets a job of its own group before the oldest one, so that it need not switch
    adapters and can fill a batch. The oldest is overtaken at most `max_overtaken` times.
    """

    def __init__(self, max_overtaken: int = _MAX_OVERTAKEN):
        self._max_overtaken = max_overtaken
        self._overtaken = 0
        self._jobs: OrderedDict[Job, None] = OrderedDict()
        self._groups: dict[str, OrderedDict[Job, None]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job, *, first: bool = False) -> None:
        for jobs in (self._jobs, self._groups.setdefault(job.group, OrderedDict())):
            jobs[job] = None
            jobs.move_to_end(job, last=not first)

    def take(self, group: str | None) -> Job:
        """Take out the next job for a worker whose last job was of `group`."""
        oldest = next(iter(self._jobs))
        own = self._groups.get(group) if group is not None else None
        job = next(iter(own)) if own and self._overtaken < self._max_overtaken else oldest
        self._overtaken = 0 if job is oldest else self._overtaken + 1
        del self._jobs[job], self._groups[job.group][job]
        if not self._groups[job.group]:
            del self._groups[job.group]
        return job
