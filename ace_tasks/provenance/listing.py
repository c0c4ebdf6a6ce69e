"""The items under an output URI that have a record, or a failure; and the pictures there."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Literal

from ace_tasks.provenance.ownership import PictureKey
from ace_tasks.store import Store, join_uri, split_uri

_LISTINGS = 16  # side by side
_ROW_STARTS = string.ascii_letters + string.digits + "._-"  # what a row's id may begin with
_AT_ONCE = 1000


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


def listed_pictures(
    store: Store, output_uri: str, take: Callable[[list[PictureKey]], None]
) -> None:
    """Give `take` every published picture under an output URI, a thousand at a time.

    Several threads call it. What lies under `images/` and has no key of ours is left out.
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
