"""Find, promote or discard a picture that waits for a person.

A waiting item has its picture and the record it would get under `review/`, and its failure record
says `needs_review`. Every step may be interrupted anywhere and repeated, also by several people at
the same time:

    promote   picture → images/, record put if absent; then both are deleted from review/
    discard   failure → `discarded`; then both are deleted from review/

The record is deleted last, because an item with a record under `review/` is not settled yet. A
record under `records/` wins over both decisions: a published picture stays published.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from ace_tasks.errors import BadRecord, Discarded, NeedsReview, NotFound, SettingsError
from ace_tasks.provenance.keys import (
    failure_key,
    image_key,
    record_key,
    review_picture_key,
    review_prefix,
    review_record_key,
)
from ace_tasks.provenance.ownership import put_if_missing, same_picture
from ace_tasks.provenance.record import Failure, Record
from ace_tasks.specs import MEDIA_TYPES
from ace_tasks.store import Store, join_uri

Standing = Literal["waiting", "published", "discarded", "gone"]


@dataclass(frozen=True)
class HeldItem:
    """An item and its standing in the review.

    `record` is the one it has, or would get if promoted. `picture` is the URI of its picture.
    """

    item_id: str
    standing: Standing
    record: Record | None = None
    picture: str | None = None


@dataclass(frozen=True, eq=False)
class Review:
    """The held-back pictures under one output URI. `by` is the flow run that decides.

    All methods raise StoreUnavailable, and BadRecord for a record that cannot be read.
    """

    store: Store
    output_uri: str
    by: str

    def look(self, item_id: str) -> HeldItem:
        """Return the standing of an item."""
        record = self._record(item_id)
        if record:
            return HeldItem(item_id, "published", record, record.output.uri)
        failure = self._failure(item_id)
        if failure is None:
            return HeldItem(item_id, "gone")
        if failure.code == Discarded.code:
            return HeldItem(item_id, "discarded")
        waiting = self._waiting(failure)
        if failure.code != NeedsReview.code or not waiting:
            return HeldItem(item_id, "gone")  # it was tried again, with another outcome
        newest = max(waiting, key=lambda each: each.created_at)
        return HeldItem(item_id, "waiting", newest, self._uri(review_picture_key(newest)))

    def promote(self, item_id: str) -> HeldItem:
        """Publish the waiting picture unless one is published already; return the new standing."""
        held = self.look(item_id)
        if held.standing == "waiting":
            assert held.record is not None
            self._publish(held.record)
        if held.standing in {"waiting", "published"}:
            self._clear(item_id)
        return self.look(item_id)

    def discard(self, item_id: str) -> HeldItem:
        """Mark the waiting picture as not wanted; return the new standing."""
        held = self.look(item_id)
        if held.standing == "waiting":
            failure = self._failure(item_id)
            assert failure is not None
            changes = {
                "code": Discarded.code,
                "message": f"discarded by {self.by}; held because {failure.message}",
                "created_at": datetime.now(UTC),
            }
            body = failure.model_copy(update=changes).to_json()
            self.store.put(self._uri(failure_key(item_id)), body, "application/json")
        if held.standing in {"waiting", "discarded"}:
            self._clear(item_id)
        return self.look(item_id)

    def clear_published(self, item_id: str) -> None:
        """Delete an item's waiting pictures from review/ if it has been published since."""
        if self._record(item_id):
            self._clear(item_id)

    def _publish(self, record: Record) -> None:
        """Write the picture, then the record if there is none, as a replica does.

        The output may have been moved since the picture was held back. The picture is published
        under the output's present URI.
        """
        assert record.review is not None
        decided = {"promoted_by": self.by, "promoted_at": datetime.now(UTC)}
        review = record.review.model_copy(update=decided)
        try:
            data = self.store.get(self._uri(review_picture_key(record)))
        except NotFound:  # somebody else has just decided about it
            return
        if hashlib.sha256(data).hexdigest() != record.output.sha256:
            raise SettingsError(
                f"{self._uri(review_picture_key(record))}: accepted: the picture that was held "
                f"back (SHA-256 {record.output.sha256}); this file is a different one. Restore the "
                "held picture, or discard the item"
            )
        extension = record.output.uri.rpartition(".")[2]
        key = image_key(record.row_id, record.item_id, record.output.sha256, extension)
        output = record.output.model_copy(update={"uri": self._uri(key)})
        media_type = MEDIA_TYPES[record.output.format]
        self.store.put(output.uri, data, media_type)
        body = record.model_copy(update={"review": review, "output": output}).to_json()
        marker = self._uri(record_key(record.item_id))
        if self.store.put_if_absent(marker, body, "application/json"):
            put_if_missing(self.store, output.uri, data, media_type)
            return
        standing = self._record(record.item_id)
        if standing and same_picture(standing.output.uri, output.uri):
            put_if_missing(self.store, output.uri, data, media_type)
        elif standing:
            self.store.delete(output.uri)

    def _clear(self, item_id: str) -> None:
        """Delete all waiting pictures and records of an item from review/."""
        failure = self._failure(item_id)
        for record in self._waiting(failure) if failure else ():
            self.store.delete(self._uri(review_picture_key(record)))
            self.store.delete(self._uri(review_record_key(record)))

    def _waiting(self, failure: Failure) -> list[Record]:
        """Return an item's records under review/.

        They are under the row that was edited. Other rows with the same request share its picture.
        """
        found = []
        for each in self.store.list(self._uri(review_prefix(failure.row_id, failure.item_id))):
            if each.uri.endswith(".json"):
                # It was deleted since it was listed, or it is somebody else's file.
                with suppress(NotFound, ValidationError):
                    found.append(Record.model_validate_json(self.store.get(each.uri)))
        return [each for each in found if each.item_id == failure.item_id]

    def _record(self, item_id: str) -> Record | None:
        uri = self._uri(record_key(item_id))
        try:
            return Record.model_validate_json(self.store.get(uri))
        except NotFound:
            return None
        except ValidationError:
            raise BadRecord.at(uri, "it cannot be read") from None

    def _failure(self, item_id: str) -> Failure | None:
        try:
            return Failure.model_validate_json(self.store.get(self._uri(failure_key(item_id))))
        except (NotFound, ValidationError):
            return None

    def _uri(self, key: str) -> str:
        return join_uri(self.output_uri, key)
