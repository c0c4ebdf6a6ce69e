"""The rows of a run by their id and their source, on disk, for the pictures of a feed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ace_tasks.catalog.files import Row
from ace_tasks.catalog.generated import read_made
from ace_tasks.catalog.sources.feed_links import FeedPicture
from ace_tasks.runs.published import FinishedPicture
from ace_tasks.runs.row_pictures import RowPicture

NOT_IN_RUN, REJECTED = "not_in_run", "rejected"


@dataclass(frozen=True, slots=True)
class FoundRow:
    """The row of a run that edited a feed's picture, with its item and its new picture."""

    row_id: str
    item_id: str
    picture: FinishedPicture


@dataclass(frozen=True, slots=True)
class MissingRow:
    """The reason, as a code, for which a feed's picture has no new one; and its row, if any."""

    reason: str
    row_id: str | None = None
    item_id: str | None = None


class FeedRows:
    """The rows of one run. It is a context manager, and leaving it deletes its file."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            CREATE TABLE rows (row_id TEXT PRIMARY KEY, source TEXT, item_id TEXT, uri TEXT,
                               sha256 TEXT, reason TEXT) WITHOUT ROWID;
            CREATE INDEX by_source ON rows (source);
            BEGIN;
            """
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, catalog: Path, rows: Iterable[RowPicture]) -> None:
        """Add the rows of the catalog that a run generated, and their pictures."""
        self._db.executemany(
            "INSERT OR IGNORE INTO rows (row_id, source) VALUES (?, ?)", _sources(catalog)
        )
        for each in rows:
            uri, sha256 = (each.picture.uri, each.picture.sha256) if each.picture else (None, None)
            self._db.execute(
                "UPDATE rows SET item_id = ?, uri = ?, sha256 = ?, reason = ? WHERE row_id = ?",
                (each.item_id, uri, sha256, each.reason, each.row_id),
            )

    def find(self, picture: FeedPicture) -> FoundRow | MissingRow:
        """Return the row that edited a feed's picture, or the reason for no new picture.

        A feed that changed since the run may call the row otherwise. Then all rows of the same
        source must have been one edit.
        """
        if picture.row_id is None:
            return MissingRow(REJECTED if picture.rejected else NOT_IN_RUN)
        columns = "SELECT row_id, item_id, uri, sha256, reason FROM rows WHERE source = ? "
        found = self._db.execute(
            columns + "AND row_id = ?", (picture.uri, picture.row_id)
        ).fetchall()
        if not found:
            found = self._db.execute(columns + "ORDER BY uri IS NULL", (picture.uri,)).fetchall()
        if not found or len({item_id for _, item_id, *_ in found if item_id}) > 1:
            return MissingRow(NOT_IN_RUN)
        row_id, item_id, uri, sha256, reason = found[0]
        if uri is None:
            return MissingRow(reason or NOT_IN_RUN, row_id, item_id)
        return FoundRow(row_id, item_id, FinishedPicture(uri, sha256))


def _sources(catalog: Path) -> Iterator[tuple[str, str]]:
    for each in read_made(catalog):
        if isinstance(each, Row) and {"id", "image"} <= each.cells.keys():
            yield each.cells["id"], each.cells["image"]
