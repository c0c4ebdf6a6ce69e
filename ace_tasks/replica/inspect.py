"""A look at pictures and masks before any GPU works: failures to come, and likely mistakes.

`judge` is pure; `look_over` reads the sources of many items at once and keeps none of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition
from typing import Any, cast

import numpy as np

from ace_tasks.errors import CatalogError, ItemError, SourceUnavailable, StoreError
from ace_tasks.images import codec
from ace_tasks.images.canvas_size import lay_out
from ace_tasks.images.codec import Picture
from ace_tasks.images.paste import window_of
from ace_tasks.masks import hints as mask_hints
from ace_tasks.masks import masks
from ace_tasks.masks.masks import Segment
from ace_tasks.replica import host_memory
from ace_tasks.replica.fetch import fetch_one
from ace_tasks.settings import ImageLimits, cpu_count
from ace_tasks.specs import Resolved, Source, WorkItem
from ace_tasks.store import Store, is_s3

_FEWEST_THREADS, _MOST_THREADS = 4, 16
# For a decoded picture and what is made from it. Measured: 27.5 with a mask by grabcut, 19.5 by
# border or by alpha that is grown and smoothed, 10.9 by alpha as it is.
_BYTES_PER_PX = 28
# The worker's other runs and the interpreter want memory as well.
_MEMORY_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class RowInspection:
    """The findings about one row, before anything is paid for it. Shares are in [0, 1]."""

    line: int
    row_id: str
    task: str
    image_px: tuple[int, int] | None = None  # (width, height), upright
    mask_px: tuple[int, int] | None = None  # of a mask file
    coverage: float | None = None  # share of the picture in the mask; None: no mask, or not made
    grey: float | None = None  # share of a mask file that is neither black nor white
    tokens: int | None = None  # of the canvas; 0: nothing is to be painted; None: not known
    problem: str | None = None  # why the row would fail
    hints: tuple[str, ...] = ()  # likely mistakes, which may be none
    hint_codes: tuple[str, ...] = ()  # of the hints about its mask, see `mask_hints.CODES`


def look_over(
    items: Iterable[WorkItem],
    store: Store,
    limits: ImageLimits,
    segment: Segment | None = None,
) -> Iterator[RowInspection]:
    """Inspect items and yield one result for each, in order.

    Without `segment`, masks that a model makes are left out. Raises CatalogError if the store is
    away.
    """
    host_memory.return_large_blocks()
    memory_bytes = int(host_memory.limit_bytes() * _MEMORY_SHARE)
    ration = Ration(memory_bytes // _BYTES_PER_PX)
    # A thread holds the files of a picture and its mask while it waits for its ration.
    threads = min(_MOST_THREADS, max(_FEWEST_THREADS, cpu_count()))
    threads = min(threads, max(1, memory_bytes // (2 * limits.max_bytes)))
    window: deque[Future[RowInspection]] = deque()
    try:
        with store.in_parallel(threads) as pool:
            for item in items:
                window.append(pool.submit(_look, item, store, limits, ration, segment))
                if len(window) >= 2 * threads:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
    except SourceUnavailable as error:
        raise CatalogError(f"sources cannot be read: {error}") from None


class Ration:
    """The pixels that may be in memory at once, shared by threads."""

    def __init__(self, limit_px: int):
        self._limit_px = self._free_px = limit_px
        self._changed = Condition()

    @contextmanager
    def take(self, px: int) -> Iterator[None]:
        """Wait until `px` pixels are free, and hold them. Requests above the limit run alone."""
        px = min(px, self._limit_px)
        with self._changed:
            self._changed.wait_for(lambda: px <= self._free_px)
            self._free_px -= px
        try:
            yield
        finally:
            with self._changed:
                self._free_px += px
                self._changed.notify_all()


class _ReadOnce:
    """A store that keeps the files it has read, so that headers can be read before pixels."""

    def __init__(self, store: Store, limits: ImageLimits):
        self._store, self._limits = store, limits
        self._read: dict[str, tuple[bytes, str | None] | StoreError] = {}

    def get_version(self, uri: str, **options: Any) -> tuple[bytes, str | None]:
        if uri not in self._read:
            try:
                self._read[uri] = self._store.get_version(uri, **options)
            except StoreError as error:
                self._read[uri] = error
        found = self._read[uri]
        if isinstance(found, StoreError):
            raise found
        return found

    def pixels(self, source: Source | None) -> int:
        """Return how many pixels a source has by its header, or 0 if nothing will be decoded."""
        if source is None or source.problem:
            return 0
        if_match = source.etag if is_s3(source.uri) else None
        try:
            data, _ = self.get_version(
                source.uri, if_match=if_match, max_bytes=self._limits.max_bytes
            )
        except StoreError:  # `fetch_one` meets it again and says what is wrong
            return 0
        _, (width, height) = codec.header_of(data) or ("", (0, 0))
        return width * height if width * height <= self._limits.max_px else 0


def _look(
    item: WorkItem,
    store: Store,
    limits: ImageLimits,
    ration: Ration,
    segment: Segment | None,
) -> RowInspection:
    problems: list[str] = []

    def read(files: _ReadOnce, source: Source | None) -> Picture | None:
        if source is None:
            return None
        try:
            return fetch_one(cast(Store, files), source, limits)[0]
        except SourceUnavailable:
            raise
        except ItemError as error:
            problems.append(f"{error.code}: {error}")
            return None

    beside = []
    for reference in item.sources.reference:
        files = _ReadOnce(store, limits)
        with ration.take(files.pixels(reference)):
            if picture := read(files, reference):
                beside.append(picture.size_px)
            del picture
    files = _ReadOnce(store, limits)
    sources = (item.sources.image, item.sources.mask)
    with ration.take(sum(map(files.pixels, sources))):
        image, mask = (read(files, source) for source in sources)
        return judge(item, image, mask, beside, problems, segment)


def judge(
    item: WorkItem,
    image: Picture | None,
    mask_file: Picture | None,
    beside: Sequence[tuple[int, int]] = (),
    problems: Iterable[str] = (),
    segment: Segment | None = None,
) -> RowInspection:
    """Inspect one row by its decoded pictures.

    `beside` is (width, height) of each reference. `problems` says why pictures of the item could
    not be read; those pictures are None.
    """
    resolved, problems = item.resolved, list(problems)
    grey = None if mask_file is None else mask_hints.grey_share(masks.greyscale(mask_file))
    hints: tuple[str, ...] = ()
    found: dict[str, str] = {}
    mask = None
    unread = resolved.mask == "file" and mask_file is None
    auto = resolved.auto_mask
    if auto and auto.method == "model" and segment is None:
        hints = ("the model makes its mask only when the row is edited",)
    elif image is not None and not unread:
        try:
            mask = masks.build(resolved, image, mask_file, segment, found)
        except ItemError as error:
            problems.append(f"{error.code}: {error}")
    found |= mask_hints.find(resolved, image, mask_file, mask)
    tokens = None
    if not problems and (mask is not None or resolved.mask is None):
        try:
            tokens = _tokens(resolved, image, mask, beside)
        except ItemError as error:
            problems.append(f"{error.code}: {error}")
    return RowInspection(
        line=item.line,
        row_id=item.row_id,
        task=item.spec.task,
        image_px=None if image is None else image.size_px,
        mask_px=None if mask_file is None else mask_file.size_px,
        coverage=None if mask is None else round(masks.coverage(mask), 6),
        grey=None if grey is None else round(grey, 6),
        tokens=tokens,
        problem="; ".join(problems) or None,
        hints=(*hints, *found.values()),
        hint_codes=tuple(found),
    )


def _tokens(
    resolved: Resolved,
    image: Picture | None,
    mask: np.ndarray | None,
    beside: Sequence[tuple[int, int]],
) -> int:
    """Return the tokens of the canvas; for policy `reference`, the most that it may have."""
    if resolved.background is not None:
        return 0
    if mask is not None and not masks.coverage(mask):
        return 0
    if resolved.geometry == "reference":
        return resolved.max_seq_len
    size = (resolved.width or 0, resolved.height or 0) if image is None else image.size_px
    if mask is not None and resolved.paste:
        size = window_of(resolved, mask, beside).size
    return lay_out(size, beside, resolved.max_seq_len, resolved.keep_pixels_rate).tokens
