"""What lies under an output URI: items that have a record, pictures that have none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Literal, NamedTuple

from ace_tasks.provenance.keys import review_prefix
from ace_tasks.provenance.records import Record
from ace_tasks.store import ObjectInfo, Store, join_uri, split_uri

_LISTINGS = 16  # side by side


def listed_item_ids(
    store: Store, output_uri: str, kind: Literal["records", "failures"]
) -> Iterator[str]:
    """The item id of every record or failure under an output URI, by many listings side by side:
    one listing answers a thousand keys at a time, and knows where to go on only then.
    """

    def under(place: str) -> list[str]:
        keys = (split_uri(each.uri)[1] for each in store.list(place))
        return [key.rpartition("/")[2].removesuffix(".json") for key in keys]

    places = (join_uri(output_uri, f"{kind}/{number:02x}/") for number in range(256))
    with store.in_parallel(_LISTINGS) as pool:
        yield from chain.from_iterable(pool.map(under, places))


def orphan_pictures(store: Store, output_uri: str, before: datetime) -> Iterator[ObjectInfo]:
    """Pictures and candidates that no record names, last written before `before`.

    A crash between the writes of a commit leaves them. A young picture may still get its record,
    so `before` must lie further back than an item can take. Each is looked at again just before
    it is given, since a run may have gone on meanwhile. What waits under `review/` is no orphan.
    """
    with_record = {each[:16] for each in listed_item_ids(store, output_uri, "records")}
    named = _NamedPictures(store, output_uri)
    for each in chain.from_iterable(
        store.list(join_uri(output_uri, kind)) for kind in ("images/", "candidates/")
    ):
        if each.modified is None or each.modified >= before:
            continue
        picture = _PictureKey.of(each.uri)
        if picture.start in with_record and picture in named.by_records(picture.start):
            continue
        now = store.head(each.uri).modified
        if now is not None and now < before and not named.knows(picture):
            yield each


class _PictureKey(NamedTuple):
    """`…/images/<row>/<file>` → its last three parts: the same wherever the output lies."""

    kind: str
    row_id: str
    file: str

    @classmethod
    def of(cls, uri: str) -> _PictureKey:
        return cls(*uri.rsplit("/", 3)[-3:])

    @property
    def start(self) -> str:
        """Of the item id."""
        return self.file.partition(".")[0]


@dataclass(frozen=True)
class _NamedPictures:
    """The pictures that records name, by the start of their item id; read afresh each time."""

    store: Store
    output_uri: str

    def knows(self, picture: _PictureKey) -> bool:
        if picture in self.by_records(picture.start):
            return True
        waiting = review_prefix(picture.row_id, picture.start)
        return picture.kind == "candidates" and picture in self._named_under(waiting)

    def by_records(self, start: str) -> set[_PictureKey]:
        return self._named_under(f"records/{start[:2]}/{start}")

    def _named_under(self, prefix: str) -> set[_PictureKey]:
        records = [Record.model_validate_json(self.store.get(each.uri))
                   for each in self.store.list(join_uri(self.output_uri, prefix))
                   if each.uri.endswith(".json")]  # fmt: skip
        return {_PictureKey.of(uri) for record in records for uri in record.pictures()}
