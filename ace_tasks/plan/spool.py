"""The rows of a plan on disk until all have been read, and their order and their doubles are known.

The rows are in one file in the order of their arrival. SQLite sorts them by id, by item and by
their place in the plan, in files of its own, so that memory does not grow with the catalog.
"""

from __future__ import annotations

import os
import pickle
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ace_tasks.catalog.files import Reject
from ace_tasks.specs import Identified

_AT_ONCE = 1000

_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -64000;
-- A row, or a reject, whose row_id is NULL. In the file a row's text is between `start` and `cells`,
-- and its cells, or the reject, between `cells` and `stop`.
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, line INT, kind INT, row_id TEXT, item_id BLOB,
    start INT, cells INT, stop INT
);
-- Ids that several rows have, items that several rows ask for, and the first of those rows.
CREATE TABLE doubles (row_id TEXT PRIMARY KEY, first INT) WITHOUT ROWID;
CREATE TABLE shared (item_id BLOB PRIMARY KEY, first INT) WITHOUT ROWID;
CREATE TABLE again (number INTEGER PRIMARY KEY, first INT);
CREATE TABLE kinds (kind INTEGER PRIMARY KEY, place INT);
BEGIN;
"""
_FIND_DOUBLES = """
INSERT INTO doubles SELECT row_id, min(number) FROM rows WHERE row_id IS NOT NULL
    GROUP BY row_id HAVING count(*) > 1;
INSERT INTO again SELECT number, first FROM rows CROSS JOIN doubles USING (row_id)
    WHERE number > first;
INSERT INTO shared SELECT item_id, min(number) FROM rows
    WHERE row_id IS NOT NULL AND number NOT IN (SELECT number FROM again)
    GROUP BY item_id HAVING count(*) > 1;
"""
_REJECTS = """
SELECT rows.line, rows.row_id, rows.cells, rows.stop, firsts.line FROM rows
    LEFT JOIN again USING (number) LEFT JOIN rows AS firsts ON firsts.number = again.first
    WHERE rows.row_id IS NULL OR again.first IS NOT NULL ORDER BY rows.number
"""
_IN_ORDER = """
SELECT rows.line, rows.start, rows.cells,
    (SELECT row_id FROM rows AS firsts WHERE firsts.number = shared.first AND first < rows.number)
    FROM rows CROSS JOIN kinds USING (kind) LEFT JOIN shared USING (item_id)
    WHERE rows.row_id IS NOT NULL AND rows.number NOT IN (SELECT number FROM again)
    ORDER BY kinds.place, rows.line, rows.number
"""


class Spool:
    """Rows and rejects on disk, from which the plan is written once all have been added."""

    def __init__(self, folder: Path):
        self._file = (folder / "rows").open("wb")
        self._written_rows = (folder / "rows").open("rb")
        self._rows = sqlite3.connect(folder / "rows.sqlite", isolation_level=None)
        self._rows.executescript(_TABLES)
        self._kinds: dict[str, int] = {}  # group → number, in order of arrival
        self._waiting: list[tuple[Any, ...]] = []
        self._written = 0

    def close(self) -> None:
        self._file.close()
        self._written_rows.close()
        self._rows.close()

    def add(self, row: Identified, cells: dict[str, Any]) -> None:
        earlier_ids = ",".join(row.earlier_ids)
        text = f"{row.spec.id}\t{row.item_id}\t{row.spec.task}\t{earlier_ids}\t{row.to_json()}"
        kind = self._kinds.setdefault(row.group, len(self._kinds))
        item_id = bytes.fromhex(row.item_id)
        self._add((row.line, kind, row.spec.id, item_id), text.encode(), cells)

    def add_reject(self, reject: Reject) -> None:
        self._add((reject.line, None, None, None), b"", reject)

    def _add(self, row: tuple[Any, ...], text: bytes, rest: object) -> None:
        start, cells = self._written, self._written + len(text)
        self._written += self._file.write(text + pickle.dumps(rest))
        self._waiting.append((*row, start, cells, self._written))
        if len(self._waiting) >= _AT_ONCE:
            self._insert()

    def _insert(self) -> None:
        self._rows.executemany(
            "INSERT INTO rows (line, kind, row_id, item_id, start, cells, stop) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            self._waiting,
        )
        self._waiting.clear()

    def end(self) -> int:
        """Find doubles, now that all rows are there. Return the number of rows and rejects."""
        self._insert()
        self._file.flush()
        self._rows.executescript(_FIND_DOUBLES)
        places = enumerate(kind for _, kind in sorted(self._kinds.items()))
        self._rows.executemany("INSERT INTO kinds (place, kind) VALUES (?, ?)", places)
        return int(self._rows.execute("SELECT count(*) FROM rows").fetchone()[0])

    def rejects(self, *, lined: bool) -> Iterator[Reject]:
        """Yield the rejects, and the rows whose id an earlier row has, in order of their arrival.

        `lined` tells whether the user knows the catalog's lines.
        """
        for line, row_id, start, stop, first_line in self._rows.execute(_REJECTS):
            # It is our own file, in a folder that only this user can open.
            rest = pickle.loads(self._read(start, stop))
            if row_id is None:
                yield rest
                continue
            place = f"line {first_line}" if lined else "an earlier row"
            reason = f"accepted: an id used once; {row_id!r} is also in {place}"
            yield Reject(line, "id", reason, rest)

    def in_order(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a plan, ordered by group, then line."""
        ordered = self._rows.execute(_IN_ORDER)
        for position, (line, start, stop, same_as) in enumerate(ordered):
            text = self._read(start, stop).decode()
            row_id, item_id, task, earlier_ids, item = text.split("\t", 4)
            yield position, line, row_id, item_id, same_as, task, item, earlier_ids or None

    def _read(self, start: int, stop: int) -> bytes:
        return os.pread(self._written_rows.fileno(), stop - start, start)
