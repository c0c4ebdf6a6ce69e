"""Make thumbnails for the contact sheet, as data URIs.

A source is shown only while it is the planned object, compared by its ETag on S3, else by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from ace_tasks.errors import (
    ItemError,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
    WeightsError,
)
from ace_tasks.images import codec
from ace_tasks.images.codec import Picture
from ace_tasks.masks import masks
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import Source, WorkItem
from ace_tasks.store import Store, is_s3

_SIDE_PX = 288  # as a page shows it; 9 KB for a photograph
_REFERENCE_PX = 200

T = TypeVar("T")


class Blank(StrEnum):
    """The text that is shown in the place of a picture."""

    UNREADABLE = "cannot be read"
    REPLACED = "was replaced since"
    NONE = "no picture"
    NOT_YET = "not made yet"


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture, and its (width, height)."""

    data_uri: str
    size_px: tuple[int, int]

    def is_shaped_like(self, other: Thumbnail) -> bool:
        """Return whether the two have the same proportions, to a pixel."""
        (width, height), (other_width, other_height) = self.size_px, other.size_px
        off = abs(width * other_height - other_width * height)
        return off <= max(*self.size_px, *other.size_px)


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """The pictures of one page. A picture that several rows show is read once.

    All methods raise StoreUnavailable.
    """

    sources: Store
    outputs: Store
    limits: ImageLimits
    _kept: dict[tuple[str, str | None, int], Thumbnail | Blank] = field(default_factory=dict)

    def source(self, source: Source | None) -> Thumbnail | Blank:
        return self._source(source, _SIDE_PX)

    def reference(self, source: Source) -> Thumbnail | Blank:
        return self._source(source, _REFERENCE_PX)

    def output(self, uri: str) -> Thumbnail | Blank:
        return self._thumbnail((uri, None, _SIDE_PX), lambda: self.outputs.get(uri))

    def mask(self, item: WorkItem) -> tuple[Thumbnail | Blank, float | None]:
        """Return a row's mask and its coverage, made again from its sources as a replica does."""
        image, file = (self._whole(each) for each in (item.sources.image, item.sources.mask))
        if isinstance(image, Blank) or isinstance(file, Blank):
            return Blank.UNREADABLE, None
        if image is None:
            return Blank.UNREADABLE, None
        mask = _read(lambda: masks.build(item.resolved, image, file))
        if isinstance(mask, Blank) or mask is None:
            return Blank.UNREADABLE, None
        return drawn(masks.drawing(mask)), masks.coverage(mask)

    def _source(self, source: Source | None, side_px: int) -> Thumbnail | Blank:
        if source is None or source.problem:
            return Blank.UNREADABLE
        key = (source.uri, source.etag, side_px)
        return self._thumbnail(key, lambda: self._bytes(source))

    def _thumbnail(
        self, key: tuple[str, str | None, int], get: Callable[[], bytes]
    ) -> Thumbnail | Blank:
        if key not in self._kept:
            self._kept[key] = _read(lambda: _small(get(), key[2], self.limits))
        return self._kept[key]

    def _whole(self, source: Source | None) -> Picture | Blank | None:
        if source is None:
            return None
        if source.problem:
            return Blank.UNREADABLE
        return _read(lambda: codec.decode(self._bytes(source), self.limits))

    def _bytes(self, source: Source) -> bytes:
        """Return the content of the planned object.

        Raises PreconditionFailed if there is another object now.
        """
        etag = source.etag if is_s3(source.uri) else None
        try:
            data = self.sources.get(source.uri, if_match=etag, max_bytes=self.limits.max_bytes)
        except PreconditionFailed:
            if source.sha256 is None:
                raise
            # The same bytes may have been uploaded again, in parts or encrypted, with another ETag.
            data = self.sources.get(source.uri, max_bytes=self.limits.max_bytes)
        if source.sha256 and hashlib.sha256(data).hexdigest() != source.sha256:
            raise PreconditionFailed(source.uri, "another object than was planned")
        return data


def drawn(png: bytes) -> Thumbnail:
    """Return the thumbnail of a mask, from the PNG that `masks.drawing` makes."""
    width, height = struct.unpack(">II", png[16:24])  # PNG, second edition, 11.2.2
    return Thumbnail(f"data:image/png;base64,{base64.b64encode(png).decode()}", (width, height))


def _small(data: bytes, side_px: int, limits: ImageLimits) -> Thumbnail:
    picture = codec.decode(data, limits, enough_px=side_px)
    small, size_px = codec.thumbnail(picture.rgb, side_px, picture.icc_profile)
    return Thumbnail(f"data:image/webp;base64,{base64.b64encode(small).decode()}", size_px)


def _read(read: Callable[[], T]) -> T | Blank:
    try:
        return read()
    except StoreUnavailable:
        raise
    except PreconditionFailed:
        return Blank.REPLACED
    except (ItemError, StoreError, WeightsError):  # WeightsError: a network of another version
        return Blank.UNREADABLE
