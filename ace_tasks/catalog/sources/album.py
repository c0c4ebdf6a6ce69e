"""Pictures kept on disk, in order and by name, so that a million take no memory."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from enum import IntEnum
from pathlib import Path

from ace_tasks.catalog.files import Reject
from ace_tasks.catalog.sources.source_picture import Skipped, SourcePicture, composed, file_name
from ace_tasks.errors import BadRow
from ace_tasks.specs import quote

_MOST_CALLED, _NAMED = 100, 3


class Rank(IntEnum):
    """The kind of name by which a picture is found. A lower rank beats a higher one."""

    WHOLE = 0  # an id, a URI, or a key under a prefix with or without its extension
    BARE = 1  # the key without the album's suffix
    FILE = 2  # the file's name with or without its extension, in any folder
    BARE_FILE = 3  # the file's name without the album's suffix


class Album:
    """The pictures of a source, in order and by name.

    Messages call a picture by `what`, such as `garment`. `suffix` matches text that may follow a
    picture's name without being part of it, such as `_mask`. A reject keeps its place in the order
    but is not a picture.
    """

    def __init__(
        self, connection: sqlite3.Connection, what: str, suffix: re.Pattern[str] | None = None
    ):
        self.what, self._suffix = what, suffix
        self._db = connection
        self._db.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            CREATE TABLE pictures (place INTEGER PRIMARY KEY, picture TEXT);
            CREATE TABLE names (name TEXT, rank INT, place INT,
                                PRIMARY KEY (name, rank, place)) WITHOUT ROWID;
            CREATE TABLE columns (name TEXT PRIMARY KEY) WITHOUT ROWID;
            BEGIN;
            """
        )
        self.places = 0  # pictures and rejects
        self.pictures = 0

    @classmethod
    @contextmanager
    def on_disk(
        cls, path: Path, what: str, suffix: re.Pattern[str] | None = None
    ) -> Iterator[Album]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            yield cls(connection, what, suffix)

    def fill(self, each: Iterable[SourcePicture | Skipped | Reject]) -> Iterator[Skipped | Reject]:
        """Keep all pictures, and yield the rest."""
        for one in each:
            if isinstance(one, SourcePicture):
                self._add(one)
                continue
            self.places += isinstance(one, Reject)
            yield one

    def _add(self, picture: SourcePicture) -> None:
        text = json.dumps(astuple(picture), default=str)
        self._db.execute("INSERT INTO pictures VALUES (?, ?)", (self.places, text))
        self._db.executemany(
            "INSERT OR IGNORE INTO names VALUES (?, ?, ?)",
            [(name, rank, self.places) for rank, name in _names(picture, self._suffix)],
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO columns VALUES (?)", [(name,) for name in picture.columns]
        )
        self.places += 1
        self.pictures += 1

    def __iter__(self) -> Iterator[SourcePicture]:
        for (text,) in self._db.execute("SELECT picture FROM pictures ORDER BY place"):
            yield _picture(text)

    def columns(self, most: int) -> list[str]:
        """Return the names of all columns of its pictures, sorted, at most `most` of them."""
        found = self._db.execute("SELECT name FROM columns ORDER BY name LIMIT ?", (most,))
        return [name for (name,) in found]

    def has_column(self, name: str) -> bool:
        return bool(self._db.execute("SELECT 1 FROM columns WHERE name = ?", (name,)).fetchone())

    def at(self, place: int) -> SourcePicture | None:
        """Return the picture at a place, or None if it was rejected."""
        row = self._db.execute("SELECT picture FROM pictures WHERE place = ?", (place,)).fetchone()
        return _picture(row[0]) if row else None

    def find(self, column: str, name: str) -> SourcePicture:
        """Return the only picture with this name, or with this file name in any folder.

        Raises BadRow about `column` if there is none, or more than one.
        """
        found = self.called(name)
        if not found:
            raise BadRow(column, f"no {self.what} is called {quote(name)}")
        if len(found) > 1:
            raise self.several(column, name, found)
        return found[0]

    def called(self, name: str, last: Rank = Rank.BARE_FILE) -> list[SourcePicture]:
        """Return the pictures with this name, of the best rank that has any, at most 100.

        Ranks after `last` do not count. Names are compared in Unicode's form NFC.
        """
        name = composed(name)
        rank = self._db.execute(
            "SELECT MIN(rank) FROM names WHERE name = ? AND rank <= ?", (name, last)
        ).fetchone()[0]
        places = self._db.execute(
            "SELECT place FROM names WHERE name = ? AND rank = ? ORDER BY place LIMIT ?",
            (name, rank, _MOST_CALLED),
        ).fetchall()
        return [each for (place,) in places if (each := self.at(place)) is not None]

    def several(self, column: str, name: str, found: Sequence[SourcePicture]) -> BadRow:
        return BadRow(
            column,
            f"accepted: the name of one {self.what}; {quote(name)} may be {listed(found)}",
        )


def listed(found: Sequence[SourcePicture]) -> str:
    """Return the URIs of the first few pictures, for a message."""
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(quote(each.uri) for each in found[:_NAMED]) + more


def _names(picture: SourcePicture, suffix: re.Pattern[str] | None) -> Iterator[tuple[Rank, str]]:
    """Yield every name that a picture may be called by, with its rank."""
    for name in picture.names:
        yield Rank.WHOLE, composed(name)
    file, stem = picture.uri.rpartition("/")[2], file_name(picture.uri)
    yield Rank.FILE, composed(file)
    yield Rank.FILE, composed(stem)
    bare = suffix.sub("", stem) if suffix else ""
    if bare and bare != stem:
        folder = f"{picture.folder}/" if picture.folder else ""
        yield Rank.BARE, composed(folder + bare)
        yield Rank.BARE_FILE, composed(bare)


def _picture(text: str) -> SourcePicture:
    uri, row_id, names, mask, columns, folder, where = json.loads(text)
    return SourcePicture(uri, row_id, tuple(names), mask, columns, folder, where)
