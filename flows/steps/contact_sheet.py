"""The contact sheet of a run: of its newest pictures while it works, of all rows at the end.

Both are written to the same place, so a link to the first one leads to the last one.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from prefect import get_run_logger
from prefect.runtime import flow_run
from pydantic import ValidationError

from ace_tasks.errors import AceError, BadRecord, Forgotten, NeedsReview
from ace_tasks.plan.planned import Planned
from ace_tasks.provenance.outcomes import Outcome
from ace_tasks.runs.report.cards import Entry
from ace_tasks.runs.report.pages import Card, Sheet
from ace_tasks.runs.results import Result, Summary
from ace_tasks.runs.review import Review
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, open_stores
from flows.steps.open_run import Run
from flows.steps.run_results import RunResults
from flows.ui.artifacts import decoration, refreshing

NEWEST = 100  # 2 MB of page, and at most 200 pictures to read for it
_LOOK_EVERY_S = 0.5
# The pause after a write is a quarter of the time since the first picture, from five seconds to five
# minutes, and never less than 20 times what the write took: 25 writes in twenty minutes, then one
# every five minutes, and at most a twentieth of the time.
_GROWTH = 0.25
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0
_PAUSE_PER_WRITE = 20


def publish_report(run: Run, planned: Planned, edited: RunResults, summary: Summary) -> str | None:
    """Write the sheet of a finished run, and return its URI.

    An error is logged and never fails the run.
    """
    facts = {
        "result": summary.line,
        "variant": summary.variant,
        "run": summary.run_id,
        "ended": _minute(summary.ended_at),
    }
    facts |= {"lost by speed fast": summary.loss.line} if summary.loss else {}
    facts |= {"masks to check": summary.masks_to_check} if summary.hinted else {}
    try:
        sheet = replace(
            _empty_sheet(run, edited.item_of),
            facts=facts,
            results=edited.sample(),
            total=planned.counts.planned,
        )
        return run.report.publish(sheet)
    except (AceError, ValidationError) as error:
        get_run_logger().warning("no contact sheet: %s", error)
        return None


class GrowingSheet:
    """The sheet of a run that works: one page with its newest pictures and failures.

    `note` may be called at any rate. `write_if_due` reads each picture once, and keeps at most the
    cards of one page.
    """

    def __init__(self, run: Run, to_do: int):
        self._run = run
        self._to_do = to_do
        self._lock = threading.Lock()
        self._newest: deque[tuple[Result, WorkItem]] = deque(maxlen=NEWEST)
        self._counts: Counter[str] = Counter()
        self._began_at = 0.0
        self._written = -1  # how many rows there were at the last write
        self._due_at = 0.0
        self._cards: dict[int, Card] = {}
        self._items: dict[int, WorkItem] = {}  # line → an item on the sheet that is written
        self._base: Sheet | None = None

    def note(self, newest: Iterable[tuple[WorkItem, Outcome]]) -> None:
        """Take items that have just got an outcome."""
        for item, outcome in newest:
            result = Result.of(item, outcome)
            if result.error_code == Forgotten.code:  # nothing of its row may be quoted
                continue
            with self._lock:
                self._counts[result.status] += 1
                self._newest.appendleft((result, item))

    def write_if_due(self) -> None:
        """Write the sheet: at the start, with the first picture, and then at growing intervals."""
        now = time.monotonic()
        with self._lock:
            rows, counts = self._counts.total(), Counter(self._counts)
            newest = list(self._newest)
        if rows == self._written or (self._written > 0 and now < self._due_at):
            return
        self._began_at = self._began_at if self._written > 0 else now
        with decoration("contact sheet"):
            self._run.report.publish(self._of(newest, counts))
        ended = time.monotonic()
        self._due_at = ended + pause_s(ended - self._began_at, ended - now)
        self._written = rows

    def _of(self, newest: list[tuple[Result, WorkItem]], counts: Counter[str]) -> Sheet:
        self._items = {result.line: item for result, item in newest}
        self._base = self._base or _empty_sheet(self._run, lambda each: self._items[each.line])
        shown = f"the newest {NEWEST} are shown" if counts.total() > NEWEST else "newest first"
        so_far = ", ".join(f"{counts[status]:,} {status}" for status in ("done", "failed"))
        return replace(
            self._base,
            facts={
                "so far": f"{so_far}, of {self._to_do:,} to do",
                "variant": self._run.variant_name,
                "run": self._run.run_id,
                "written": _minute(datetime.now(UTC)),
            },
            results=[result for result, _ in newest],
            total=self._to_do,
            note=f"The run works; {shown}. This page is written again while it does: reload it. "
            "When the run has ended, all rows are here.",
            kept=self._cards,
        )


def pause_s(since_first_s: float, took_s: float) -> float:
    """Return the pause after a write that took `took_s`, so long after the first picture."""
    grown_s = min(max(_GROWTH * since_first_s, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
    return max(grown_s, _PAUSE_PER_WRITE * took_s)


@contextmanager
def growing_sheet(run: Run, to_do: int) -> Iterator[GrowingSheet]:
    """Write the contact sheet again and again while the body works; see `GrowingSheet`."""
    sheet = GrowingSheet(run, to_do)
    with refreshing(sheet.write_if_due, _LOOK_EVERY_S):
        yield sheet


# ---------------------------------------------------------------- what both have


def _empty_sheet(run: Run, item_of: Callable[[Result], WorkItem]) -> Sheet:
    # Thousands of pictures are read. If the store is away, waiting for each is not worth it.
    sources, outputs = open_stores(
        *(each.model_copy(update={"patience_s": 0})
          for each in (run.environment.source_store, run.environment.output_store))
    )  # fmt: skip
    return Sheet(
        title=flow_run.name or f"Edits of {run.catalog}",
        facts={},
        results=[],
        entry_of=lambda result: with_record(run, outputs, Entry(item_of(result), result)),
        total=0,
        output_uri=run.output,
        sources=sources,
        outputs=outputs,
        limits=ImageLimits(),
    )


def with_record(run: Run, outputs: Store, entry: Entry) -> Entry:
    """Return the entry with the record that made its picture or holds it back, and its place."""
    held_back = entry.result.error_code == NeedsReview.code
    if not held_back and entry.result.status not in {"done", "done_before"}:
        return entry
    try:
        held = Review(outputs, run.output, by=run.run_id).look(entry.item.item_id)
    except BadRecord:  # somebody has changed it since; keep the sheet of the others
        return entry
    if held.record is None or (held_back and held.standing != "waiting"):
        return entry
    # Results name the picture's place now; a record keeps the place from before a move.
    place = entry.result.output_uri or held.picture
    return Entry(entry.item, replace(entry.result, output_uri=place), held.record)


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
