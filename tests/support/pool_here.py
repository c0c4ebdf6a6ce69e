"""A run's pool without Ray: its one replica lives in this process, and is the real one.

For tests of what a flow decides, plans and writes down. A replica's process costs six seconds of a
core, most of them spent on importing torch. What a process can do, die or hang, is for the tests of
the engine, which keep Ray.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ace_tasks.engine.actor import MakeReplica, make_replica
from ace_tasks.engine.dispatcher import Status
from ace_tasks.engine.queue import ShardStatus
from ace_tasks.errors import FatalError
from ace_tasks.provenance.outcomes import Failed, Outcome
from ace_tasks.replica.replica import Replica
from ace_tasks.settings import PoolSettings, ReplicaSettings
from ace_tasks.specs import WorkItem


class PoolHere:
    """Stands where `flows.steps.pool` names `Dispatcher`."""

    def __init__(
        self,
        replica: ReplicaSettings,
        pool: PoolSettings,
        run_id: str,
        on_failed: Callable[[WorkItem, Failed], None],
        make: MakeReplica = make_replica,
        watch: Callable[[Status], None] | None = None,
    ):
        self.status = Status()
        self.error: FatalError | None = None
        self._watch = watch
        self._make: Callable[[], Replica] = lambda: make(replica, run_id, "replica-0")
        self._replica: Replica | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> PoolHere:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def edit(
        self, items: Sequence[WorkItem], shard: int, outcomes: list[Outcome] | None = None
    ) -> list[Outcome]:
        """Run the items one after another. Raises FatalError and Cancelled as the real one does."""
        outcomes = [] if outcomes is None else outcomes
        for item in items:
            outcomes.append(self._run(item, shard))
        return outcomes

    def _run(self, item: WorkItem, shard: int) -> Outcome:
        with self._lock:
            started = time.monotonic()
            try:
                outcome = self._started().run(item, shard, 1)
                self._count(outcome)
                self.status.held_s += time.monotonic() - started
                if self._watch:
                    self._watch(self.status)
            except FatalError as error:
                self.error = error
                raise
        return outcome

    def _started(self) -> Replica:
        if self._replica is None:
            replica = self._make()
            replica.start()
            self._replica = replica
            self.status.replicas_ready = self.status.replicas_most = 1
        return self._replica

    def _count(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            self.status.failed += 1
            return
        self.status.done += 1
        self.status.busy_s += outcome.timings_s.get("generate", 0)
        self.status.ready_s += sum(outcome.timings_s.values())
        self.status.phases_s.update(outcome.timings_s)
        self.status.token_steps += outcome.token_steps
        self.status.memory.update([outcome.memory_mode] if outcome.memory_mode else ())

    def cancel(self) -> None:
        if self._replica:
            self._replica.cancel()

    def shards(self) -> list[ShardStatus]:
        return []

    def waits_for(self) -> str:
        return "waiting for the replica in this process"


def use(monkeypatch: Any) -> None:
    """Have every flow edit in this process, without Ray."""
    monkeypatch.setenv("ACE_DEVICE", "cpu")  # else Ray is asked for its GPUs
    monkeypatch.setattr("flows.steps.pool.Dispatcher", PoolHere)
    monkeypatch.setattr("flows.steps.pool.ray_session", _no_session)


def _no_session(*_: Any, **__: Any) -> Any:
    return contextlib.nullcontext()
