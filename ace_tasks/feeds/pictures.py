"""The pictures of any source, in order, streamed: a million take no more memory than ten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ace_tasks.catalog import Reject, Table, open_catalog, read_rows
from ace_tasks.errors import CatalogError, StoreError
from ace_tasks.feeds.links import Links
from ace_tasks.feeds.merchant import read_feed
from ace_tasks.feeds.picture import SUFFIXES, Picture, Skipped, is_picture, row_id_of
from ace_tasks.feeds.places import FEEDS, check_place, is_prefix, suffix_of
from ace_tasks.feeds.tables import TableReader
from ace_tasks.store import Store, split_uri


@dataclass(frozen=True)
class Place:
    """Where pictures are, as a parameter names it. Raises SettingsError for what is no place."""

    parameter: str
    uri: str
    links: Links | None = None
    allowed_buckets: tuple[str, ...] | None = None  # of tables, as of a catalog
    main_only: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", check_place(self.parameter, self.uri))


def pictures(place: Place, store: Store) -> Iterator[Picture | Skipped | Reject]:
    """Of a prefix, in key order; of a file, in its order.

    Raises CatalogError when the place as a whole cannot be read, or a prefix holds no picture.
    """
    if is_prefix(place.uri):
        yield from _of_prefix(place, store)
        return
    table = TableReader(place.uri, place.links, place.allowed_buckets, main_only=place.main_only)
    with open_catalog(place.uri, store) as file:
        xml = suffix_of(place.uri) in FEEDS
        yield from table.read(read_feed(file) if xml else read_rows(file, Table(catalog=False)))


def _of_prefix(place: Place, store: Store) -> Iterator[Picture | Skipped]:
    prefix = split_uri(place.uri)[1]
    found = others = 0
    try:
        for each in store.list(place.uri):
            key = split_uri(each.uri)[1].removeprefix(prefix)
            if not is_picture(key):
                others += 1
                yield Skipped(key)
                continue
            found += 1
            stem = key[: key.rindex(".")]
            yield Picture(each.uri, row_id_of(key), (stem, key, each.uri))
    except StoreError as error:
        raise CatalogError(f"{place.parameter}: {error}") from None
    if not found:
        raise CatalogError(
            f"{place.parameter}: no picture under {place.uri} (accepted: "
            f"{', '.join(sorted(SUFFIXES))}); {others} other files"
        )
