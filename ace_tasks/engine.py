"""Ray actors around replicas, and the dispatcher that feeds them. The one room that knows Ray.

    shard threads ──submit──▶ Dispatcher (one thread) ──run.remote──▶ seats (one actor each)

The dispatcher owns order and failure; Ray retries nothing. Only work items and outcomes cross
Ray, never pixels.

Whose fault is a dead actor? Nobody's by itself. The items it held are run again *alone*, and only
a death while running alone, on a living node, with no cancel, drain, preemption or memory kill
about, counts against the item; two such and it is quarantined. A timeout blames its culprit only.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray._private import ray_constants
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    RayActorError,
    RayError,
)

from ace_tasks.errors import (
    Cancelled,
    DeviceLost,
    FatalError,
    ItemError,
    PoolFailed,
    Quarantined,
    ReplicaLost,
    TimedOut,
)
from ace_tasks.provenance import Failed, Outcome
from ace_tasks.settings import PoolSettings, ReplicaSettings, cpu_count
from ace_tasks.specs import WorkItem

if TYPE_CHECKING:
    from ace_tasks.replica import Replica

log = logging.getLogger(__name__)

MakeReplica = Callable[[ReplicaSettings, str, str], "Replica"]

EXIT_DEVICE_LOST = 70
_TICK_S = 0.2  # how long the loop waits for Ray before it looks at the clock
_STATUS_TIMEOUT_S = 5
_SILENCE_S = 60  # nothing finished for so long: say what the run waits for
_MAX_LOSSES = 10  # unblamed losses of one item, before it is given up as transient
# Ray's memory monitor names itself in the message only; a crash's message speaks of memory, too.
_MEMORY_MONITOR = ("running low on memory", "killed due to memory pressure", "NODE_OUT_OF_MEMORY")
# 78 MB is Ray's smallest store; nothing of ours goes through it.
_OBJECT_STORE_BYTES = 80 * 2**20


# ---------------------------------------------------------------- inside the actor


@dataclass(frozen=True)
class Stop:
    """Why an actor gave no answer, as a value that crosses Ray whole.

    fatal: the run cannot go on; cancelled: it was told to stop; start: this actor cannot start,
    another may.
    """

    message: str
    kind: Literal["fatal", "cancelled", "start"]


def make_replica(settings: ReplicaSettings, run_id: str, name: str) -> Replica:
    from ace_tasks.replica import Replica  # loads torch: inside the actor only

    return Replica(settings, run_id, name)


class _Actor:
    """Runs in its own process. Methods return values; an exception here means a bug of ours."""

    def __init__(self, make: MakeReplica, settings: ReplicaSettings, run_id: str, name: str):
        logging.basicConfig(level=logging.WARNING)
        self._make: Callable[[], Replica] = lambda: make(settings, run_id, name)
        self._replica: Replica | None = None

    def start(self) -> str | Stop:
        """Load the model; returns the node's id."""
        try:
            self._replica = self._make()
            self._replica.start()
        except FatalError as error:
            return Stop(f"{type(error).__name__}: {error}", "fatal")
        except Exception as error:  # this node's disk, driver or memory; not the weights' fault
            return Stop(f"{type(error).__name__}: {error}"[:500], "start")
        return str(ray.get_runtime_context().get_node_id())

    def run(self, item: WorkItem, shard: int, attempt: int) -> Outcome | Stop:
        assert self._replica is not None
        try:
            return self._replica.run(item, shard, attempt)
        except FatalError as error:
            return Stop(f"{type(error).__name__}: {error}", "fatal")
        except Cancelled as error:
            return Stop(str(error), "cancelled")
        except DeviceLost as error:  # its death is judged like any other
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(EXIT_DEVICE_LOST)

    def busy_s(self) -> dict[str, float]:
        return self._replica.busy_s() if self._replica else {}

    def cancel(self) -> None:
        if self._replica:
            self._replica.cancel()


# ---------------------------------------------------------------- Ray itself


@contextmanager
def ray_session(address: str | None = None, cpus: int | None = None) -> Iterator[None]:
    """Join the cluster at `address`; or start Ray on this machine, with as many CPUs to share
    out among replicas as told, and end it afterwards.

    `ray.init` replaces the SIGTERM handler for good, Prefect's included: ours puts it back.
    """
    if ray.is_initialized():
        yield
        return
    on_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of its own good defaults
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        ray.init(address=address, **common)
    else:
        # Ray binds to the loopback only where it knows no clusters; else its ports, token-guarded
        # or not, listen on every network of this machine.
        ray_constants.ENABLE_RAY_CLUSTER = False
        ray.init(
            address="local",
            num_cpus=cpus or cpu_count(),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            **common,
        )
    if on_main_thread and handler is not None:
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()
        ray_constants.ENABLE_RAY_CLUSTER = True


