"""The pictures of any source, in order, streamed: a million take no more memory than ten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ace_tasks.catalog.files import Reject, Table, open_catalog, read_rows
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


@dataclass(frozen=True)
class SourcePlace:
    """Where pictures are, as a parameter names it. Raises SettingsError for what is no place."""

    parameter: str
    uri: str
    links: Links | None = None
    allowed_buckets: tuple[str, ...] | None = None  # of tables, as of a catalog
    main_only: bool = False
    once: bool = False  # of a table of one's own: the same picture with the same id is one
    encoding: str = ""  # of its text; empty: UTF-8, and XML as it declares

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", check_place(self.parameter, self.uri))
        check_encoding(self.encoding)


def pictures(place: SourcePlace, store: Store) -> Iterator[SourcePicture | Skipped | Reject]:
    """Of a prefix, in key order; of a file, in its order.

    Raises CatalogError when the place as a whole cannot be read, or a prefix holds no picture.
    """
    if is_prefix(place.uri):
        yield from _of_prefix(place, store)
        return
    table = TableReader(
        place.uri, place.links, place.allowed_buckets, main_only=place.main_only, once=place.once
    )
    with open_catalog(place.uri, store) as file:
        if suffix_of(place.uri) in FEEDS:
            yield from table.read(read_feed(file, place.encoding))
        else:
            yield from table.read(read_rows(file, Table(catalog=False, encoding=place.encoding)))


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
            f"{', '.join(sorted(SUFFIXES))}); {others} other files"
        )
