"""The workers of a run: one actor each, started for work that waits, replaced when lost, given back
when there is less to do.

A worker has its place in the cluster first, and is ready once its model is loaded. Work begins with
the first one that is.
"""

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
from ace_tasks.engine.crash_guard import Death
from ace_tasks.engine.queue import Job
from ace_tasks.engine.session import free_in_cluster, gpus_in_cluster
from ace_tasks.errors import PoolFailed
from ace_tasks.settings import PoolSettings, ReplicaSettings

log = logging.getLogger(__name__)

_STATUS_TIMEOUT_S = 5
_LOOK_EVERY_S = 2  # at what the cluster has
_MAX_BACKOFF_S = 60


@dataclass(eq=False)
class Worker:
    """One actor."""

    name: str
    actor: Any
    run: Any  # its method, among those of which several are at work at once
    placing: Any  # ObjectRef → its node's id
    starting: Any  # ObjectRef → None, or why not
    started_at: float  # first when it was asked for, then when it got its place
    node_id: str | None = None  # None: it waits for a place
    ready: bool = False
    in_flight: dict[Any, Job] = field(default_factory=dict)  # ObjectRef → job
    alone: bool = False  # the one job in flight is a suspect
    group: str | None = None  # of its last job
    idle_since: float = field(default_factory=time.monotonic)

    def dispatch(self, job: Job) -> None:
        job.attempts += 1
        job.dispatched_at = time.monotonic()
        self.group = job.group
        self.in_flight[self.run.remote(job.item, job.shard.index, job.attempts)] = job

    def take_back(self, ref: Any) -> Job:
        """The job whose answer is there."""
        job = self.in_flight.pop(ref)
        self.alone = False
        self.idle_since = time.monotonic()
        return job

    def room(self, items_in_flight: int) -> int:
        """How many more items it may have."""
        if self.alone or not self.ready:
            return 0
        return items_in_flight - len(self.in_flight)

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
    """Starts, counts and ends workers. `workers` is read by other threads: copy it there."""

    def __init__(
        self, replica: ReplicaSettings, settings: PoolSettings, run_id: str, make: MakeReplica
    ):
        self._replica = replica
        self._settings = settings
        self._run_id = run_id
        self._make = make
        self._made = 0
        self._start_failures = 0
        self._no_start_before = 0.0
        self._next_look = 0.0
        self.looks = 0  # at what the cluster has
        self._free = 0  # places in the cluster at the last look, less those taken since
        self._max = settings.max_replicas or settings.min_replicas
        self.workers: list[Worker] = []

    def ready(self) -> Iterator[Worker]:
        return (worker for worker in self.workers if worker.ready)

    def in_flight(self) -> int:
        return sum(len(worker.in_flight) for worker in self.workers)

    # ------------------------------------------------------------ growing and shrinking

    def fit(self, jobs: int) -> None:
        """As many workers as there is work and room for; a lost one is replaced here, too."""
        now = time.monotonic()
        self._look(now)
        wanted = max(min(self._max, jobs), self._settings.min_replicas)
        if len(self.workers) > wanted:
            self._give_back(len(self.workers) - wanted, now)
        elif jobs and now >= self._no_start_before:
            waiting = sum(worker.node_id is None for worker in self.workers)
            # One that waits is what an autoscaler goes by; more would only stand there.
            room = max(self._free + 1 - waiting, self._settings.min_replicas - len(self.workers))
            for _ in range(min(wanted - len(self.workers), room)):
                self.workers.append(self._start())

    def _look(self, now: float) -> None:
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_EVERY_S
        self.looks += 1
        try:
            self._free = free_in_cluster("GPU" if self._replica.device == "cuda" else "CPU")
            if self._settings.max_replicas is None:
                self._max = max(gpus_in_cluster(), self._settings.min_replicas)
        except RayError as error:  # the head may be starting again
            log.warning("the cluster does not say what it has: %s", type(error).__name__)

    def _give_back(self, surplus: int, now: float) -> None:
        """Those that had nothing to do for a while: first who is not up yet, then the idlest."""
        idle = [
            worker
            for worker in self.workers
            if not worker.in_flight and now - worker.idle_since >= self._settings.idle_release_s
        ]
        idle.sort(key=lambda worker: (worker.ready, worker.node_id is not None, worker.idle_since))
        for worker in idle[:surplus]:
            log.info("%s is not needed any more", worker.name)
            self.remove(worker)

    # ------------------------------------------------------------ starting

    def _start(self) -> Worker:
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
        return Worker(
            name=name,
            actor=actor,
            run=actor.run.options(concurrency_group="items"),
            placing=actor.where.options(concurrency_group="control").remote(),
            starting=actor.start.remote(),
            started_at=time.monotonic(),
        )

    def placed(self, worker: Worker, node_id: str) -> None:
        worker.node_id, worker.started_at = node_id, time.monotonic()
        self._free -= 1

    def started(self, worker: Worker) -> None:
        worker.ready, worker.idle_since = True, time.monotonic()
        self._start_failures = 0

    def start_failed(self, worker: Worker, reason: str) -> None:
        """Raises PoolFailed when it happens again and again and no other works."""
        self._start_failures += 1
        works = any(self.ready())
        if not works and self._start_failures >= self._settings.max_start_failures:
            raise PoolFailed(
                f"{self._start_failures} replicas in a row failed to start; the last: {reason}"
            )
        doubled = self._settings.start_backoff_s * 2 ** min(self._start_failures - 1, 16)
        wait_s = min(doubled, _MAX_BACKOFF_S)
        self._no_start_before = time.monotonic() + wait_s
        log.warning("%s failed to start, the next may in %g s: %s", worker.name, wait_s, reason)

    def check_starts(self) -> None:
        """End those that take too long to start. Who waits for a place beside others that have
        one may do so for ever.
        """
        limit_s = self._settings.start_timeout_s
        late = time.monotonic() - limit_s
        some_have_places = any(worker.node_id for worker in self.workers)
        for worker in list(self.workers):
            waits = worker.node_id is None and some_have_places
            if not worker.ready and not waits and worker.started_at < late:
                self.remove(worker)
                self.start_failed(worker, f"not started after {limit_s:g} s")

    # ------------------------------------------------------------ ending

    def lose(self, worker: Worker, death: Death) -> None:
        """Take out a worker that died. Raises PoolFailed as `start_failed` does."""
        self.remove(worker)
        # Where memory is too short to load a model, it will be so the next time.
        if not worker.ready and (death.by_memory_monitor or not death.by_infrastructure):
            self.start_failed(worker, death.reason)

    def remove(self, worker: Worker) -> None:
        self.workers.remove(worker)
        ray.kill(worker.actor)

    def end(self) -> None:
        """Let the step in progress end, then end every actor; bounded."""
        busy = [ref for worker in self.workers for ref in worker.in_flight]
        if busy:
            for worker in self.workers:
                worker.actor.cancel.options(concurrency_group="control").remote()
            ray.wait(busy, num_returns=len(busy), timeout=self._settings.cancel_grace_s)
        for worker in self.workers:
            ray.kill(worker.actor)
