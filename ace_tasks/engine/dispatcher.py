"""The one loop that feeds a pool of actors, and the callers' side of it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayError

from ace_tasks.engine.actor import Abort, MakeReplica, make_replica
from ace_tasks.engine.crash_guard import Death, Retry, Verdict, after_timeout, last_line
from ace_tasks.engine.pool import Pool, Worker
from ace_tasks.engine.prometheus import RunMetrics
from ace_tasks.engine.queue import Job, Queue, Shard, ShardStatus
from ace_tasks.errors import Cancelled, FatalError, ItemError, PoolFailed
from ace_tasks.provenance.outcomes import Failed, Outcome
from ace_tasks.settings import PoolSettings, ReplicaSettings
from ace_tasks.specs import WorkItem
from ace_tasks.wording import counted

log = logging.getLogger(__name__)

_TICK_S = 0.2  # how long the loop waits for Ray before it looks at the clock
_SILENCE_S = 60  # if nothing finished for so long, log what the run waits for


@dataclass
class Status:
    """A snapshot for whoever watches the run."""

    done: int = 0
    failed: int = 0
    in_flight: int = 0
    queued: int = 0
    alone: int = 0  # items that run in a replica of their own, or wait for one
    replicas: int = 0  # that have a place in the cluster, or wait for one
    replicas_by_node: Counter[str] = field(default_factory=Counter)  # those that have a place
    replicas_ready: int = 0
    replicas_most: int = 0  # the most that were ready at once
    capacity: int = 0  # items inside all replicas, once those that start now are ready
    deaths: int = 0
    busy_s: float = 0  # summed seconds of denoising
    ready_s: float = 0  # summed seconds replicas were ready
    held_s: float = 0  # summed seconds replicas had a place, loading and ending included
    token_steps: int = 0  # of items that are done
    phases_s: Counter[str] = field(default_factory=Counter)  # summed seconds of items, by phase
    memory: Counter[str] = field(default_factory=Counter)  # items by memory mode
    looks: int = 0  # how often the cluster's resources were read
    taken_at: float = field(default_factory=time.monotonic)


class Dispatcher:
    """A pool of actors and the one loop that feeds them.

    Use as a context manager inside `ray_session`; call `edit` from any number of threads.
    """

    def __init__(
        self,
        replica: ReplicaSettings,
        pool: PoolSettings,
        run_id: str,
        on_failed: Callable[[WorkItem, Failed], None],
        make: MakeReplica = make_replica,
        watch: Callable[[Status], None] | None = None,
    ):
        """Prepare the pool; entering the context starts it.

        `on_failed` records what no replica could record: timeouts, quarantines. It is called in
        the thread of the shard's `edit`, since it may wait for a store that is away. `watch` is
        called several times a second in the pool's own thread, also while replicas load. A
        FatalError that it raises ends the pool.
        """
        self._settings = pool
        self._pool = Pool(replica, pool, run_id, make)
        self._on_failed = on_failed
        self._watch = watch
        self._inbox: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._waiting = Queue()
        self._suspects: deque[Job] = deque()
        self._shards: set[Shard] = set()
        self.error: FatalError | None = None  # why the pool ended by itself, if it did
        # Each item of a batch takes the time of the whole pass.
        self._item_timeout_s = pool.item_timeout_s * replica.batch_size
        self._stopping = threading.Event()
        # Loggers know the run by the context, so the thread gets a copy of ours.
        self._loop = threading.Thread(
            target=copy_context().run, args=(self._run,), name="dispatcher", daemon=True
        )
        self._last_news = time.monotonic()
        self.status = Status()
        self._metrics = RunMetrics(replica.variant)

    # ------------------------------------------------------------ callers' side

    def __enter__(self) -> Dispatcher:
        self._loop.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._loop.join()

    def edit(
        self, items: Sequence[WorkItem], shard: int, outcomes: list[Outcome] | None = None
    ) -> list[Outcome]:
        """Run items and return their outcomes, once each has one, in the order they finish.

        `outcomes` is an empty list that gets each of them as soon as there is one. Raises
        FatalError if the run cannot go on, and Cancelled if it was asked to stop.
        """
        outcomes = [] if outcomes is None else outcomes
        if not items:
            return outcomes
        mine = Shard(shard, len(items), outcomes)
        self._shards.add(mine)
        for item in items:
            self._inbox.put(Job(item, mine))
        while not mine.finished.wait(timeout=1):
            if not self._loop.is_alive():
                break
        self._shards.discard(mine)
        for item, failed in mine.unwritten:
            self._on_failed(item, failed)
        if mine.left:
            raise self.error or Cancelled("the run was cancelled")
        return mine.outcomes

    def cancel(self) -> None:
        """Stop every replica between two denoise steps. Any thread may call it, repeatedly."""
        self._stopping.set()

    def shards(self) -> list[ShardStatus]:
        """Return the shards that callers wait for just now. Safe from any thread."""
        return [shard.status() for shard in list(self._shards)]

    def waits_for(self) -> str:
        """Describe in one line what this run waits for. Safe from any thread."""
        now = time.monotonic()
        workers = list(self._pool.workers)
        held = [
            f"row {job.item.row_id} for {now - job.dispatched_at:.0f} s on {worker.name}"
            for worker in workers
            for job in list(worker.in_flight.values())
        ]
        held += [
            f"{worker.name} to start for {now - worker.started_at:.0f} s"
            for worker in workers
            if not worker.ready
        ]
        return f"waiting for {', '.join(held) or 'work'}"

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                while not self._inbox.empty():
                    self._waiting.put(self._inbox.get())
                queued = len(self._waiting) + len(self._suspects)
                self._pool.fit(queued + self._pool.in_flight())
                self._fill_workers()
                self._collect()
                self._check_clock()
        except FatalError as error:
            self.error = error
        except Cancelled:
            log.info("a replica was cancelled from outside the dispatcher")
        except Exception as error:
            log.exception("the dispatcher failed")
            self.error = PoolFailed(f"dispatcher: {type(error).__name__}: {error}")
        finally:
            self._end()

    def _fill_workers(self) -> None:
        for worker in self._pool.ready():
            if self._suspects and not worker.in_flight:
                self._dispatch(worker, self._suspects.popleft())
                worker.alone = True
            # Suspects don't starve: the worker that replaces a dead one begins empty.
            for _ in range(min(worker.room(self._settings.items_in_flight), len(self._waiting))):
                self._dispatch(worker, self._waiting.take(worker.group))

    def _dispatch(self, worker: Worker, job: Job) -> None:
        worker.dispatch(job)
        if job.attempts > 1:
            self._metrics.retry()

    def _collect(self) -> None:
        """Wait a tick for answers from Ray, and act on all of them."""
        workers = self._pool.workers
        refs = {ref: worker for worker in workers for ref in worker.in_flight}
        refs |= {worker.placing: worker for worker in workers if worker.node_id is None}
        refs |= {worker.starting: worker for worker in workers if not worker.ready}
        self._publish_status()
        if not refs:
            time.sleep(_TICK_S / 4)
            return
        ready, _ = ray.wait(list(refs), num_returns=1, timeout=_TICK_S)
        if ready:  # take all that are ready, not one per round
            ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
        deaths: dict[Worker, RayError] = {}
        for ref in ready:
            try:
                self._handle(refs[ref], ref, ray.get(ref))
            except (RayActorError, NodeDiedError, OutOfMemoryError) as error:
                deaths[refs[ref]] = error
            except RayError as error:
                reason = last_line(error)
                raise PoolFailed(f"{refs[ref].name}: {type(error).__name__}: {reason}") from None
        for worker, death in deaths.items():  # after the answers, whose work is done
            self._on_death(worker, death)

    def _handle(self, worker: Worker, ref: Any, answer: Any) -> None:
        self._last_news = time.monotonic()
        if isinstance(answer, Abort):
            if answer.kind == "start":
                self._pool.remove(worker)
                self._pool.start_failed(worker, answer.message)
                return
            raise (PoolFailed if answer.kind == "fatal" else Cancelled)(answer.message)
        if ref in worker.in_flight:
            self._finish(worker.take_back(ref), answer)
        elif ref is worker.placing:
            self._pool.placed(worker, answer)
        else:
            self._pool.started(worker)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            self.status.failed += 1
        else:
            self.status.done += 1
            self.status.busy_s += outcome.timings_s.get("generate", 0)
            self.status.phases_s.update(outcome.timings_s)
            self.status.token_steps += outcome.token_steps
            self.status.memory.update([outcome.memory_mode] if outcome.memory_mode else ())
        self._metrics.outcome(outcome)
        job.shard.deliver(outcome)

    # ------------------------------------------------------------ deaths and clocks

    def _on_death(self, worker: Worker, error: RayError) -> None:
        death = Death(error, worker.node_id)
        self._pool.lose(worker, death)
        if not worker.ready:
            return
        self.status.deaths += 1
        held = len(worker.in_flight)
        log.warning(
            "%s died with %s in flight: %s", worker.name, counted(held, "item"), death.reason
        )
        limit = self._settings.deaths_alone_to_quarantine
        for job in worker.in_flight.values():
            self._go_on(job, death.verdict(job, alone=worker.alone, quarantine_after=limit))

    def _check_clock(self) -> None:
        self._pool.check_starts()
        now = time.monotonic()
        for worker in list(self._pool.ready()):
            if any(
                now - job.dispatched_at > self._limit_s(job) for job in worker.in_flight.values()
            ):
                self._on_overdue(worker)
        if not (self._pool.in_flight() or self._waiting or self._suspects):
            self._last_news = now  # idle, between two runs or shards
        elif now - self._last_news > _SILENCE_S:
            self._last_news = now
            log.warning("nothing finished for %d s; %s", _SILENCE_S, self.waits_for())

    def _limit_s(self, job: Job) -> float:
        """Return the seconds that an item may take; each candidate counts as a picture."""
        return self._item_timeout_s * job.item.resolved.candidates

    def _on_overdue(self, worker: Worker) -> None:
        """End a late actor, blame the items that worked too long, and requeue the others."""
        try:
            busy_s = worker.busy_s()
        except (RayActorError, NodeDiedError) as error:
            self._on_death(worker, error)
            return
        jobs = list(worker.in_flight.values())
        verdicts = after_timeout(jobs, busy_s, self._limit_s, alone=worker.alone)
        if not verdicts:
            return
        self._pool.remove(worker)
        for job, verdict in verdicts.items():
            self._go_on(job, verdict)

    def _go_on(self, job: Job, verdict: Verdict) -> None:
        if isinstance(verdict, ItemError):
            self._give_up(job, verdict)
        elif verdict is Retry.FIRST:
            self._waiting.put(job, first=True)
        else:
            self._suspects.append(job)

    def _give_up(self, job: Job, error: ItemError) -> None:
        """Deliver a failure that no replica is left to record."""
        failed = Failed(
            item_id=job.item.item_id,
            code=error.code,
            message=str(error),
            transient=error.transient,
            attempts=job.attempts,
        )
        job.shard.unwritten.append((job.item, failed))
        self._finish(job, failed)

    def _publish_status(self) -> None:
        self._count_time()
        self.status.in_flight = self._pool.in_flight()
        workers = self._pool.workers
        self.status.replicas = len(workers)
        self.status.capacity = len(workers) * self._settings.items_in_flight
        self.status.queued = len(self._waiting) + len(self._suspects)
        self.status.alone = len(self._suspects) + sum(each.alone for each in workers)
        self.status.replicas_by_node = Counter(each.node_id for each in workers if each.node_id)
        self.status.replicas_ready = sum(1 for _ in self._pool.ready())
        self.status.replicas_most = max(self.status.replicas_most, self.status.replicas_ready)
        self.status.looks = self._pool.looks
        self._metrics.status(self.status)
        if self._watch:
            self._watch(self.status)

    def _count_time(self) -> None:
        """Add the time since the last snapshot, for the workers that there were then."""
        now = time.monotonic()
        passed_s = now - self.status.taken_at
        self.status.ready_s += self.status.replicas_ready * passed_s
        self.status.held_s += self.status.replicas_by_node.total() * passed_s
        self.status.taken_at = now

    def _end(self) -> None:
        """End every actor. Never raises."""
        try:
            self._metrics.end()
            self._pool.end()
            self._count_time()
        except Exception:
            log.exception("could not end the pool")
        finally:
            for shard in list(self._shards):
                shard.finished.set()
