"""Thumbnails for the contact sheet, as data URIs. What cannot be read is None, and left blank."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ace_tasks import images, masks
from ace_tasks.errors import ItemError, StoreError, StoreUnavailable, WeightsError
from ace_tasks.images import Picture
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import Source, WorkItem
from ace_tasks.store import Store

_SIDE_PX = 288  # as a page shows it; 9 KB for a photograph
_REFERENCE_PX = 200

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture, and its (width, height)."""

    data_uri: str
    size_px: tuple[int, int]

    def is_shaped_like(self, other: Thumbnail) -> bool:
        """To a pixel: whether the two can lie on each other."""
        (width, height), (other_width, other_height) = self.size_px, other.size_px
        off = abs(width * other_height - other_width * height)
        return off <= max(*self.size_px, *other.size_px)


@dataclass(frozen=True, eq=False)
class Album:
    """The pictures of one page; what several rows show is read once.

    Raises StoreUnavailable when a store is away.
    """

    sources: Store
    outputs: Store
    limits: ImageLimits
    _kept: dict[tuple[str, int], Thumbnail | None] = field(default_factory=dict)

    def source(self, source: Source | None) -> Thumbnail | None:
        return self._source(source, _SIDE_PX)

    def reference(self, source: Source) -> Thumbnail | None:
        return self._source(source, _REFERENCE_PX)

    def output(self, uri: str) -> Thumbnail | None:
        return self._thumbnail(uri, _SIDE_PX, lambda: self.outputs.get(uri))

    def mask(self, item: WorkItem) -> tuple[Thumbnail | None, float | None]:
        """Made again from the row and its sources, as a replica does it, and its coverage."""
        image, file = (self._whole(each) for each in (item.sources.image, item.sources.mask))
        if image is None or (item.sources.mask and file is None):
            return None, None
        mask = _read(lambda: masks.build(item.resolved, image, file))
        if mask is None:
            return None, None
        return drawn(masks.drawing(mask)), masks.coverage(mask)

    def _source(self, source: Source | None, side_px: int) -> Thumbnail | None:
        if source is None or source.problem:
            return None
        uri, most = source.uri, self.limits.max_bytes
        return self._thumbnail(uri, side_px, lambda: self.sources.get(uri, max_bytes=most))

    def _thumbnail(self, uri: str, side_px: int, get: Callable[[], bytes]) -> Thumbnail | None:
        if (uri, side_px) not in self._kept:
            self._kept[uri, side_px] = _read(lambda: _small(get(), side_px, self.limits))
        return self._kept[uri, side_px]

    def _whole(self, source: Source | None) -> Picture | None:
        if source is None or source.problem:
            return None
        uri, limits = source.uri, self.limits
        return _read(
            lambda: images.decode(self.sources.get(uri, max_bytes=limits.max_bytes), limits)
        )


def drawn(png: bytes) -> Thumbnail:
    """A mask's drawing as `masks.drawing` makes it."""
    width, height = struct.unpack(">II", png[16:24])  # PNG, second edition, 11.2.2
    return Thumbnail(f"data:image/png;base64,{base64.b64encode(png).decode()}", (width, height))


def _small(data: bytes, side_px: int, limits: ImageLimits) -> Thumbnail:
    picture = images.decode(data, limits, enough_px=side_px)
    small, size_px = images.thumbnail(picture.rgb, side_px, picture.icc_profile)
    return Thumbnail(f"data:image/webp;base64,{base64.b64encode(small).decode()}", size_px)


def _read(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except StoreUnavailable:
        raise
    except (ItemError, StoreError, WeightsError):  # of networks of another version
        return None
