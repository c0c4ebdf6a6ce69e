"""The items under an output URI that have a record, or a failure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Literal

from ace_tasks.store import Store, join_uri, split_uri

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
