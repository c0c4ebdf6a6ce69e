"""Identities of sources from listings, where a listing says enough.

A HEAD tells one object and costs a thousand times what an object costs in a listing. A listing
tells the ETag and the size of an object, but not its SHA-256, which identifies it where there is
one. AWS's listings name the checksums that an object has, so they tell which objects to ask about.

A prefix is listed once, from the smallest source that the catalog has named under it. A listing is
used only if

- the catalog has named `_LISTED_FROM` sources under the prefix,
- it goes no further than `_KEYS_A_SOURCE` keys for each of them, because a catalog may name a small
  share of a large bucket,
- it names a checksum of some object, and
- it agrees with what HEADs told of `_AGREED` sources.

Every other source is asked about by a HEAD.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import islice

from ace_tasks.errors import AceError
from ace_tasks.specs import Source
from ace_tasks.store import ObjectInfo, Store, is_s3, split_uri

log = logging.getLogger(__name__)

_LISTED_FROM = 1000  # a page of a listing has as many keys
_KEYS_A_SOURCE = 10
_AGREED = 100
_NOTHING_NAMED = 2000  # keys without a named checksum, after which a listing is given up
_PAGES_AT_ONCE = 20
_PAGE_KEYS = 1000
_FOUND_AT_ONCE = 500  # SQLite's own limit was 999 until 2020
_FOLDERS = 100_000  # folders that are counted at once


class SourceListings:
    """The listings of one plan, in a temporary file. Only one thread may use them.

    `pool` fetches the next page of a listing while the rows of the one before are processed.
    """

    def __init__(self, store: Store, pool: Executor):
        self._store, self._pool = store, pool
        self._listings: dict[str, _Listing] = {}  # by prefix
        self._sources: dict[str, _Named] = {}  # of prefixes without a listing
        self._not_listed: set[str] = set()  # buckets whose listings are of no use
        self._objects = sqlite3.connect("", isolation_level=None)  # a temporary file
        self._objects.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000;
            CREATE TABLE objects (uri TEXT PRIMARY KEY, etag TEXT, size INT, sha256 INT)
            WITHOUT ROWID;
            """
        )

    def close(self) -> None:
        self._objects.close()

    def find(self, uris: list[str]) -> list[Source]:
        """Return those of new sources that a listing identifies, and list further where it pays."""
        wanted: dict[str, list[str]] = {}
        for folder, named in _by_folder(uris).items():
            listing = self._listing_of(folder, named)
            if listing:
                wanted.setdefault(listing.prefix, []).extend(named)
        found: list[Source] = []
        for prefix, named in wanted.items():
            listing = self._listings[prefix]
            self._list_up_to(listing, max(named))
            if listing.is_trusted:
                found += self._identified(named)
        return found

    def compare(self, sources: Iterable[Source]) -> None:
        """Compare what HEADs told of some sources with what listings told of them."""
        if not self._listings:
            return
        for source in sources:
            listing = self._listed_prefix(source.uri.rpartition("/")[0])
            if listing and not source.problem:
                self._compare(listing, source)

    # ------------------------------------------------------------ which prefixes are listed

    def _listing_of(self, folder: str, named: list[str]) -> _Listing | None:
        """Count sources of a folder. Return the listing that they belong to, begun if it pays."""
        if split_uri(f"{folder}/")[0] in self._not_listed:
            return None
        if listing := self._listed_prefix(folder):
            listing.sources += len(named)
            return listing
        prefixes = list(_prefixes(folder))
        for prefix in prefixes:
            counted = self._sources.setdefault(prefix, _Named())
            counted.add(named)
        for at, prefix in enumerate(prefixes):  # the deepest is the smallest
            count = self._sources[prefix].count
            if count >= _LISTED_FROM:
                for above in prefixes[at:]:
                    self._sources[above].count -= count
                return self._begin(prefix, count)
        if len(self._sources) > _FOLDERS:
            self._sources.clear()
        return None

    def _listed_prefix(self, folder: str) -> _Listing | None:
        return next(filter(None, map(self._listings.get, _prefixes(folder))), None)

    def _begin(self, prefix: str, count: int) -> _Listing:
        smallest = self._sources.pop(prefix).smallest
        objects = self._store.list(prefix, after=smallest)
        listing = _Listing(prefix, objects, self._pool, count, position=smallest)
        self._listings[prefix] = listing
        return listing

    # ------------------------------------------------------------ what they tell

    def _list_up_to(self, listing: _Listing, uri: str) -> None:
        """List further until `uri` is passed, as far as it pays."""
        for _ in range(_PAGES_AT_ONCE):
            if uri <= listing.position or not listing.pays:
                return
            try:
                page = listing.next_page()
            except AceError as error:
                self._give_up(listing, str(error))
                return
            self._objects.execute("BEGIN")
            self._objects.executemany(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)",
                ((each.uri, each.etag, each.size_bytes, each.has_sha256) for each in page),
            )
            self._objects.execute("COMMIT")
            if not listing.names_checksums and listing.keys >= _NOTHING_NAMED:
                self._give_up(listing, "it names no checksum of any object")

    def _identified(self, uris: list[str]) -> Iterator[Source]:
        for start in range(0, len(uris), _FOUND_AT_ONCE):
            part = uris[start : start + _FOUND_AT_ONCE]
            names = ",".join("?" * len(part))
            query = f"SELECT uri, etag, size FROM objects WHERE uri IN ({names}) AND NOT sha256"
            for uri, etag, size_bytes in self._objects.execute(query, part):
                yield Source(uri=uri, etag=etag, size_bytes=size_bytes)

    def _find(self, uri: str) -> tuple[str, int, bool] | None:
        query = "SELECT etag, size, sha256 FROM objects WHERE uri = ?"
        found: tuple[str, int, bool] | None = self._objects.execute(query, (uri,)).fetchone()
        return found

    def _compare(self, listing: _Listing, source: Source) -> None:
        found = self._find(source.uri)
        if not found:
            return
        etag, size_bytes, has_sha256 = found
        if (etag, size_bytes) != (source.etag, source.size_bytes):
            self._give_up(listing, f"it tells another ETag or size of {source.uri}")
        elif source.sha256 and not has_sha256:
            self._give_up(listing, f"it does not name the SHA-256 of {source.uri}")
        else:
            listing.agreed += 1

    def _give_up(self, listing: _Listing, reason: str) -> None:
        """List nothing more in a bucket, and ask about its sources by HEADs."""
        bucket, _ = split_uri(listing.prefix)
        log.info("the listing of %s is not used: %s", listing.prefix, reason)
        self._not_listed.add(bucket)
        self._listings = {k: v for k, v in self._listings.items() if split_uri(k)[0] != bucket}
        listing.ended, listing.agreed = True, 0


