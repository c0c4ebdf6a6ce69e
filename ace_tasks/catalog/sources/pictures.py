"""The pictures of any source, in order, streamed so that a million need no more memory than ten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ace_tasks.catalog.files import Reject, Row, Table, open_catalog, read_rows
from ace_tasks.catalog.sources.links import Links
from ace_tasks.catalog.sources.merchant import read_feed
from ace_tasks.catalog.sources.prefixes import (
    FEEDS,
    check_encoding,
    check_place,
    is_prefix,
    suffix_of,
)
from ace_tasks.catalog.sources.source_picture import (
    SUFFIXES,
    Skipped,
    SourcePicture,
    row_id_of,
    why_skipped,
)
from ace_tasks.catalog.sources.tables import TableReader
from ace_tasks.errors import CatalogError, StoreError
from ace_tasks.store import Store, split_uri
from ace_tasks.wording import counted


@dataclass(frozen=True)
class SourcePlace:
    """A place with pictures, as a parameter names it. Raises SettingsError if it is invalid."""

    parameter: str
    uri: str
    links: Links | None = None
    allowed_buckets: tuple[str, ...] | None = None  # that a table may name, as for a catalog
    main_only: bool = False
    once: bool = False  # skip repeated pictures in tables of kind own as well
    encoding: str = ""  # of a file's text. Empty: UTF-8, or as XML declares

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", check_place(self.parameter, self.uri))
        check_encoding(self.encoding)


def pictures(place: SourcePlace, store: Store) -> Iterator[SourcePicture | Skipped | Reject]:
    """Yield the pictures of a prefix in key order, or those of a file in its order.

    Raises CatalogError if the place cannot be read, or if a prefix contains no picture.
    """
    if is_prefix(place.uri):
        yield from _of_prefix(place, store)
        return
    table = TableReader(
        place.uri, place.links, place.allowed_buckets, main_only=place.main_only, once=place.once
    )
    with open_catalog(place.uri, store) as file:
        yield from table.read(read_table(place, file))


def read_table(place: SourcePlace, path: Path, *, texts: bool = False) -> Iterator[Row | Reject]:
    """Yield the rows of a place that is a table or feed, from its local copy.

    With `texts`, rows of XML, CSV and TSV tell where their links are written. Raises CatalogError.
    """
    if suffix_of(place.uri) in FEEDS:
        return read_feed(path, place.encoding, texts=texts)
    return read_rows(path, Table(catalog=False, encoding=place.encoding, texts=texts))


def _of_prefix(place: SourcePlace, store: Store) -> Iterator[SourcePicture | Skipped]:
    prefix = split_uri(place.uri)[1]
    found = others = 0
    try:
        for each in store.list(place.uri):
            key = split_uri(each.uri)[1].removeprefix(prefix)
            if why := why_skipped(key):
                others += 1
                yield Skipped(key, why)
                continue
            found += 1
            stem = key[: key.rindex(".")]
            folder = key.rpartition("/")[0]
            yield SourcePicture(each.uri, row_id_of(key), (stem, key, each.uri), folder=folder)
    except StoreError as error:
        raise CatalogError(f"{place.parameter}: {error}") from None
    if not found:
        raise CatalogError(
            f"{place.parameter}: no picture under {place.uri} (accepted: "
            f"{', '.join(sorted(SUFFIXES))}); {counted(others, 'other file')}"
        )
