"""The links of a product feed: where each is written, which picture it names, and its new link.

They are kept on disk, so that a feed of any size takes no memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, Self
from xml.sax.saxutils import escape

from ace_tasks.catalog.files import Reject, Row
from ace_tasks.catalog.readers.cell_text import FEED_LINKS
from ace_tasks.catalog.readers.encodings import HEAD_BYTES, table_codec, xml_codec
from ace_tasks.catalog.readers.header import plain_name
from ace_tasks.catalog.readers.packed import open_file, readable
from ace_tasks.catalog.readers.splice import Change, splice
from ace_tasks.catalog.sources.pictures import SourcePlace, read_table
from ace_tasks.catalog.sources.prefixes import FEEDS, suffix_of
from ace_tasks.catalog.sources.source_picture import SourcePicture
from ace_tasks.catalog.sources.tables import TableReader
from ace_tasks.errors import BadRow, BrokenRun, CatalogError
from ace_tasks.specs import quote

_WRITTEN = FEEDS | {".csv", ".tsv", ".txt"}
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class FeedPicture:
    """A picture of a product, however often the product names it.

    `link` is the first link to it, and `uri` where it is on S3. `row_id` is the row that a restyle
    makes of it, or None if it makes none, such as for a link that is `rejected`. `line` is where
    the feed names it first. A row that cannot be read counts as one picture without product and
    link.
    """

    number: int
    product: str
    link: str
    uri: str
    line: int
    row_id: str | None
    rejected: bool


def check_feed(uri: str) -> None:
    """Raise CatalogError for a file that can be no feed of a shop, by its name."""
    if suffix_of(uri) not in _WRITTEN or uri.endswith("/"):
        raise CatalogError(
            f"source: accepted: a feed that ends in one of {', '.join(sorted(_WRITTEN))}, each also "
            f"with .gz; given {quote(uri)}"
        )


class FeedLinks:
    """The links of one feed. It is a context manager, and leaving it deletes its file."""

    def __init__(self, place: SourcePlace, path: Path):
        check_feed(place.uri)
        self._place, self._path = place, path
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            CREATE TABLE pictures (number INTEGER PRIMARY KEY, product TEXT, uri TEXT, link TEXT,
                                   line INT, row_id TEXT, new TEXT, UNIQUE (product, uri));
            CREATE TABLE spans (start INTEGER PRIMARY KEY, end INT, first INT, escaped INT,
                                number INT);
            CREATE TABLE rejects (line INTEGER PRIMARY KEY);
            BEGIN;
            """
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    # ------------------------------------------------------------ reading

    def read(self) -> None:
        """Read the feed. Raises CatalogError if it cannot be read, or is no feed of a shop."""
        place = self._place
        table = TableReader(
            place.uri, place.links, place.allowed_buckets, main_only=place.main_only, once=True
        )
        rows = read_table(place, self._path, texts=True)
        for each in table.read(self._note(rows, table)):
            if isinstance(each, SourcePicture):
                self._db.execute(
                    "INSERT INTO pictures (product, uri, row_id) VALUES (?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET row_id = excluded.row_id",
                    (table.product(each.columns), each.uri, each.row_id),
                )
            elif isinstance(each, Reject):
                self._db.execute("INSERT OR IGNORE INTO rejects VALUES (?)", (each.line,))
        self._db.execute(
            "INSERT INTO pictures (product, uri, link, line) SELECT '', 'line ' || line, '', line "
            "FROM rejects WHERE line NOT IN (SELECT line FROM pictures WHERE line NOT NULL)"
        )
        if not table.is_feed:
            raise CatalogError(
                "source: accepted: a product feed of Google Merchant or Shopify; "
                f"{quote(place.uri)} is another table"
            )

    def _note(self, rows: Iterable[Row | Reject], table: TableReader) -> Iterator[Row | Reject]:
        """Yield the rows, and keep the links of each once the table has read it."""
        for row in rows:
            yield row
            if isinstance(row, Row) and table.is_feed:
                self._keep(row, table)

    def _keep(self, row: Row, table: TableReader) -> None:
        product = table.product(table.trimmed(row.cells))
        for cell in row.texts:
            for begin, end in table.links_in(cell.text):
                link = cell.text[begin:end]
                try:
                    uri = table.resolve(plain_name(cell.name), link)
                except BadRow:
                    uri = link  # no picture has it
                number = self._number(product, uri, link, row.line)
                for n, span in enumerate(cell.spans(begin, end)):
                    self._db.execute(
                        "INSERT INTO spans VALUES (?, ?, ?, ?, ?)",
                        (span.start, span.end, n == 0, span.escaped, number),
                    )

    def _number(self, product: str, uri: str, link: str, line: int) -> int:
        found = self._db.execute(
            "INSERT INTO pictures (product, uri, link, line) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET link = COALESCE(link, excluded.link), "
            "line = COALESCE(line, excluded.line) RETURNING number",
            (product, uri, link, line),
        )
        return int(found.fetchone()[0])

    # ------------------------------------------------------------ pictures

    def pictures(self) -> Iterator[FeedPicture]:
        """Yield every picture of every product, in the order of the feed."""
        last = 0
        while True:
            found = self._db.execute(
                "SELECT number, product, link, uri, line, row_id, row_id IS NULL AND line IN "
                "(SELECT line FROM rejects) FROM pictures WHERE number > ? AND link NOT NULL "
                "ORDER BY number LIMIT ?",
                (last, _AT_ONCE),
            ).fetchall()
            for number, product, link, uri, line, row_id, rejected in found:
                yield FeedPicture(number, product, link, uri, line, row_id, bool(rejected))
            if not found:
                return
            last = found[-1][0]

    def replace(self, picture: FeedPicture, link: str) -> None:
        """Give a picture a new link, wherever its product names it. It is an ASCII URL."""
        self._db.execute("UPDATE pictures SET new = ? WHERE number = ?", (link, picture.number))

    # ------------------------------------------------------------ writing

    def write(self, out: IO[bytes]) -> None:
        """Write the feed, unpacked, with the new links. No other byte differs."""
        with readable(self._path.name), open_file(self._path) as source:
            head = source.read(HEAD_BYTES)
            source.seek(0)
            is_xml = suffix_of(self._place.uri) in FEEDS
            codec = (xml_codec if is_xml else table_codec)(head, self._place.encoding)
            splice(source, codec, self._changes(), out)

    def _changes(self) -> Iterator[Change]:
        spans = self._db.execute(
            "SELECT start, end, first, escaped, new FROM spans JOIN pictures USING (number) "
            "WHERE new NOT NULL ORDER BY start"
        )
        for start, end, first, escaped, new in spans:
            text = new if first else ""
            yield Change(start, end, escape(text) if escaped else text)

    def check(self, written: Path) -> None:
        """Raise BrokenRun if the feed that was written differs in anything but its links."""
        pairs = zip_longest(read_table(self._place, self._path), read_table(self._place, written))
        for old, new in pairs:
            if _without_links(old) != _without_links(new):
                line = old.line if old else new.line
                raise BrokenRun(
                    f"{quote(self._place.uri)}: line {line} would differ in more than its links; "
                    "nothing was written"
                )


def _without_links(row: Row | Reject | None) -> object:
    if isinstance(row, Row):
        cells = {n: each for n, each in row.cells.items() if plain_name(n) not in FEED_LINKS}
        return row.line, row.lines, row.cells.keys(), cells
    return (row.line, row.lines, row.field) if row else None
