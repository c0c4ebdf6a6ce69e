"""An item's sources: read from the store, decoded, and described for the record.

Whatever goes wrong with a source is an error about its item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from ace_tasks.errors import (
    BadImage,
    PreconditionFailed,
    SourceChanged,
    SourceMissing,
    SourceUnavailable,
    StoreError,
    StoreUnavailable,
    TooLarge,
)
from ace_tasks.images import codec
from ace_tasks.images.codec import Picture, Pictures
from ace_tasks.provenance.public_row import public_uri
from ace_tasks.provenance.record import ParentRecord, SourceRecord, SourcesRecord
from ace_tasks.provenance.xmp.packet import read_marks
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import Source, Sources
from ace_tasks.store import Store, is_s3

CheckContent = Callable[[Source, str, int], None]
"""Checks a source, its SHA-256 and its size in bytes. Raises ItemError if it may not be used."""


def _take_all(_source: Source, _sha256: str, _size_bytes: int) -> None:
    pass


def fetch(
    store: Store, sources: Sources, limits: ImageLimits, check: CheckContent = _take_all
) -> tuple[Pictures, SourcesRecord]:
    """Read, check and decode every source.

    Raises SourceMissing, SourceChanged (since it was planned), SourceUnavailable and BadImage, and
    what `check` raises. `check` is called before a source is decoded.
    """

    def fetch_if_given(source: Source | None) -> tuple[Picture, SourceRecord] | tuple[None, None]:
        return fetch_one(store, source, limits, check) if source else (None, None)

    image, image_record = fetch_if_given(sources.image)
    mask, mask_record = fetch_if_given(sources.mask)
    references = [fetch_one(store, each, limits, check) for each in sources.reference]
    pictures = Pictures(image, mask, tuple(picture for picture, _ in references))
    return pictures, SourcesRecord(
        image=image_record,
        mask=mask_record,
        reference=tuple(record for _, record in references),
    )


def fetch_one(
    store: Store, source: Source, limits: ImageLimits, check: CheckContent = _take_all
) -> tuple[Picture, SourceRecord]:
    if source.problem:
        raise SourceMissing(f"{source.uri}: {source.problem}")
    if_match = source.etag if is_s3(source.uri) else None
    try:
        data, version_id = store.get_version(
            source.uri, if_match=if_match, max_bytes=limits.max_bytes
        )
    except PreconditionFailed:
        raise SourceChanged(f"{source.uri} changed after it was planned") from None
    except TooLarge as error:
        raise BadImage(str(error)) from None
    except StoreUnavailable as error:
        raise SourceUnavailable(str(error)) from None
    except StoreError as error:
        raise SourceMissing(str(error)) from None
    sha256 = hashlib.sha256(data).hexdigest()
    if source.sha256 and source.sha256 != sha256:
        raise SourceChanged(f"{source.uri} changed after it was planned")
    check(source, sha256, len(data))
    try:
        picture = codec.decode(data, limits)
    except BadImage as error:
        raise BadImage(f"{source.uri}: {error}") from None
    record = SourceRecord(
        uri=public_uri(source.uri),
        etag=source.etag,
        version_id=version_id,
        sha256=sha256,
        size_bytes=len(data),
        size_px=picture.size_px,
        format=picture.format,
        converted=picture.converted,
        parent=_parent(picture),
    )
    return picture, record


def _parent(picture: Picture) -> ParentRecord | None:
    marks = read_marks(picture.xmp)
    if marks.item_id is None or marks.record_uri is None:
        return None
    return ParentRecord(item_id=marks.item_id, record=marks.record_uri)
