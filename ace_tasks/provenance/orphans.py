"""Our pictures that no record names: a crash between the two writes of a commit leaves them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from ace_tasks.errors import NotFound
from ace_tasks.provenance.listing import listed_item_ids
from ace_tasks.provenance.ownership import (
    MEDIA_TYPE_BY_EXTENSION,
    NamedPictures,
    PictureKey,
    check_is_output,
)
from ace_tasks.store import ObjectInfo, Store, join_uri

_ID_CHARS = 16  # characters of an item's id in the name of its picture


@dataclass(frozen=True)
class WrittenBy:
    """The items of one run and the time of its plan: limits a sweep to what it can have written."""

    starts: frozenset[str]  # of item ids, as in the names of pictures
    planned_at: datetime

    @classmethod
    def of(cls, item_ids: Iterable[str], planned_at: datetime) -> WrittenBy:
        return cls(frozenset(each[:_ID_CHARS] for each in item_ids), planned_at)

    def may_have(self, picture: PictureKey, found: ObjectInfo) -> bool:
        is_later = found.modified is not None and found.modified >= self.planned_at
        return is_later and picture.start in self.starts


@dataclass(frozen=True)
class Orphan:
    """One of our pictures without a record, and its content."""

    uri: str
    picture: PictureKey
    data: bytes


def orphans(
    store: Store, output_uri: str, before: datetime, run: WrittenBy | None = None
) -> Iterator[Orphan]:
    """Yield the pictures that are proved to be ours and that no record names.

    Pictures written after `before` are left out, because a young one may still get its record. So
    `before` must lie further back than an item can take. With `run`, only pictures that this run
    can have written count. Pictures held under `review/` are not orphans.

    Raises OutputRefused if no run has ever written there.
    """
    check_is_output(store, output_uri)
    with_record = {each[:_ID_CHARS] for each in listed_item_ids(store, output_uri, "records")}
    named = NamedPictures(store, output_uri)
    base = join_uri(output_uri, "")
    for each in chain.from_iterable(store.list(base + kind) for kind in ("images/", "candidates/")):
        picture = PictureKey.parse(each.uri.removeprefix(base))
        if (
            picture is None
            or not _is_due(each, before)
            or (run and not run.may_have(picture, each))
        ):
            continue
        # Most pictures have their record. They cost one read, and their content is not read.
        if picture.start in with_record and named.has(picture):
            continue
        try:
            now, data = store.head(each.uri), store.get(each.uri)
        except NotFound:  # deleted since it was listed
            continue
        if _is_due(now, before) and picture.holds(data) and not named.has(picture):
            yield Orphan(each.uri, picture, data)


def _is_due(found: ObjectInfo, before: datetime) -> bool:
    return found.modified is not None and found.modified < before


def delete_orphan(store: Store, output_uri: str, orphan: Orphan) -> bool:
    """Delete an orphan, and restore it if a record names it by then. Return whether it is gone.

    A run may publish the same bytes under the same key at the same moment. If its record comes
    before our check, we restore the picture. If it comes later, `Publisher.publish` finds the
    picture missing and writes it again.
    """
    store.delete(orphan.uri)
    if not NamedPictures(store, output_uri).has(orphan.picture):
        return True
    store.put(orphan.uri, orphan.data, MEDIA_TYPE_BY_EXTENSION[orphan.uri.rpartition(".")[2]])
    return False
