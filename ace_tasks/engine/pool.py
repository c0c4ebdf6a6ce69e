"""The seats of a run: one actor each, started for work that waits, replaced when lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    RayActorError,
    RayError,
)

from ace_tasks.engine.actor import MakeReplica, ReplicaActor
from ace_tasks.engine.jobs import Job
from ace_tasks.errors import PoolFailed
from ace_tasks.settings import PoolSettings, ReplicaSettings

log = logging.getLogger(__name__)

_STATUS_TIMEOUT_S = 5


@dataclass(eq=False)
class Seat:
    """One actor: starting until `node_id` is known."""

    name: str
    actor: Any
    starting: Any
    started_at: float
    node_id: str | None = None
    in_flight: dict[Any, Job] = field(default_factory=dict)  # ObjectRef → job
    alone: bool = False  # the one job in flight is a suspect

    def dispatch(self, job: Job) -> None:
        job.attempts += 1
        job.dispatched_at = time.monotonic()
        run = self.actor.run.options(concurrency_group="items")
        self.in_flight[run.remote(job.item, job.shard.index, job.attempts)] = job

    def busy_s(self) -> dict[str, float] | None:
        """item id → seconds at work itself; None: it cannot be asked, as when its interpreter
        hangs. Raises RayActorError or NodeDiedError when it is dead.
        """
        asked = self.actor.busy_s.options(concurrency_group="control").remote()
        try:
            answer: dict[str, float] = ray.get(asked, timeout=_STATUS_TIMEOUT_S)
        except (ActorUnavailableError, GetTimeoutError):
            return None
        except (NodeDiedError, RayActorError):
            raise
        except RayError:
            return None
        return answer


class Pool:
    """Starts, counts and ends seats. `seats` is read by other threads: copy it there."""

    def __init__(
        self, replica: ReplicaSettings, settings: PoolSettings, run_id: str, make: MakeReplica
    ):
        self._replica = replica
        self._settings = settings
        self._run_id = run_id
        self._make = make
        self._made = 0
        self._start_failures = 0
        self.seats: list[Seat] = []

    def ready(self) -> Iterator[Seat]:
        return (seat for seat in self.seats if seat.node_id is not None)

    def in_flight(self) -> int:
        return sum(len(seat.in_flight) for seat in self.seats)

    def grow(self, jobs: int) -> None:
        """Start as many seats as there is work for; a lost one is replaced here, too."""
        for _ in range(min(self._settings.replicas, jobs) - len(self.seats)):
            self.seats.append(self._start())

    def _start(self) -> Seat:
        name = f"replica-{self._made}"
        self._made += 1
        resources = {"num_gpus": 1} if self._replica.device == "cuda" else {"num_cpus": 1}
        actor_class: Any = ray.remote(
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"items": self._settings.items_in_flight, "control": 2},
            **resources,
        )(ReplicaActor)
        actor = actor_class.remote(self._make, self._replica, self._run_id, name)
        return Seat(name, actor, actor.start.remote(), time.monotonic())

    def started(self, seat: Seat, node_id: str) -> None:
        seat.node_id = node_id
        self._start_failures = 0

    def start_failed(self, seat: Seat, reason: str) -> None:
        """Raises PoolFailed when it happens again and again and no other works."""
        self._start_failures += 1
        log.warning("%s failed to start: %s", seat.name, reason)
        if any(self.ready()):
            return  # others work; this one is tried again
        if self._start_failures >= self._settings.max_start_failures:
            raise PoolFailed(
                f"{self._start_failures} replicas in a row failed to start; the last: {reason}"
            )

    def check_starts(self) -> None:
        """End those that take too long to start."""
        now = time.monotonic()
        for seat in list(self.seats):
            if seat.node_id is None and now - seat.started_at > self._settings.start_timeout_s:
                self.remove(seat)
                self.start_failed(seat, f"not started after {self._settings.start_timeout_s:g} s")

    def remove(self, seat: Seat) -> None:
        self.seats.remove(seat)
        ray.kill(seat.actor)

    def end(self) -> None:
        """Let the step in progress end, then end every actor; bounded."""
        busy = [ref for seat in self.seats for ref in seat.in_flight]
        if busy:
            for seat in self.seats:
                seat.actor.cancel.options(concurrency_group="control").remote()
            ray.wait(busy, num_returns=len(busy), timeout=self._settings.cancel_grace_s)
        for seat in self.seats:
            ray.kill(seat.actor)
