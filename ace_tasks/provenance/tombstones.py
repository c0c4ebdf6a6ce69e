"""Tombstones: hashes under an output of what must stay forgotten. Every plan honours them.

A tombstone names nothing: its key is a hash of what identified a source or an item.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from ace_tasks import errors
from ace_tasks.errors import NotFound
from ace_tasks.provenance.keys import tombstone_key
from ace_tasks.specs import Identified, Source, canonical_json
from ace_tasks.store import Store, join_uri


def of_item(item_id: str) -> str:
    return _digest({"item_id": item_id})


def of_source(
    sha256: str | None = None, etag: str | None = None, size_bytes: int = 0
) -> Iterator[str]:
    """Yield a digest for each way in which a plan may know these bytes."""
    if sha256:
        yield _digest({"sha256": sha256})
    if etag:
        yield _digest({"etag": etag, "size_bytes": size_bytes})


def _digest(identity: dict[str, object]) -> str:
    return hashlib.sha256(b"forgotten " + canonical_json(identity)).hexdigest()


@dataclass(frozen=True)
class Tombstones:
    """The tombstones under an output."""

    digests: frozenset[str] = frozenset()

    @classmethod
    def read(cls, store: Store, output_uri: str) -> Tombstones:
        place = join_uri(output_uri, "forgotten/")
        names = (each.uri.rpartition("/")[2] for each in store.list(place))
        return cls(frozenset(name.removesuffix(".json") for name in names))

    def covers(self, row: Identified) -> bool:
        """Return whether the row's item or one of its sources must not be made again.

        An item is known by its ids under earlier versions of the code as well.
        """
        if not self.digests:
            return False
        if any(of_item(each) in self.digests for each in (row.item_id, *row.earlier_ids)):
            return True
        return any(digest in self.digests for each in row.sources.each() for digest in _of(each))


@dataclass(frozen=True)
class Guard:
    """A check when an item is made: a plan may be old, or know a source only by its ETag.

    `run_id` is the run that makes the item. Raises errors.Forgotten and StoreUnavailable.
    """

    store: Store
    output_uri: str
    run_id: str

    def check_item(self, item_id: str) -> None:
        if self._has_tombstone(of_item(item_id)):
            raise errors.Forgotten("was forgotten, so it is not made again")

    def check_content(self, source: Source, sha256: str, size_bytes: int) -> None:
        """Raise Forgotten for a forgotten source, and write tombstones that the next plan knows."""
        if self._has_tombstone(*of_source(sha256)):
            digests = of_source(sha256, source.etag, size_bytes)
            write_tombstones(self.store, self.output_uri, digests, by=self.run_id)
            raise errors.Forgotten("its source was forgotten, so it is not made again")

    def _has_tombstone(self, digest: str) -> bool:
        try:
            self.store.head(join_uri(self.output_uri, tombstone_key(digest)))
        except NotFound:
            return False
        return True


def _of(source: Source) -> Iterator[str]:
    return of_source(source.sha256, source.etag, source.size_bytes)


NOTHING_FORGOTTEN = Tombstones()


def write_tombstones(store: Store, output_uri: str, digests: Iterable[str], by: str) -> None:
    """Write a tombstone for each digest. `by` is the flow run that writes them."""
    body = json.dumps({"forgotten_at": datetime.now(UTC).isoformat(), "by": by}).encode()
    for digest in digests:
        store.put_if_absent(join_uri(output_uri, tombstone_key(digest)), body, "application/json")
