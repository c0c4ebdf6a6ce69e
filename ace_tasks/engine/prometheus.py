"""What Prometheus is told, through Ray's exporter on every node (`ray metrics`; the extra `metrics`).

Where that exporter is not installed, all of this costs nothing and says nothing. Ray puts `ray_`
before each name. Shares and rates are the reader's to make: counters survive a restart of either.
"""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge, Histogram

from ace_tasks.provenance.outcomes import Failed, Outcome

if TYPE_CHECKING:
    from ace_tasks.engine.dispatcher import Status

_STATUS_EVERY_S = 1.0
# From a thumbnail's encoding to a photograph of 40 megapixels on a busy GPU.
_SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 2, 3, 4, 5, 7, 10, 20, 60, 180]


class RunMetrics:
    """A run, as its dispatcher sees it. Not thread-safe: for the dispatcher's loop alone."""

    def __init__(self, variant: str):
        self._items = Counter(
            "ace_items",
            "Items that have their outcome; code is empty for those that are done.",
            tag_keys=("variant", "code"),
        )
        # Of a histogram Ray keeps the buckets only, and guesses the sum from their middles.
        self._phases = Counter(
            "ace_phase_seconds",
            "Seconds that items which are done spent in a phase: fetch, build, wait_gpu, generate, "
            "encode, publish.",
            tag_keys=("variant", "phase"),
        )
        self._seconds = Histogram(
            "ace_item_seconds",
            "Seconds an item that is done spent inside a replica.",
            boundaries=_SECONDS,
            tag_keys=("variant",),
        )
        self._retries = Counter(
            "ace_item_retries", "Items given to a replica again.", tag_keys=("variant",)
        )
        self._deaths = Counter("ace_replica_deaths", "Replicas that died.", tag_keys=("variant",))
        self._busy = Counter(
            "ace_replica_busy_seconds",
            "Seconds of denoising, of items that are done.",
            ("variant",),
        )
        self._ready = Counter(
            "ace_replica_ready_seconds", "Seconds in which replicas were ready.", ("variant",)
        )
        self._queued = Gauge("ace_items_queued", "Items that wait for a replica.", ("variant",))
        self._in_flight = Gauge("ace_items_in_flight", "Items inside replicas.", ("variant",))
        self._replicas = Gauge("ace_replicas_ready", "Replicas that take items.", ("variant",))
        for metric in (
            self._retries,
            self._deaths,
            self._busy,
            self._ready,
            self._queued,
            self._in_flight,
            self._replicas,
            self._items,
            self._phases,
            self._seconds,
        ):
            metric.set_default_tags({"variant": variant})
        self._reported: Counts[str] = Counts()
        self._reported_at = 0.0

    def outcome(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            self._items.inc(1, {"code": outcome.code})
            return
        self._items.inc(1, {"code": ""})
        self._seconds.observe(outcome.seconds)
        for phase, seconds in outcome.timings_s.items():
            if seconds:  # Ray refuses to count none
                self._phases.inc(seconds, {"phase": phase})

    def retry(self) -> None:
        self._retries.inc()

    def status(self, status: Status) -> None:
        """Told once a second at most."""
        now = time.monotonic()
        if now - self._reported_at < _STATUS_EVERY_S:
            return
        self._reported_at = now
        self._queued.set(status.queued)
        self._in_flight.set(status.in_flight)
        self._replicas.set(status.replicas_ready)
        for counter, name in (
            (self._busy, "busy_s"),
            (self._ready, "ready_s"),
            (self._deaths, "deaths"),
        ):
            value = getattr(status, name)
            if value > self._reported[name]:
                counter.inc(value - self._reported[name])
                self._reported[name] = value

    def end(self) -> None:
        """Gauges keep their last value for as long as this process lives."""
        for gauge in (self._queued, self._in_flight, self._replicas):
            gauge.set(0)


class StoreMetrics:
    """What a replica's stores met: told by the replica's own process."""

    def __init__(self) -> None:
        self._errors = Counter(
            "ace_store_errors",
            "Calls to the object store that met an error and were tried again (again: yes) or "
            "given up (no); a precondition that does not hold is an answer, no error.",
            tag_keys=("error", "again"),
        )
        self._reported: Counts[tuple[str, bool]] = Counts()

    def report(self, trouble: Mapping[tuple[str, bool], int]) -> None:
        """`trouble`: (error, tried again) → how often, since the replica started."""
        for (error, again), count in trouble.items():
            new = count - self._reported[error, again]
            if new > 0:
                self._errors.inc(new, {"error": error, "again": "yes" if again else "no"})
                self._reported[error, again] = count