def gpus_in_cluster() -> int:
    """GPUs of the cluster we are connected to."""
    return int(ray.cluster_resources().get("GPU", 0))


# ---------------------------------------------------------------- dispatcher


@dataclass(eq=False)
class _Shard:
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
class _Job:
    """One item on its way through the pool."""

    item: WorkItem
    shard: _Shard
    attempts: int = 0
    deaths_alone: int = 0
    losses: int = 0
    dispatched_at: float = 0


@dataclass(eq=False)
class _Seat:
    """One actor: starting until `node_id` is known."""

    name: str
    actor: Any
    starting: Any
    started_at: float
    node_id: str | None = None
    in_flight: dict[Any, _Job] = field(default_factory=dict)  # ObjectRef → job
    alone: bool = False  # the one job in flight is a suspect


@dataclass
class Status:
    """A snapshot for whoever watches the run."""

    done: int = 0
    failed: int = 0
    in_flight: int = 0
    queued: int = 0
    replicas_ready: int = 0
    deaths: int = 0
    busy_s: float = 0  # summed seconds of denoising
    ready_s: float = 0  # summed seconds replicas were ready


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
    ):
        """`on_failed` writes down what no replica could: timeouts, quarantines. It is called in
        the thread of the shard's `edit`, since it may wait for a store that is away.
        """
        self._replica_settings = replica
        self._pool = pool
        self._run_id = run_id
        self._on_failed = on_failed
        self._make = make
        self._inbox: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._waiting: deque[_Job] = deque()
        self._suspects: deque[_Job] = deque()
        self._seats: list[_Seat] = []
        self._seats_made = 0
        self._start_failures = 0
        self._shards: set[_Shard] = set()
        self.error: FatalError | None = None  # why the pool ended by itself, if it did
        # Items that share a pass take its time together.
        self._item_timeout_s = pool.item_timeout_s * replica.batch_size
        self._stopping = threading.Event()
        self._loop = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._last_news = self._last_look = time.monotonic()
        self.status = Status()

    # ------------------------------------------------------------ callers' side

    def __enter__(self) -> Dispatcher:
        self._loop.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._loop.join()

    def edit(self, items: Sequence[WorkItem], shard: int) -> list[Outcome]:
        """Run items; blocks until each has its outcome, in the order they finish.

        Raises FatalError when the run cannot go on, and Cancelled when it was told to stop.
        """
        if not items:
            return []
        mine = _Shard(shard, len(items))
        self._shards.add(mine)
        for item in items:
            self._inbox.put(_Job(item, mine))
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
        """Stop every replica between two denoise steps. Safe from any thread, and twice."""
        self._stopping.set()

    # ------------------------------------------------------------ the loop

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._take_inbox()
                self._grow()
                self._fill_seats()
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

    def _take_inbox(self) -> None:
        while not self._inbox.empty():
            self._waiting.append(self._inbox.get())

    def _grow(self) -> None:
        """Start as many seats as there is work for; a lost one is replaced here, too."""
        jobs = len(self._waiting) + len(self._suspects)
        jobs += sum(len(seat.in_flight) for seat in self._seats)
        for _ in range(min(self._pool.replicas, jobs) - len(self._seats)):
            self._seats.append(self._start_seat())

    def _start_seat(self) -> _Seat:
        name = f"replica-{self._seats_made}"
        self._seats_made += 1
        resources = {"num_gpus": 1} if self._replica_settings.device == "cuda" else {"num_cpus": 1}
        actor_class: Any = ray.remote(
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"items": self._pool.items_in_flight, "control": 2},
            **resources,
        )(_Actor)
        actor = actor_class.remote(self._make, self._replica_settings, self._run_id, name)
        return _Seat(name, actor, actor.start.remote(), time.monotonic())

    def _fill_seats(self) -> None:
        for seat in self._seats:
            if seat.node_id is None or seat.alone:
                continue
            if self._suspects and not seat.in_flight:
                seat.alone = True
                self._dispatch(seat, self._suspects.popleft())
            # Suspects don't starve: the seat that replaces a dead one begins empty.
            while (
                not seat.alone
                and self._waiting
                and len(seat.in_flight) < self._pool.items_in_flight
            ):
                self._dispatch(seat, self._waiting.popleft())

    def _dispatch(self, seat: _Seat, job: _Job) -> None:
        job.attempts += 1
        job.dispatched_at = time.monotonic()
        run = seat.actor.run.options(concurrency_group="items")
        seat.in_flight[run.remote(job.item, job.shard.index, job.attempts)] = job

    def _collect(self) -> None:
        """Wait a tick for news from Ray, and act on all there is."""
        refs = {ref: seat for seat in self._seats for ref in seat.in_flight}
        refs |= {seat.starting: seat for seat in self._seats if seat.node_id is None}
        self._publish_status()
        if not refs:
            time.sleep(_TICK_S / 4)
            return
        ready, _ = ray.wait(list(refs), num_returns=1, timeout=_TICK_S)
        if ready:  # take all that is ready, not one a round
            ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
        deaths: dict[str, tuple[_Seat, RayError]] = {}
        for ref in ready:
            try:
                self._handle(refs[ref], ref, ray.get(ref))
            except (RayActorError, NodeDiedError) as error:
                deaths[refs[ref].name] = (refs[ref], error)
            except RayError as error:
                reason = _last_line(error)
                raise PoolFailed(f"{refs[ref].name}: {type(error).__name__}: {reason}") from None
        for seat, death in deaths.values():  # after the answers, which are paid for
            self._on_death(seat, death)

    def _handle(self, seat: _Seat, ref: Any, answer: Any) -> None:
        self._last_news = time.monotonic()
        if isinstance(answer, Stop):
            if answer.kind == "start":
                self._remove(seat)
                self._on_start_failure(seat, answer.message)
                return
            raise (PoolFailed if answer.kind == "fatal" else Cancelled)(answer.message)
        if ref is seat.starting:
            seat.node_id = answer
            self._start_failures = 0
            return
        job = seat.in_flight.pop(ref)
        seat.alone = False
        self._finish(job, answer)

    def _finish(self, job: _Job, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            self.status.failed += 1
        else:
            self.status.done += 1
            self.status.busy_s += outcome.timings_s.get("generate", 0)
        job.shard.deliver(outcome)

    def _give_up(self, job: _Job, error: ItemError) -> None:
        """An outcome no replica is left to write."""
        failed = Failed(
            item_id=job.item.item_id,
            code=error.code,
            message=str(error),
            transient=error.transient,
            attempts=job.attempts,
        )
        job.shard.unwritten.append((job.item, failed))
        self._finish(job, failed)

    # ------------------------------------------------------------ deaths and clocks

    def _on_death(self, seat: _Seat, error: RayError) -> None:
        reason = _last_line(error)
        self._remove(seat)
        if seat.node_id is None:
            if not _is_infrastructure(error, None):
                self._on_start_failure(seat, reason)
            return
        self.status.deaths += 1
        log.warning("%s died with %d items in flight: %s", seat.name, len(seat.in_flight), reason)
        out_of_memory = _is_memory_kill(error)
        blameless = out_of_memory or _is_infrastructure(error, seat.node_id)
        for job in seat.in_flight.values():
            if blameless:
                # Alone, an item has the memory its neighbours took.
                self._requeue(job, self._suspects if out_of_memory else self._waiting)
            elif not seat.alone:
                self._suspects.append(job)
            else:
                self._on_death_alone(job, reason)

    def _on_start_failure(self, seat: _Seat, reason: str) -> None:
        self._start_failures += 1
        log.warning("%s failed to start: %s", seat.name, reason)
        if any(each.node_id for each in self._seats):
            return  # others work; this one is tried again
        if self._start_failures >= self._pool.max_start_failures:
            raise PoolFailed(
                f"{self._start_failures} replicas in a row failed to start; the last: {reason}"
            )

    def _on_death_alone(self, job: _Job, reason: str) -> None:
        job.deaths_alone += 1
        if job.deaths_alone < self._pool.deaths_alone_to_quarantine:
            self._suspects.append(job)
            return
        self._give_up(
            job,
            Quarantined(f"its replica died {job.deaths_alone} times while it ran alone: {reason}"),
        )

    def _requeue(self, job: _Job, line: deque[_Job]) -> None:
        """Blames nobody; but an item that keeps being lost goes to the next run."""
        job.losses += 1
        if job.losses < _MAX_LOSSES:
            line.appendleft(job)
        else:
            self._give_up(job, ReplicaLost(f"lost with its replica {job.losses} times"))

    def _check_clock(self) -> None:
        now = time.monotonic()
        for seat in list(self._seats):
            if seat.node_id is None:
                if now - seat.started_at > self._pool.start_timeout_s:
                    self._remove(seat)
                    waited = f"not started after {self._pool.start_timeout_s:g} s"
                    self._on_start_failure(seat, waited)
            elif any(
                now - job.dispatched_at > self._limit_s(job) for job in seat.in_flight.values()
            ):
                self._on_overdue(seat)
        if now - self._last_news > _SILENCE_S and self._seats:
            self._last_news = now
            log.warning("nothing finished for %d s; %s", _SILENCE_S, self.waits_for())

    def _limit_s(self, job: _Job) -> float:
        """Each candidate is a picture's work."""
        return self._item_timeout_s * job.item.resolved.candidates

    def _on_overdue(self, seat: _Seat) -> None:
        """Someone is late: end the actor, blame who worked too long, requeue the others free."""
        jobs = list(seat.in_flight.values())
        try:
            status = seat.actor.busy_s.options(concurrency_group="control").remote()
            busy_s: dict[str, float] | None = ray.get(status, timeout=_STATUS_TIMEOUT_S)
        except (ActorUnavailableError, GetTimeoutError):
            busy_s = None  # its interpreter hangs
        except (RayActorError, NodeDiedError) as error:
            self._on_death(seat, error)
            return
        except RayError:
            busy_s = None
        if busy_s is None:
            culprits = jobs if seat.alone or len(jobs) == 1 else []
        else:
            culprits = [job for job in jobs if self._is_late(job, busy_s)]
            if not culprits:  # waiting for the GPU is nobody's fault
                return
            if len(culprits) > 1:  # a batch: who of them it is shows alone
                culprits = []
        self._remove(seat)
        for job in jobs:
            if job in culprits:
                self._give_up(job, TimedOut(f"still at work after {self._limit_s(job):g} s"))
            elif busy_s is None or self._is_late(job, busy_s):
                self._suspects.append(job)
            else:
                self._requeue(job, self._waiting)

    def _is_late(self, job: _Job, busy_s: dict[str, float]) -> bool:
        return busy_s.get(job.item.item_id, 0) > self._limit_s(job)

    def _remove(self, seat: _Seat) -> None:
        self._seats.remove(seat)
        ray.kill(seat.actor)

    def waits_for(self) -> str:
        """One line: what this run is waiting for."""
        now = time.monotonic()
        held = [
            f"row {job.item.row_id} for {now - job.dispatched_at:.0f} s on {seat.name}"
            for seat in list(self._seats)
            for job in list(seat.in_flight.values())  # callers are other threads
        ]
        held += [
            f"{seat.name} to start for {now - seat.started_at:.0f} s"
            for seat in list(self._seats)
            if seat.node_id is None
        ]
        return f"waiting for {', '.join(held) or 'work'}"

    def _publish_status(self) -> None:
        now = time.monotonic()
        self.status.ready_s += self.status.replicas_ready * (now - self._last_look)
        self._last_look = now
        self.status.in_flight = sum(len(seat.in_flight) for seat in self._seats)
        self.status.queued = len(self._waiting) + len(self._suspects)
        self.status.replicas_ready = sum(seat.node_id is not None for seat in self._seats)

    # ------------------------------------------------------------ the end

    def _end(self) -> None:
        """Let the step in progress end, then end every actor; bounded, and never raises."""
        try:
            busy = [ref for seat in self._seats for ref in seat.in_flight]
            if busy:
                for seat in self._seats:
                    seat.actor.cancel.options(concurrency_group="control").remote()
                ray.wait(busy, num_returns=len(busy), timeout=self._pool.cancel_grace_s)
            for seat in self._seats:
                ray.kill(seat.actor)
        except Exception:
            log.exception("while ending the pool")
        finally:
            for shard in list(self._shards):
                shard.finished.set()


def _last_line(error: RayError) -> str:
    """Ray's messages end with the cause."""
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__


def _is_memory_kill(error: RayError) -> bool:
    return any(phrase in str(error) for phrase in _MEMORY_MONITOR)


def _is_infrastructure(error: RayError, node_id: str | None) -> bool:
    """Whether an actor's death is its machine's or the network's: lost, drained, preempted."""
    if isinstance(error, NodeDiedError | ActorUnavailableError):
        return True
    if getattr(error, "preempted", False) or _is_memory_kill(error):
        return True
    if node_id is None:
        return False
    return not any(node["Alive"] and node["NodeID"] == node_id for node in ray.nodes())
