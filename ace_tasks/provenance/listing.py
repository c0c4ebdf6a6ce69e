"""Listings of an output: the items that have a record or a failure, and the pictures."""

from __future__ import annotations

import string
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import Literal

from ace_tasks.provenance.ownership import PictureKey
from ace_tasks.store import Store, join_uri, split_uri

_LISTINGS = 16  # in parallel
_ROW_STARTS = string.ascii_letters + string.digits + "._-"  # the characters that may begin a row id
_AT_ONCE = 1000
_ID_CHARS = 64  # other names are none of ours


def listed_item_ids(
    store: Store, output_uri: str, kind: Literal["records", "failures"]
) -> Iterator[str]:
    """Yield the item id of every record or failure under an output URI, among other such names.

    Many listings run in parallel, because one listing returns a thousand keys at a time and only
    then knows where to continue.
    """

    def under(place: str) -> str:
        # As one text, they take half the memory until their turn comes.
        keys = (split_uri(each.uri)[1] for each in store.list(place))
        names = (key.rpartition("/")[2].removesuffix(".json") for key in keys)
        return "".join(each for each in names if len(each) == _ID_CHARS)

    places = (join_uri(output_uri, f"{kind}/{number:02x}/") for number in range(256))
    with store.in_parallel(_LISTINGS) as pool:
        ahead: deque[Future[str]] = deque()
        for place in places:
            ahead.append(pool.submit(under, place))
            if len(ahead) > _LISTINGS:  # all of them could be more than memory holds
                yield from _cut(ahead.popleft().result())
        while ahead:
            yield from _cut(ahead.popleft().result())


def _cut(names: str) -> Iterator[str]:
    for start in range(0, len(names), _ID_CHARS):
        yield names[start : start + _ID_CHARS]


def listed_pictures(
    store: Store, output_uri: str, take: Callable[[list[PictureKey]], None]
) -> None:
    """Pass every published picture under an output URI to `take`, a thousand at a time.

    Several threads call `take`. Objects under `images/` without a key of ours are left out.
    """
    base = join_uri(output_uri, "")

    def under(place: str) -> None:
        keys = (PictureKey.parse(each.uri.removeprefix(base)) for each in store.list(place))
        ours = (each for each in keys if each)
        while batch := list(islice(ours, _AT_ONCE)):
            take(batch)

    with store.in_parallel(_LISTINGS) as pool:
        for _ in pool.map(under, (f"{base}images/{start}" for start in _ROW_STARTS)):
            pass
