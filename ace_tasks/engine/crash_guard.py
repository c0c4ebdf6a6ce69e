"""Whose fault is a dead or a late actor? Nobody's by itself.

The items it held are run again *alone*, and only a death while running alone, on a living node,
with no cancel, drain, preemption or memory kill about, counts against the item; enough of them and
it is quarantined. A timeout blames its culprit only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum

import ray
from ray.exceptions import ActorUnavailableError, NodeDiedError, RayError

from ace_tasks.engine.queue import Job
from ace_tasks.errors import ItemError, Quarantined, ReplicaLost, TimedOut

_MAX_LOSSES = 10  # unblamed losses of one item, before it is given up as transient
# Ray's memory monitor names itself in the message only; a crash's message speaks of memory, too.
_MEMORY_MONITOR = ("running low on memory", "killed due to memory pressure", "NODE_OUT_OF_MEMORY")


class Retry(Enum):
    """How an item goes on that lost its replica."""

    FIRST = "before those that wait"
    ALONE = "with no other in its replica"


Verdict = Retry | ItemError


class Death:
    """The end of an actor that was not ours to end."""

    def __init__(self, error: RayError, node_id: str | None):
        """`node_id`: where it was, if it ever was anywhere."""
        self.by_memory_monitor = any(phrase in str(error) for phrase in _MEMORY_MONITOR)
        self.reason = (
            "killed by Ray's memory monitor: its node was running low on memory"
            if self.by_memory_monitor
            else last_line(error)
        )
        # Its machine's or the network's: lost, drained, preempted.
        self.by_infrastructure = (
            isinstance(error, NodeDiedError | ActorUnavailableError)
            or bool(getattr(error, "preempted", False))
            or self.by_memory_monitor
            or not (node_id is None or _is_alive(node_id))
        )

    def verdict(self, job: Job, *, alone: bool, quarantine_after: int) -> Verdict:
        """Of an item that it held; `alone`: it held no other."""
        if self.by_infrastructure:
            # Alone, an item has the memory its neighbours took.
            return lost(job, Retry.ALONE if self.by_memory_monitor else Retry.FIRST)
        if alone:
            job.deaths_alone += 1
        if job.deaths_alone < quarantine_after:
            return Retry.ALONE
        return Quarantined(
            f"its replica died {job.deaths_alone} times while it ran alone: {self.reason}"
        )


def lost(job: Job, retry: Retry) -> Verdict:
    """Blames nobody; but an item that keeps being lost goes to the next run."""
    job.losses += 1
    if job.losses < _MAX_LOSSES:
        return retry
    return ReplicaLost(f"lost with its replica {job.losses} times")


def after_timeout(
    jobs: Sequence[Job],
    busy_s: Mapping[str, float] | None,
    limit_s: Callable[[Job], float],
    *,
    alone: bool,
) -> dict[Job, Verdict]:
    """What becomes of the items of an actor that is late. `busy_s`: item id → seconds at work
    itself; None: its process cannot be asked. Empty: waiting for the GPU is nobody's fault.
    """
    late = [job for job in jobs if busy_s is None or busy_s.get(job.item.item_id, 0) > limit_s(job)]
    # Of several, as in a batch, who it is shows alone.
    sure = alone or len(jobs) == 1 if busy_s is None else len(late) == 1
    verdicts: dict[Job, Verdict] = {}
    for job in jobs if late else ():
        if job not in late:
            verdicts[job] = lost(job, Retry.FIRST)
        elif sure:
            verdicts[job] = TimedOut(f"still at work after {limit_s(job):g} s")
        else:
            verdicts[job] = Retry.ALONE
    return verdicts


def last_line(error: RayError) -> str:
    """Ray's messages end with the cause."""
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__


def _is_alive(node_id: str) -> bool:
    return any(node["Alive"] and node["NodeID"] == node_id for node in ray.nodes())
