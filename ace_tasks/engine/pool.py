"""The workers of a run, one actor each.

They are started for work that waits, replaced when lost, and given back when there is less to do.
A worker first gets its place in the cluster, and is ready once its model is loaded. Work begins as
soon as one worker is ready.
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
_LOOK_EVERY_S = 2  # how often the cluster's resources are read
_MAX_BACKOFF_S = 60


@dataclass(eq=False)
class Worker:
    """One actor, and the items it has."""

    name: str
    actor: Any
    run: Any  # its method, in the concurrency group of items
    placing: Any  # ObjectRef → its node's id
    starting: Any  # ObjectRef → None, or why not
    started_at: float  # when it was requested; later, when it got its place
    node_id: str | None = None  # None: it waits for a place
    ready: bool = False
    in_flight: dict[Any, Job] = field(default_factory=dict)  # ObjectRef → job
    alone: bool = False  # whether its only job in flight is a suspect
    group: str | None = None  # of its last job
    idle_since: float = field(default_factory=time.monotonic)

    def dispatch(self, job: Job) -> None:
        job.attempts += 1
        job.dispatched_at = time.monotonic()
        self.group = job.group
        self.in_flight[self.run.remote(job.item, job.shard.index, job.attempts)] = job

    def take_back(self, ref: Any) -> Job:
        """Take out and return the job whose answer has arrived."""
        job = self.in_flight.pop(ref)
        self.alone = False
        self.idle_since = time.monotonic()
        return job

    def room(self, items_in_flight: int) -> int:
        """Return how many more items it may have."""
        if self.alone or not self.ready:
            return 0
        return items_in_flight - len(self.in_flight)

    def busy_s(self) -> dict[str, float] | None:
        """Return the seconds of own work of each item, by item id.

        None means that the actor cannot be asked, for example because its interpreter hangs.
        Raises RayActorError or NodeDiedError if it is dead.
        """
        reply = self.actor.busy_s.options(concurrency_group="control").remote()
        try:
            answer: dict[str, float] = ray.get(reply, timeout=_STATUS_TIMEOUT_S)
        except (ActorUnavailableError, GetTimeoutError):
            return None
        except (NodeDiedError, RayActorError):
            raise
        except RayError:
            return None
        return answer


class Pool:
    """The workers of a run. Other threads that read `workers` must copy it first."""

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
        self.looks = 0  # how often the cluster's resources were read
        self._free = 0  # places in the cluster at the last look, less those taken since
        self._max = settings.max_replicas or settings.min_replicas
        self.workers: list[Worker] = []

    def ready(self) -> Iterator[Worker]:
        return (worker for worker in self.workers if worker.ready)

    def in_flight(self) -> int:
        return sum(len(worker.in_flight) for worker in self.workers)

    def fit(self, jobs: int) -> None:
        """Start or give back workers, so that there are as many as there is work and room for.

        This also replaces lost workers.
        """
        now = time.monotonic()
        self._look(now)
        wanted = max(min(self._max, jobs), self._settings.min_replicas)
        if len(self.workers) > wanted:
            self._give_back(len(self.workers) - wanted, now)
        elif jobs and now >= self._no_start_before:
            waiting = sum(worker.node_id is None for worker in self.workers)
            # An autoscaler adds a node for one worker that waits; more would wait in vain.
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
        except RayError as error:  # the head node may be restarting
            log.warning("could not read the cluster's resources: %s", type(error).__name__)

    def _give_back(self, surplus: int, now: float) -> None:
        """Give back workers that have been idle for a while.

        Those that are not up yet go first, then those that have been idle the longest.
        """
        idle = [
            worker
            for worker in self.workers
            if not worker.in_flight and now - worker.idle_since >= self._settings.idle_release_s
        ]
        idle.sort(key=lambda worker: (worker.ready, worker.node_id is not None, worker.idle_since))
        for worker in idle[:surplus]:
            log.info("%s is not needed any more", worker.name)
            self.remove(worker)

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
        """Count a failed start, and let the next one wait.

        Raises PoolFailed if it happens again and again and no other worker is ready.
        """
        self._start_failures += 1
        works = any(self.ready())
        if not works and self._start_failures >= self._settings.max_start_failures:
            raise PoolFailed(
                f"{self._start_failures} replicas in a row failed to start; the last: {reason}"
            )
        doubled = self._settings.start_backoff_s * 2 ** min(self._start_failures - 1, 16)
        wait_s = min(doubled, _MAX_BACKOFF_S)
        self._no_start_before = time.monotonic() + wait_s
        log.warning("%s failed to start; next attempt in %g s: %s", worker.name, wait_s, reason)

    def check_starts(self) -> None:
        """End workers that take too long to start.

        A worker may wait for its place for ever, as long as another one has a place.
        """
        limit_s = self._settings.start_timeout_s
        late = time.monotonic() - limit_s
        some_have_places = any(worker.node_id for worker in self.workers)
        for worker in list(self.workers):
            waits = worker.node_id is None and some_have_places
            if not worker.ready and not waits and worker.started_at < late:
                self.remove(worker)
                self.start_failed(worker, f"not started after {limit_s:g} s")

    def lose(self, worker: Worker, death: Death) -> None:
        """Take out a worker that died. Raises PoolFailed as `start_failed` does."""
        self.remove(worker)
        # If memory was too short to load a model, it will be so the next time.
        if not worker.ready and (death.by_memory_monitor or not death.by_infrastructure):
            self.start_failed(worker, death.reason)

    def remove(self, worker: Worker) -> None:
        self.workers.remove(worker)
        ray.kill(worker.actor)

    def end(self) -> None:
        """Let the steps in progress end, for a limited time, and then end every actor."""
        busy = [ref for worker in self.workers for ref in worker.in_flight]
        if busy:
            for worker in self.workers:
                worker.actor.cancel.options(concurrency_group="control").remote()
            ray.wait(busy, num_returns=len(busy), timeout=self._settings.cancel_grace_s)
        for worker in self.workers:
            ray.kill(worker.actor)
