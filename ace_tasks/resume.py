"""What earlier runs left under an output URI, for the items of one plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ace_tasks.errors import A_PERSON_DECIDES, NotFound
from ace_tasks.plan import read_ids
from ace_tasks.provenance import Failure, failure_key, listed_item_ids, record_key
from ace_tasks.store import Store, join_uri

_HEADS_IN_FLIGHT = 32
# Up to so many planned items are asked for one by one; a listing answers 1000 keys a request,
# but must pass over everything that ever was written there.
_HEADS_AT_MOST = 2000
_DIGEST = np.dtype("S32")
_AT_ONCE = 65_536


class ItemIds(Set[str]):
    """Item ids (SHA-256 in hex) as a sorted array of 32 bytes each; a set of strings takes 180, and
    a catalog may have ten million. What is no item id is in none.
    """

    def __init__(self, item_ids: Iterable[str] = ()):
        parts = [_digests(each) for each in _batches(item_ids)]
        self._sorted = np.unique(np.concatenate([np.empty(0, _DIGEST), *parts]))

    @classmethod
    def _of(cls, ordered: np.ndarray) -> ItemIds:
        made = cls.__new__(cls)
        made._sorted = ordered
        return made

    def among(self, item_ids: Iterable[str]) -> ItemIds:
        """Those of these ids that occur in `item_ids`, which may be any number of others."""
        found = np.zeros(len(self), bool)
        for each in _batches(item_ids):
            at, known = self._find(_digests(each))
            found[at[known]] = True
        return self._of(self._sorted[found])

    def without(self, others: ItemIds) -> ItemIds:
        return self._of(self._sorted[~others._find(self._sorted)[1]])

    def _find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place of each or where it would go, whether it is there)."""
        at = np.searchsorted(self._sorted, digests)
        there = at < len(self)
        there[there] = self._sorted[at[there]] == digests[there]
        return at, there

    def __contains__(self, item_id: object) -> bool:
        return bool(self._find(_digests([str(item_id)]))[1].any())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            packed = self._sorted[start : start + _AT_ONCE].tobytes()
            yield from (packed[n : n + 32].hex() for n in range(0, len(packed), 32))

    def __len__(self) -> int:
        return len(self._sorted)


@dataclass(frozen=True, eq=False)
class Finished:
    """Of the items of a plan: which are done, and which would only fail again."""

    records: Set[str]
    failures: dict[str, Failure]  # only those that this run does not try again
    reopened: tuple[Failure, ...] = ()  # a person's, that this run tries again since it names them


def finished(
    store: Store,
    output_uri: str,
    plan_path: Path,
    retry_failures: bool,
    named: Collection[str] = frozenset(),
) -> Finished:
    """Which planned items have a record, or a failure that would repeat.

    One listing, or one HEAD an item when there are few. A record beats a failure. With
    `retry_failures` all failures are tried again, but for those that a person decides about: these
    only if their code is `named`.
    """
    planned = ItemIds(item_id for item_id, _ in read_ids(plan_path))
    if len(planned) <= _HEADS_AT_MOST:
        records = _existing(store, output_uri, record_key, planned)
        failures = _existing(store, output_uri, failure_key, planned.without(records))
    else:
        records = planned.among(listed_item_ids(store, output_uri, "records"))
        failed = planned.among(listed_item_ids(store, output_uri, "failures"))
        failures = failed.without(records)
    kept: dict[str, Failure] = {}
    reopened: list[Failure] = []
    with store.in_parallel(_HEADS_IN_FLIGHT) as pool:
        for each in pool.map(lambda i: _read_failure(store, output_uri, i), failures):
            if each.code in A_PERSON_DECIDES:
                if each.code in named:
                    reopened.append(each)
                else:
                    kept[each.item_id] = each
            elif not (retry_failures or each.transient):
                kept[each.item_id] = each
    return Finished(records, kept, tuple(reopened))


def _existing(
    store: Store, output_uri: str, key: Callable[[str], str], item_ids: ItemIds
) -> ItemIds:
    def exists(item_id: str) -> bool:
        try:
            store.head(join_uri(output_uri, key(item_id)))
        except NotFound:
            return False
        return True

    with store.in_parallel(_HEADS_IN_FLIGHT) as pool:
        found = zip(item_ids, pool.map(exists, item_ids), strict=True)
        return ItemIds(item_id for item_id, there in found if there)


def _read_failure(store: Store, output_uri: str, item_id: str) -> Failure:
    return Failure.model_validate_json(store.get(join_uri(output_uri, failure_key(item_id))))


def _batches(item_ids: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(item_ids)
    while batch := list(islice(iterator, _AT_ONCE)):
        yield batch


def _digests(item_ids: list[str]) -> np.ndarray:
    """Without those that are none: under `records/` may lie anything."""
    return np.frombuffer(b"".join(filter(None, map(_digest, item_ids))), _DIGEST)


def _digest(item_id: str) -> bytes | None:
    try:
        digest = bytes.fromhex(item_id)
    except ValueError:
        return None
    return digest if len(digest) == _DIGEST.itemsize and digest.hex() == item_id else None
