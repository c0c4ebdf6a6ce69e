"""Pictures on disk, in order and by name: a million take no memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from pathlib import Path

from ace_tasks.catalog import Reject
from ace_tasks.errors import BadRow
from ace_tasks.feeds.picture import Picture, Skipped
from ace_tasks.specs import quote


class Album:
    """`what`: what its pictures are called in a message, such as `garment`.

    A reject keeps its place in the order, and is no picture.
    """

    def __init__(self, connection: sqlite3.Connection, what: str):
        self.what = what
        self._db = connection
        self._db.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            CREATE TABLE pictures (place INTEGER PRIMARY KEY, picture TEXT);
            CREATE TABLE names (name TEXT, place INT, PRIMARY KEY (name, place)) WITHOUT ROWID;
            CREATE TABLE columns (name TEXT PRIMARY KEY) WITHOUT ROWID;
            BEGIN;
            """
        )
        self.places = 0  # rejects included
        self.pictures = 0

    @classmethod
    @contextmanager
    def on_disk(cls, path: Path, what: str) -> Iterator[Album]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            yield cls(connection, what)

    def fill(self, each: Iterable[Picture | Skipped | Reject]) -> Iterator[Skipped | Reject]:
        """Keep all pictures; hand on what is none."""
        for one in each:
            if isinstance(one, Picture):
                self._add(one)
                continue
            self.places += isinstance(one, Reject)
            yield one

    def _add(self, picture: Picture) -> None:
        text = json.dumps(astuple(picture), default=str)
        self._db.execute("INSERT INTO pictures VALUES (?, ?)", (self.places, text))
        self._db.executemany(
            "INSERT OR IGNORE INTO names VALUES (?, ?)",
            [(name, self.places) for name in picture.names],
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO columns VALUES (?)", [(name,) for name in picture.columns]
        )
        self.places += 1
        self.pictures += 1

    def __iter__(self) -> Iterator[Picture]:
        for (text,) in self._db.execute("SELECT picture FROM pictures ORDER BY place"):
            yield _picture(text)

    def columns(self, most: int) -> list[str]:
        """Names of the columns that any of its pictures has, sorted; at most so many."""
        found = self._db.execute("SELECT name FROM columns ORDER BY name LIMIT ?", (most,))
        return [name for (name,) in found]

    def has_column(self, name: str) -> bool:
        return bool(self._db.execute("SELECT 1 FROM columns WHERE name = ?", (name,)).fetchone())

    def at(self, place: int) -> Picture | None:
        """None where a reject is."""
        row = self._db.execute("SELECT picture FROM pictures WHERE place = ?", (place,)).fetchone()
        return _picture(row[0]) if row else None

    def find(self, column: str, name: str) -> Picture:
        """The one picture that is called so. Raises BadRow about `column`."""
        return self.find_any(column, [name])

    def find_any(self, column: str, names: Sequence[str]) -> Picture:
        """The one picture that has the first of the names that any has. Raises BadRow."""
        for name in names:
            places = self._db.execute("SELECT place FROM names WHERE name = ? LIMIT 2", (name,))
            found = [self.at(place) for (place,) in places]
            if len(found) > 1:
                raise BadRow(
                    column, f"accepted: the name of one {self.what}; several: {quote(name)}"
                )
            if found and found[0] is not None:
                return found[0]
        raise BadRow(column, f"no {self.what} is called {' or '.join(map(quote, names))}")


def _picture(text: str) -> Picture:
    uri, row_id, names, mask, columns = json.loads(text)
    return Picture(uri, row_id, tuple(names), mask, columns)
