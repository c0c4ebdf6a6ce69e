"""Metrics for Prometheus, by Ray's exporter on every node (`ray metrics`; the extra `metrics`).

If that exporter is not installed, all of this costs nothing and reports nothing. Ray puts `ray_`
before each name. Shares and rates are left to the reader, because counters survive a restart of
either side.
"""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray.util.metrics import Counter, Gauge, Histogram

from ace_tasks.provenance.outcomes import Failed, Outcome

if TYPE_CHECKING:
    from ace_tasks.engine.dispatcher import Status

_STATUS_EVERY_S = 1.0
# From a thumbnail's encoding to a photograph of 40 megapixels on a busy GPU.
_SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 2, 3, 4, 5, 7, 10, 20, 60, 180]


class RunMetrics:
    """The metrics of a run. Not thread-safe: only for the dispatcher's loop."""

    def __init__(self, variant: str):
        def made(kind: Any, name: str, text: str, *tags: str, **more: Any) -> Any:
            metric = kind(name, text, tag_keys=("variant", *tags), **more)
            metric.set_default_tags({"variant": variant})
            return metric

        items = "Items that have an outcome. code is empty for those that are done."
        self._items = made(Counter, "ace_items", items, "code")
        # Ray keeps only the buckets of a histogram, and guesses its sum from their middles.
        phases = (
            "Seconds spent in a phase (fetch, build, wait_gpu, generate, compare, encode, publish) "
            "by items that are done."
        )
        self._phases = made(Counter, "ace_phase_seconds", phases, "phase")
        seconds = "Seconds spent inside a replica by an item that is done."
        self._seconds = made(Histogram, "ace_item_seconds", seconds, boundaries=_SECONDS)
        self._retries = made(Counter, "ace_item_retries", "Items given to a replica again.")
        self._deaths = made(Counter, "ace_replica_deaths", "Replicas that died.")
        busy = "Seconds of denoising for items that are done."
        self._busy = made(Counter, "ace_replica_busy_seconds", busy)
        ready = "Seconds in which replicas were ready."
        self._ready = made(Counter, "ace_replica_ready_seconds", ready)
        self._queued = made(Gauge, "ace_items_queued", "Items that wait for a replica.")
        self._in_flight = made(Gauge, "ace_items_in_flight", "Items inside replicas.")
        self._replicas = made(Gauge, "ace_replicas_ready", "Replicas that take items.")
        self._reported: Counts[str] = Counts()
        self._reported_at = 0.0

    def outcome(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            self._items.inc(1, {"code": outcome.code})
            return
        self._items.inc(1, {"code": ""})
        self._seconds.observe(outcome.seconds)
        for phase, seconds in outcome.timings_s.items():
            if seconds:  # Ray refuses to count 0
                self._phases.inc(seconds, {"phase": phase})

    def retry(self) -> None:
        self._retries.inc()

    def status(self, status: Status) -> None:
        """Report the status of the run, at most once a second."""
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
        """Set the gauges to 0, since they keep their last value as long as this process lives."""
        for gauge in (self._queued, self._in_flight, self._replicas):
            gauge.set(0)


class StoreMetrics:
    """Errors that a replica's stores met, reported by the replica's own process."""

    def __init__(self) -> None:
        self._errors = Counter(
            "ace_store_errors",
            "Calls to the object store that met an error and were tried again (again: yes) or "
            "given up (no). A precondition that does not hold is not an error.",
            tag_keys=("error", "again"),
        )
        self._reported: Counts[tuple[str, bool]] = Counts()

    def report(self, trouble: Mapping[tuple[str, bool], int]) -> None:
        """Report new errors.

        `trouble` counts errors since the replica started, by (error, tried again).
        """
        for (error, again), count in trouble.items():
            new = count - self._reported[error, again]
            if new > 0:
                self._errors.inc(new, {"error": error, "again": "yes" if again else "no"})
                self._reported[error, again] = count
