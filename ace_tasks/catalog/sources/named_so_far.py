"""The pictures and ids that a table has named so far, on disk, so that they take no memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class PendingPicture:
    """A picture that waits for a decision until the whole table is read."""

    product: str
    number: int
    line: int
    column: str
    link: str
    alone: bool  # its line names no other picture
    cells: dict[str, Any]


class NamedSoFar:
    """The pictures and ids that one table has named.

    It is a context manager, and leaving it deletes its file.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            CREATE TABLE pictures (product TEXT, uri TEXT, mask TEXT, line INT,
                                   PRIMARY KEY (product, uri, mask)) WITHOUT ROWID;
            CREATE TABLE ids (row_id TEXT PRIMARY KEY, line INT) WITHOUT ROWID;
            CREATE TABLE products (product TEXT PRIMARY KEY, count INT) WITHOUT ROWID;
            CREATE TABLE held (place INTEGER PRIMARY KEY, product TEXT, number INT, line INT,
                               name TEXT, link TEXT, alone INT, cells TEXT);
            BEGIN;
            """
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def line_of_picture(self, product: str, uri: str, mask: Any) -> int | None:
        """Return the line that named this picture of the product with this mask, or None."""
        key = (product, uri, json.dumps(mask, default=str, sort_keys=True))
        return self._one("SELECT line FROM pictures WHERE (product, uri, mask) = (?, ?, ?)", key)

    def line_of_id(self, row_id: str) -> int | None:
        return self._one("SELECT line FROM ids WHERE row_id = ?", (row_id,))

    def add_picture(self, product: str, uri: str, mask: Any, line: int) -> None:
        key = (product, uri, json.dumps(mask, default=str, sort_keys=True))
        self._db.execute("INSERT INTO pictures VALUES (?, ?, ?, ?)", (*key, line))

    def add_id(self, row_id: str, line: int) -> None:
        self._db.execute("INSERT INTO ids VALUES (?, ?)", (row_id, line))

    def count(self, product: str) -> int:
        return self._one("SELECT count FROM products WHERE product = ?", (product,)) or 0

    def count_up(self, product: str) -> None:
        self._db.execute(
            "INSERT INTO products VALUES (?, 1) "
            "ON CONFLICT (product) DO UPDATE SET count = count + 1",
            (product,),
        )

    def hold(self, held: PendingPicture) -> None:
        cells = json.dumps(held.cells, default=str)
        row = (held.product, held.number, held.line, held.column, held.link, held.alone, cells)
        self._db.execute("INSERT INTO held VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row)

    def held(self) -> Iterator[PendingPicture]:
        """Yield the pending pictures in the order in which they were held."""
        yield from self._held("SELECT * FROM held ORDER BY place")

    def held_by_product(self) -> Iterator[PendingPicture]:
        """Yield the pending pictures by product, each product's lowest number first.

        Products come in the order of their first lines.
        """
        yield from self._held(
            "SELECT held.* FROM held JOIN (SELECT product, MIN(place) AS first FROM held "
            "GROUP BY product) USING (product) ORDER BY first, number, place"
        )

    def _held(self, query: str) -> Iterator[PendingPicture]:
        for _, product, number, line, column, link, alone, cells in self._db.execute(query):
            yield PendingPicture(
                product, number, line, column, link, bool(alone), json.loads(cells)
            )

    def _one(self, query: str, key: tuple[Any, ...]) -> int | None:
        found = self._db.execute(query, key).fetchone()
        return int(found[0]) if found else None
