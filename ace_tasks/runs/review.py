"""Pictures that wait for a person: find one, promote it, or discard it.

What waits has its picture and would-be record under `review/`, and the failure record of its item
says `needs_review`. Every step may be cut anywhere and done again, by anyone, at the same time:

    promote   picture → images/, record put if absent; then picture and record leave review/
    discard   failure → `discarded`; then they leave review/

The record leaves last, since what has one there is not settled yet. A record under `records/`
beats both: what is published stays published.
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
    """How an item stands. `record`: the one it has, or would have; `picture` is where it is."""

    item_id: str
    standing: Standing
    record: Record | None = None
    picture: str | None = None


@dataclass(frozen=True, eq=False)
class Review:
    """The pictures under one output URI that are held back. `by`: the flow run that decides."""

    store: Store
    output_uri: str
    by: str

    def look(self, item_id: str) -> HeldItem:
        """Raises StoreUnavailable, as all of these do, and BadRecord for what is no record."""
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
            return HeldItem(item_id, "gone")  # tried again since, with another outcome
        newest = max(waiting, key=lambda each: each.created_at)
        return HeldItem(item_id, "waiting", newest, self._uri(review_picture_key(newest)))

    def promote(self, item_id: str) -> HeldItem:
        """Publish what waits, unless something is published; returns how the item stands then."""
        held = self.look(item_id)
        if held.standing == "waiting":
            assert held.record is not None
            self._publish(held.record)
        if held.standing in {"waiting", "published"}:
            self._clear(item_id)
        return self.look(item_id)

    def discard(self, item_id: str) -> HeldItem:
        """Mark what waits as not wanted; returns how the item stands then."""
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
        """Take what waited out of review/ where the item has been published since."""
        if self._record(item_id):
            self._clear(item_id)

    # ------------------------------------------------------------ steps

    def _publish(self, record: Record) -> None:
        """As a replica does: the picture, then the record, if none is there.

        The output may have been moved since the picture was held: it is published where it is now.
        """
        assert record.review is not None
        decided = {"promoted_by": self.by, "promoted_at": datetime.now(UTC)}
        review = record.review.model_copy(update=decided)
        try:
            data = self.store.get(self._uri(review_picture_key(record)))
        except NotFound:  # somebody else has just decided
            return
        if hashlib.sha256(data).hexdigest() != record.output.sha256:
            raise SettingsError(
                f"{self._uri(review_picture_key(record))}: accepted: the picture that was held "
                f"(SHA-256 {record.output.sha256}); this file is another one. Put the held one "
                "back, or discard it"
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
        """Take all that waited of an item out of review/."""
        failure = self._failure(item_id)
        for record in self._waiting(failure) if failure else ():
            self.store.delete(self._uri(review_picture_key(record)))
            self.store.delete(self._uri(review_record_key(record)))

    def _waiting(self, failure: Failure) -> list[Record]:
        """By the row that was edited: other rows with the same request share its picture."""
        found = []
        for each in self.store.list(self._uri(review_prefix(failure.row_id, failure.item_id))):
            if each.uri.endswith(".json"):
                # Cleared since it was listed; or somebody else's file.
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
