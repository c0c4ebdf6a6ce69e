"""The writer of finished pictures to the store: published, or held for a person.

Publishing writes the picture first, then the record as the marker. Holding writes the picture
first, then the record that it would have had, both under `review/`. `ace_tasks.runs.review`
publishes or discards them later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from pydantic import ValidationError

from ace_tasks.errors import BadRecord, BucketMissing, Forbidden, NotFound, OutputRefused
from ace_tasks.images import codec
from ace_tasks.provenance.keys import (
    candidate_key,
    image_key,
    record_key,
    review_picture_key,
    review_record_key,
)
from ace_tasks.provenance.ownership import put_if_missing, same_picture
from ace_tasks.provenance.record import OutputRecord, Record, Scores
from ace_tasks.replica.edit import EditedPixels
from ace_tasks.replica.picture_file import File
from ace_tasks.settings import ReviewSettings
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri
from ace_tasks.wording import counted

NO_CANDIDATES: Mapping[str, File] = MappingProxyType({})


def reasons_to_hold(scores: Scores, review: ReviewSettings) -> list[str]:
    """Return why a picture is held for review; if there is no reason, it is published."""
    reasons = [review.hold] if review.hold else []
    if (scores.blankness or 0) > review.max_blankness:
        reasons.append(
            f"the repainted part is blank: {scores.blankness:g}, "
            f"accepted: at most {review.max_blankness:g}"
        )
    if scores.total < review.below:
        reasons.append(f"its total score is {scores.total:g}, accepted: at least {review.below:g}")
    return reasons


@dataclass(frozen=True, eq=False)
class Publisher:
    """Writes outputs under one place. Raises OutputRefused and StoreUnavailable."""

    store: Store
    output_uri: str

    def output_record(self, item: WorkItem, pixels: EditedPixels, file: File) -> OutputRecord:
        key = image_key(item.row_id, item.item_id, file.sha256, file.extension)
        height, width = pixels.rgb.shape[:2]
        return OutputRecord(
            uri=self._uri(key),
            sha256=file.sha256,
            pixels_sha256=codec.pixels_sha256(pixels.rgb, pixels.alpha),
            size_px=(width, height),
            size_bytes=len(file.data),
            format=file.format,
            lossless=file.lossless,
            placed_px=pixels.placed.bounds if pixels.placed else None,
        )

    def store_candidate(self, item: WorkItem, number: int, file: File) -> str:
        """Store a candidate and return its URI."""
        key = candidate_key(item.row_id, item.item_id, number, file.sha256, file.extension)
        with self._outputs():
            self.store.put(self._uri(key), file.data, file.media_type)
        return self._uri(key)

    def publish(
        self, record: Record, file: File, candidates: Mapping[str, File] = NO_CANDIDATES
    ) -> Record:
        """Write the picture, then the record as the marker, and return the record that stands.

        If another attempt was first, its record stands and our picture is deleted, unless both made
        the same bytes and so share the key. Raises BadRecord if what stands is not a record of the
        item; then our picture stays, since nobody knows what was meant. A sweep may delete a
        picture just before its record is written, so we look again afterwards and write a missing
        picture once more. `candidates` maps URIs to the files that `store_candidate` has stored.
        """
        marker = self._uri(record_key(record.item_id))
        with self._outputs():
            etag = self.store.put(record.output.uri, file.data, file.media_type)
            output = record.output.model_copy(update={"etag": etag})
            record = record.model_copy(update={"output": output})
            if self.store.put_if_absent(marker, record.to_json(), "application/json"):
                self._see_that_they_stand({record.output.uri: file, **candidates})
                return record
            standing = self._standing(marker, record.item_id)
            if same_picture(standing.output.uri, record.output.uri):
                self._see_that_they_stand({record.output.uri: file})
            else:
                self.store.delete(record.output.uri)
            return standing

    def _standing(self, marker: str, item_id: str) -> Record:
        try:
            standing = Record.model_validate_json(self.store.get(marker))
        except ValidationError as error:
            raise BadRecord.at(marker, counted(error.error_count(), "error")) from None
        if standing.item_id != item_id:
            raise BadRecord.at(marker, "it is of another item")
        return standing

    def _see_that_they_stand(self, files: Mapping[str, File]) -> None:
        for uri, file in files.items():
            put_if_missing(self.store, uri, file.data, file.media_type)

    def hold(
        self, record: Record, file: File, candidates: Mapping[str, File] = NO_CANDIDATES
    ) -> None:
        """Write a picture under `review/`, and then the record it would have had."""
        with self._outputs():
            picture = self._uri(review_picture_key(record))
            self.store.put(picture, file.data, file.media_type)
            marker = self._uri(review_record_key(record))
            self.store.put(marker, record.to_json(), "application/json")
            self._see_that_they_stand(candidates)

    def _uri(self, key: str) -> str:
        return join_uri(self.output_uri, key)

    @contextmanager
    def _outputs(self) -> Iterator[None]:
        try:
            yield
        except (BucketMissing, Forbidden, NotFound) as error:
            raise OutputRefused(f"cannot write outputs: {error}") from None
