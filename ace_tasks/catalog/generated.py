"""The catalog that a run generates, `runs/<run id>/catalog.jsonl`: how it is written and read back.

Each line is an ordinary catalog row, or a reject in the column `rejected`. So every picture of the
source has one line, in the source's order, and a resumed run reads this file instead of a source
that may have changed.

A second file, on this machine only, holds the place of each row in the source's file. If a row
turns out to be wrong later, the error names its line there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ace_tasks.catalog.files import Reject, Row, read_rows
from ace_tasks.catalog.sources.source_picture import GeneratedRow, Skipped
from ace_tasks.specs import quote

_REJECTED = "rejected"
_SKIPPED_NAMED = 3


@dataclass(frozen=True)
class GeneratedCatalog:
    """The counts of a generated catalog.

    `skipped` maps each reason to how many files were passed over for it, and `names` to the first
    few of their names.
    """

    rows: int
    rejected: int
    skipped: Mapping[str, int]
    names: Mapping[str, Sequence[str]]

    @property
    def passed_over(self) -> int:
        return sum(self.skipped.values())

    @property
    def skipped_summary(self) -> str:
        """The files that were passed over, or "" if there are none.

        Example: `3 passed over: no picture: 'notes.txt', 'a.gif' and 1 more`.
        """
        if not self.skipped:
            return ""
        kinds = []
        for why, count in self.skipped.items():
            names, more = ", ".join(map(quote, self.names[why])), count - len(self.names[why])
            kinds.append(f"{why}: {names}" + (f" and {more:,} more" if more else ""))
        return f"{self.passed_over:,} passed over: {'; '.join(kinds)}"


def write_made(rows: Iterable[GeneratedRow | Skipped | Reject], path: Path) -> GeneratedCatalog:
    """Write rows and rejects, one a line, and count them."""
    made = rejected = 0
    skipped: Counter[str] = Counter()
    names: dict[str, list[str]] = {}
    with path.open("w", encoding="utf-8") as out, _places(path).open("w", encoding="utf-8") as at:
        for each in rows:
            if isinstance(each, Skipped):
                skipped[each.why] += 1
                if len(names.setdefault(each.why, [])) < _SKIPPED_NAMED:
                    names[each.why].append(each.name)
                continue
            made += isinstance(each, GeneratedRow)
            rejected += isinstance(each, Reject)
            out.write(_line(each) + "\n")
            at.write((json.dumps(each.where) if isinstance(each, GeneratedRow) else "") + "\n")
    return GeneratedCatalog(made, rejected, skipped, names)


class Places:
    """The places in a source's file that the rows of a generated catalog come from.

    Ask for them in the order of the lines. Each is "" if an earlier process generated the catalog.
    Use it as a context manager.
    """

    def __init__(self, path: Path | None):
        found = path is not None and _places(path).is_file()
        self._lines = _places(path).open(encoding="utf-8") if path and found else None
        self._read = 0

    def __enter__(self) -> Places:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines:
            self._lines.close()

    def of(self, line: int) -> str:
        """Return the place of a line, such as `feed.csv, line 7`, or "" if it has none."""
        text = ""
        while self._lines and self._read < line:
            text = self._lines.readline()
            self._read += 1
        return str(json.loads(text)) if text.strip() else ""


def _places(path: Path) -> Path:
    return path.with_name(f"{path.name}.places")


def read_made(path: Path) -> Iterator[Row | Reject]:
    """Yield the rows and rejects that `write_made` wrote. A plain catalog is read unchanged."""
    for each in read_rows(path):
        rejected = each.cells.get(_REJECTED) if isinstance(each, Row) else None
        if isinstance(each, Row) and isinstance(rejected, dict):
            field, reason = rejected.get("field"), str(rejected.get("reason"))
            yield Reject(each.line, field, reason, rejected.get("row", ""))
        else:
            yield each


def _line(each: GeneratedRow | Reject) -> str:
    if isinstance(each, GeneratedRow):
        return json.dumps(each.cells, ensure_ascii=False, default=str)
    rejected = json.loads(each.to_json())
    del rejected["line"]  # read_made takes the line of this file
    return json.dumps({_REJECTED: rejected}, ensure_ascii=False)