@dataclass
class _Named:
    """The sources that the catalog has named under a prefix."""

    count: int = 0
    smallest: str = ""

    def add(self, uris: list[str]) -> None:
        self.count += len(uris)
        smallest = min(uris)
        self.smallest = min(self.smallest or smallest, smallest)


@dataclass
class _Listing:
    """A listing that goes on as sources beyond its position are asked for."""

    prefix: str
    objects: Iterator[ObjectInfo]
    pool: Executor
    sources: int  # that the catalog has named under the prefix
    position: str  # the last URI that it passed
    keys: int = 0
    agreed: int = 0  # sources of which a HEAD told the same
    names_checksums: bool = False
    ended: bool = False
    ahead: Future[list[ObjectInfo]] | None = None

    @property
    def pays(self) -> bool:
        return not self.ended and self.keys < _KEYS_A_SOURCE * self.sources

    @property
    def is_trusted(self) -> bool:
        return self.names_checksums and self.agreed >= _AGREED

    def next_page(self) -> list[ObjectInfo]:
        """Return the next objects, and have those after them fetched. Raises AceError."""
        page = (self.ahead or self._fetch()).result()
        self.keys += len(page)
        self.names_checksums |= any(each.checksums for each in page)
        self.ended = len(page) < _PAGE_KEYS
        if page:
            self.position = page[-1].uri
        self.ahead = None if self.ended else self._fetch()
        return page

    def _fetch(self) -> Future[list[ObjectInfo]]:
        return self.pool.submit(lambda: list(islice(self.objects, _PAGE_KEYS)))


def _by_folder(uris: list[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = {}
    for uri in filter(is_s3, uris):
        folders.setdefault(uri.rpartition("/")[0], []).append(uri)
    return folders


def _prefixes(folder: str) -> Iterator[str]:
    """Yield a folder and those above it, to the bucket, each as a prefix of a listing."""
    while len(folder) > len("s3:/"):
        yield f"{folder}/"
        folder = folder.rpartition("/")[0]
