"""Verdicts on the items of a dead or late actor. A death by itself blames nobody.

The items that the actor held run again *alone*. Only a death while running alone, on a living node,
without a cancel, drain, preemption or memory kill, counts against the item; after enough of them
it is quarantined. A timeout blames only its culprit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum

import ray
from ray.exceptions import ActorUnavailableError, NodeDiedError, RayError

from ace_tasks.engine.queue import Job
from ace_tasks.errors import ItemError, Quarantined, ReplicaLost, TimedOut
from ace_tasks.wording import counted

_MAX_LOSSES = 10  # unblamed losses of one item, before it is given up as transient
# Only the message names Ray's memory monitor, and a crash's message may also speak of memory.
_MEMORY_MONITOR = ("running low on memory", "killed due to memory pressure", "NODE_OUT_OF_MEMORY")


class Retry(Enum):
    """The way in which an item that lost its replica is retried."""

    FIRST = "before the items that wait"
    ALONE = "with no other item in its replica"


Verdict = Retry | ItemError


class Death:
    """The death of an actor that we did not end."""

    def __init__(self, error: RayError, node_id: str | None):
        """Classify the death. `node_id` is the actor's node, or None if it never had one."""
        self.by_memory_monitor = any(phrase in str(error) for phrase in _MEMORY_MONITOR)
        self.reason = (
            "killed by Ray's memory monitor: its node was running low on memory"
            if self.by_memory_monitor
            else last_line(error)
        )
        # The machine or the network is at fault: lost, drained, preempted.
        self.by_infrastructure = (
            isinstance(error, NodeDiedError | ActorUnavailableError)
            or bool(getattr(error, "preempted", False))
            or self.by_memory_monitor
            or (
                node_id is not None
                and not any(each["Alive"] and each["NodeID"] == node_id for each in ray.nodes())
            )
        )

    def verdict(self, job: Job, *, alone: bool, quarantine_after: int) -> Verdict:
        """Return the verdict on an item that the actor held. `alone` says that it held no other."""
        if self.by_infrastructure:
            # Alone, an item has the memory that its neighbours took.
            return lost(job, Retry.ALONE if self.by_memory_monitor else Retry.FIRST)
        if alone:
            job.deaths_alone += 1
        if job.deaths_alone < quarantine_after:
            return Retry.ALONE
        return Quarantined(
            f"its replica died {counted(job.deaths_alone, 'time')} while it ran alone: {self.reason}"
        )


def lost(job: Job, retry: Retry) -> Verdict:
    """Return the verdict on an item that was lost through no fault of its own.

    It is retried, but an item that keeps being lost is left to the next run.
    """
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
    """Return the verdicts on the items of a late actor.

    `busy_s` maps item ids to the seconds of their own work; it is None if the process cannot be
    asked. No verdicts means that no item worked too long: waiting for the GPU is nobody's fault.
    """
    late = [job for job in jobs if busy_s is None or busy_s.get(job.item.item_id, 0) > limit_s(job)]
    # If several are late, as in a batch, running alone shows which one it is.
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
    """Return the last line of an error of Ray's, which states the cause."""
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__
