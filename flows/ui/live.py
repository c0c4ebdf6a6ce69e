"""Artifacts that change while a run works: its progress, its shards, and its failures by code.

A thread writes them, so that no replica waits for an API that is slow or away.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ace_tasks.engine.dispatcher import Status
from ace_tasks.engine.queue import ShardStatus
from ace_tasks.wording import counted
from flows.ui.artifacts import Content, RunArtifact, refreshing
from flows.ui.tables import TABLE_ROWS, Moment, notify_listener, plain

_UPDATE_EVERY_S = 2.0
_RATE_OVER_S = 60.0  # items/s are those of the last minute

Cells = list[dict[str, str | int]]


@dataclass
class Shards:
    """Counts of a run's shards, and a table of as many as a page holds.

    Working shards come first, then those that ended with failures, then the others.
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
    """The changing artifacts of one run; see `showing`. `update` may be called at any rate."""

    def __init__(self, flow_name: str, total: int, headline: str):
        """Start at zero of `total` rows. `headline` counts the rows done before and those to do."""
        self._total = total
        self._headline = headline
        self._shards = Shards()
        self._accounted = 0
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._updated_at = 0.0
        self._progress = RunArtifact("progress", f"{flow_name}-progress")
        self._by_shard = RunArtifact("table", f"{flow_name}-shards")
        self._by_error = RunArtifact("table", f"{flow_name}-errors")
        self._latest: list[tuple[RunArtifact, Content, str]] = [(self._progress, 0.0, headline)]

    def write(self) -> None:
        """Update the artifacts."""
        for artifact, content, description in self._latest:
            if content != []:  # a table waits for its first row
                artifact.show(content, description)

    def end_shard(self, shard: ShardStatus) -> None:
        """Note that a shard has ended, and that its rows are counted in `accounted` from now on."""
        self._shards.end(shard)

    def update(
        self,
        accounted: int,
        failed: int,
        by_error: Mapping[str, int],
        status: Status,
        working: Sequence[ShardStatus] = (),
    ) -> None:
        """Take new counts, and tell the listener.

        `accounted`, `failed` and `by_error` (code → rows) count the rows that have a result so far.
        `working` are the shards whose items are not counted there yet.
        """
        errors = Counter(by_error)
        for shard in working:
            errors.update(shard.by_error)
        failed += sum(shard.by_error.total() for shard in working)
        accounted += sum(shard.done + shard.by_error.total() for shard in working)
        # A shard that has just ended is in neither count for a moment.
        accounted = self._accounted = max(accounted, self._accounted)
        notify_listener(
            Moment(self._total, accounted, failed, status.replicas_ready, self._headline)
        )
        now = time.monotonic()
        if now - self._updated_at < _UPDATE_EVERY_S and accounted < self._total:
            return
        self._updated_at = now
        total = errors.total()
        codes: Cells = [
            {"error": plain(code), "rows": n, "share": f"{n / total:.0%}"}
            for code, n in errors.most_common(TABLE_ROWS)
        ]
        percent = round(100.0 * accounted / max(self._total, 1), 2)
        at_work = (
            f"{counted(len(working), 'shard')} at work, {self._shards.ended:,} ended; failing first"
        )
        self._latest = [
            (self._progress, percent, self._line(accounted, failed, status, now)),
            (self._by_shard, self._shards.table(working), at_work),
            (self._by_error, codes, f"{counted(total, 'row')} without a picture, by error code"),
        ]

    def _line(self, accounted: int, failed: int, status: Status, now: float) -> str:
        rate = self._rate(now, status.done + status.failed)
        waiting = self._total - accounted
        line = (
            f"{accounted - failed:,} done, {failed:,} failed, {waiting:,} waiting of "
            f"{counted(self._total, 'row')}; "
        )
        if waiting:
            line += f"{counted(status.replicas_ready, 'replica')} alive, "
        line += f"{rate:.2f} items/s"
        return line + (
            f", about {format_duration(waiting / rate)} left" if rate and waiting else ""
        )

    def _rate(self, now: float, edited: int) -> float:
        """Return items/s over the last minute, failed ones included."""
        self._recent.append((now, edited))
        while len(self._recent) > 2 and now - self._recent[1][0] >= _RATE_OVER_S:
            self._recent.popleft()
        began, before = self._recent[0]
        return (edited - before) / max(now - began, 1e-9)


@contextmanager
def showing(flow_name: str, total: int, headline: str) -> Iterator[Live]:
    """Keep the artifacts of a run updated while the body works; see `Live`."""
    live = Live(flow_name, total, headline)
    with refreshing(live.write, _UPDATE_EVERY_S):
        yield live


def format_duration(seconds: float) -> str:
    """Return a duration for people, such as `40 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
