"""The rows of a plan on disk until all have been read, and their order and their doubles are known.

The rows are in files, one for each process that works on them. SQLite sorts them by id, by item and by
their place in the plan, in files of its own, so that memory does not grow with the catalog.
"""

from __future__ import annotations

import os
import pickle
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ace_tasks.catalog.files import Reject
from ace_tasks.specs import Identified

_AT_ONCE = 1000

SpoolEntry = tuple[int, int, str | None, str | None, bytes | None, int, int, int]
"""Where a row or a reject is kept: the number of its file; its line, group, id and item id; where
its text starts in the file, where its cells do, and where they stop. A reject has no group, no ids
and no text."""

_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -64000;
-- A row, or a reject, whose row_id is NULL. In its file a row's text is between `start` and `cells`,
-- and its cells, or the reject, between `cells` and `stop`.
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, line INT, kind INT, row_id TEXT, item_id BLOB,
    file INT, start INT, cells INT, stop INT
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
SELECT rows.line, rows.row_id, rows.file, rows.cells, rows.stop, firsts.line FROM rows
    LEFT JOIN again USING (number) LEFT JOIN rows AS firsts ON firsts.number = again.first
    WHERE rows.row_id IS NULL OR again.first IS NOT NULL ORDER BY rows.number
"""
_IN_ORDER = """
SELECT rows.line, rows.file, rows.start, rows.cells,
    (SELECT row_id FROM rows AS firsts WHERE firsts.number = shared.first AND first < rows.number)
    FROM rows CROSS JOIN kinds USING (kind) LEFT JOIN shared USING (item_id)
    WHERE rows.row_id IS NOT NULL AND rows.number NOT IN (SELECT number FROM again)
    ORDER BY kinds.place, rows.line, rows.number
"""


class RowsFile:
    """A file of rows and rejects, which one process writes and another may read."""

    def __init__(self, folder: Path, number: int):
        self._file, self._number = (folder / _name(number)).open("wb"), number
        self._written = 0

    def add(self, row: Identified, cells: dict[str, Any]) -> SpoolEntry:
        earlier_ids = ",".join(row.earlier_ids)
        text = f"{row.spec.id}\t{row.item_id}\t{row.spec.task}\t{earlier_ids}\t{row.to_json()}"
        place = self._write(text.encode(), cells)
        item_id = bytes.fromhex(row.item_id)
        return self._number, row.line, row.group, row.spec.id, item_id, *place

    def add_reject(self, reject: Reject) -> SpoolEntry:
        return self._number, reject.line, None, None, None, *self._write(b"", reject)

    def _write(self, text: bytes, rest: object) -> tuple[int, int, int]:
        start, cells = self._written, self._written + len(text)
        self._written += self._file.write(text + pickle.dumps(rest))
        return start, cells, self._written

    def flush(self) -> None:
        """Make what was added visible to others."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Spool:
    """Rows and rejects on disk, from which the plan is written once all have been added.

    They are in files in `folder`, of which `file` is that of this process.
    """

    def __init__(self, folder: Path):
        self.folder, self.file = folder, RowsFile(folder, 0)
        self._readers: dict[int, IO[bytes]] = {}
        self._rows = sqlite3.connect(folder / "rows.sqlite", isolation_level=None)
        self._rows.executescript(_TABLES)
        self._kinds: dict[str, int] = {}  # group → number, in order of arrival
        self._waiting: list[tuple[Any, ...]] = []

    def close(self) -> None:
        self.file.close()
        for each in self._readers.values():
            each.close()
        self._rows.close()

    def add(self, entry: SpoolEntry) -> None:
        """Enter a row or a reject that is in one of the files. Their order is that of the plan."""
        file, line, group, *ids_and_place = entry
        kind = None if group is None else self._kinds.setdefault(group, len(self._kinds))
        self._waiting.append((file, line, kind, *ids_and_place))
        if len(self._waiting) >= _AT_ONCE:
            self._insert()

    def _insert(self) -> None:
        self._rows.executemany(
            "INSERT INTO rows (file, line, kind, row_id, item_id, start, cells, stop) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            self._waiting,
        )
        self._waiting.clear()

    def end(self) -> int:
        """Find doubles, now that all rows are there. Return the number of rows and rejects."""
        self._insert()
        self.file.flush()
        self._rows.executescript(_FIND_DOUBLES)
        places = enumerate(kind for _, kind in sorted(self._kinds.items()))
        self._rows.executemany("INSERT INTO kinds (place, kind) VALUES (?, ?)", places)
        return int(self._rows.execute("SELECT count(*) FROM rows").fetchone()[0])

    def rejects(self, *, lined: bool) -> Iterator[Reject]:
        """Yield the rejects, and the rows whose id an earlier row has, in order of their arrival.

        `lined` tells whether the user knows the catalog's lines.
        """
        for line, row_id, file, start, stop, first_line in self._rows.execute(_REJECTS):
            # It is our own file, in a folder that only this user can open.
            rest = pickle.loads(self._read(file, start, stop))
            if row_id is None:
                yield rest
                continue
            place = f"line {first_line}" if lined else "an earlier row"
            reason = f"accepted: an id used once; {row_id!r} is also in {place}"
            yield Reject(line, "id", reason, rest)

    def in_order(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a plan, ordered by group, then line."""
        ordered = self._rows.execute(_IN_ORDER)
        for position, (line, file, start, stop, same_as) in enumerate(ordered):
            text = self._read(file, start, stop).decode()
            row_id, item_id, task, earlier_ids, item = text.split("\t", 4)
            yield position, line, row_id, item_id, same_as, task, item, earlier_ids or None

    def _read(self, file: int, start: int, stop: int) -> bytes:
        reader = self._readers.get(file)
        if reader is None:
            reader = self._readers[file] = (self.folder / _name(file)).open("rb")
        return os.pread(reader.fileno(), stop - start, start)


def _name(file: int) -> str:
    return f"rows-{file}"
