"""The catalog that a run makes itself, `runs/<run id>/catalog.jsonl`: written, and read back.

A line is a row as any catalog has it; or, of something that became no row, its reject in a column
of that name. So every picture of the source has one line, in the source's order, and a run that is
started again reads what was made instead of asking a source that may have changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ace_tasks.catalog import Reject, Row, read_rows
from ace_tasks.feeds import Skipped

_REJECTED = "rejected"


@dataclass(frozen=True)
class Made:
    """How many of each. `skipped`: what was no picture."""

    rows: int
    rejected: int
    skipped: int


def write_made(rows: Iterable[dict[str, Any] | Skipped | Reject], path: Path) -> Made:
    """Write rows and rejects, a line each."""
    counts = {dict: 0, Reject: 0, Skipped: 0}
    with path.open("w", encoding="utf-8") as out:
        for each in rows:
            counts[type(each)] += 1
            if not isinstance(each, Skipped):
                out.write(_line(each) + "\n")
    return Made(counts[dict], counts[Reject], counts[Skipped])


def read_made(path: Path) -> Iterator[Row | Reject]:
    """What `write_made` wrote. A plain catalog is read as what it is."""
    for each in read_rows(path):
        told = each.cells.get(_REJECTED) if isinstance(each, Row) else None
        if isinstance(each, Row) and isinstance(told, dict):
            yield Reject(each.line, told.get("field"), str(told.get("reason")), told.get("row", ""))
        else:
            yield each


def _line(each: dict[str, Any] | Reject) -> str:
    if isinstance(each, dict):
        return json.dumps(each, ensure_ascii=False, default=str)
    told = json.loads(each.to_json())
    del told["line"]  # it has one here
    return json.dumps({_REJECTED: told}, ensure_ascii=False)
