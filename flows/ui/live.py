"""What moves in the UI while a run works: its progress, its shards, and its failures by code.

A thread writes them, so that an API that is slow or away keeps no replica waiting.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from ace_tasks.engine.dispatcher import Status
from ace_tasks.engine.queue import ShardStatus
from flows.ui.tables import TABLE_ROWS, Moment, counted, decoration, notify_listener, plain

_UPDATE_EVERY_S = 2.0
_CUT_S = 3.0
_RATE_OVER_S = 60.0  # items/s are those of the last minute

Cells = list[dict[str, str | int]]


@dataclass
class _Artifact:
    """Made once, moved on; what cannot be written is let go."""

    create: Callable[[], Any]
    name: str
    id: UUID | None = None
    written: tuple[Any, str] | None = None

    def move(self, data: Any, description: str) -> None:
        if self.written == (data, description):
            return
        with decoration(self.name):
            if self.id is None:
                self.id = self.create()
            with get_client(sync_client=True) as client:
                client.update_artifact(self.id, ArtifactUpdate(data=data, description=description))
            self.written = (data, description)


@dataclass
class Shards:
    """The account of a run's shards: those that work, then those that ended with failures, then
    others that ended; as many as a page holds.
    """

    done: int = 0
    failed: int = 0
    by_error: Counter[str] = field(default_factory=Counter)
    ended: int = 0
    _clean: deque[ShardStatus] = field(default_factory=lambda: deque(maxlen=TABLE_ROWS))
    _failing: deque[ShardStatus] = field(default_factory=lambda: deque(maxlen=TABLE_ROWS))

    def end(self, shard: ShardStatus) -> None:
        self.ended += 1
        (self._failing if shard.by_error else self._clean).appendleft(shard)

    def table(self, working: Sequence[ShardStatus]) -> Cells:
        known = {each.index for each in (*self._failing, *self._clean)}
        at_work = [each for each in working if each.index not in known]
        rows = [_row(each, "working") for each in sorted(at_work, key=lambda each: each.index)]
        rows += [_row(each, "ended") for each in (*self._failing, *self._clean)]
        return rows[:TABLE_ROWS]


def _row(shard: ShardStatus, state: str) -> dict[str, str | int]:
    failed = shard.by_error.total()
    return {
        "shard": shard.index,
        "state": state,
        "items": shard.items,
        "done": shard.done,
        "failed": failed,
        "waiting": shard.items - shard.done - failed,
        "errors": plain(", ".join(f"{code} {n}" for code, n in shard.by_error.most_common())),
    }


class Live:
    """The moving artifacts of one run. A context manager; `update` it at any pace."""

    def __init__(self, flow_name: str, total: int, headline: str):
        """`total`: rows; `headline`: how many are done before, and how many are to do."""
        self._total = total
        self._headline = headline
        self._shards = Shards()
        self._accounted = 0
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._latest: tuple[float, str, Cells, str, Cells, str] | None = None
        self._updated_at = 0.0
        self._over = threading.Event()
        self._progress = _Artifact(
            lambda: create_progress_artifact(0.0, f"{flow_name}-progress", headline), "progress"
        )
        self._by_shard = _Artifact(
            lambda: create_table_artifact([{"shard": "none"}], f"{flow_name}-shards"), "shards"
        )
        self._by_error = _Artifact(
            lambda: create_table_artifact([{"error": "none"}], f"{flow_name}-errors"), "errors"
        )
        # Artifacts belong to the flow run, which this thread knows by its context only.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._write,), name="artifacts", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """The last word is waited for, while a client tries; a run that is cut has no time."""
        self._over.set()
        self._thread.join(_CUT_S if kind else None)

    def end_shard(self, shard: ShardStatus) -> None:
        """Its rows are in the account from now on."""
        self._shards.end(shard)

    def update(
        self,
        accounted: int,
        failed: int,
        by_error: Mapping[str, int],
        status: Status,
        working: Sequence[ShardStatus] = (),
    ) -> None:
        """`accounted`, `failed` and `by_error` (code → rows): of rows with a result so far;
        `working`: the shards whose items have none in the account yet.
        """
        errors = Counter(by_error)
        for shard in working:
            errors.update(shard.by_error)
        failed += sum(shard.by_error.total() for shard in working)
        accounted += sum(shard.done + shard.by_error.total() for shard in working)
        # A shard that has just ended is for a moment in neither.
        accounted = self._accounted = max(accounted, self._accounted)
        notify_listener(
            Moment(self._total, accounted, failed, status.replicas_ready, self._headline)
        )
        now = time.monotonic()
        if now - self._updated_at < _UPDATE_EVERY_S and accounted < self._total:
            return
        self._updated_at = now
        rate = self._rate(now, status.done + status.failed)
        waiting = self._total - accounted
        alive = f"{counted(status.replicas_ready, 'replica')} alive, " if waiting else ""
        line = (
            f"{accounted - failed} done, {failed} failed, {waiting} waiting of {self._total} rows; "
            f"{alive}{rate:.2f} items/s"
        )
        if rate and waiting:
            line += f", about {format_duration(waiting / rate)} left"
        total = sum(errors.values())
        codes: Cells = [
            {"error": plain(code), "rows": n, "share": f"{n / total:.0%}"}
            for code, n in errors.most_common(TABLE_ROWS)
        ]
        self._latest = (
            round(100.0 * accounted / max(self._total, 1), 2),
            line,
            self._shards.table(working),
            f"{len(working)} shards at work, {self._shards.ended} ended; failing ones first",
            codes,
            f"{total} rows have no picture, by error code",
        )

    def _rate(self, now: float, edited: int) -> float:
        """Items/s, failed ones too, of the last minute."""
        self._recent.append((now, edited))
        while len(self._recent) > 2 and now - self._recent[1][0] >= _RATE_OVER_S:
            self._recent.popleft()
        began, before = self._recent[0]
        return (edited - before) / max(now - began, 1e-9)

    def _write(self) -> None:
        self._progress.move(0.0, self._headline)
        while not self._over.wait(_UPDATE_EVERY_S):
            self._write_latest()
        self._write_latest()

    def _write_latest(self) -> None:
        if self._latest is None:
            return
        percent, line, shards, about_shards, codes, about_codes = self._latest
        self._progress.move(percent, line)
        if shards:
            self._by_shard.move(json.dumps(shards), about_shards)
        if codes:
            self._by_error.move(json.dumps(codes), about_codes)


def format_duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
