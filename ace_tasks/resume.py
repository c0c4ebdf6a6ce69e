"""What earlier runs left under an output URI, for the items of one plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ace_tasks.errors import NotFound
from ace_tasks.plan import read_ids
from ace_tasks.provenance import Failure, failure_key, listed_item_ids, record_key
from ace_tasks.store import Store, join_uri

_HEADS_IN_FLIGHT = 32
# Up to so many planned items are asked for one by one; a listing answers 1000 keys a request,
# but must pass over everything that ever was written there.
_HEADS_AT_MOST = 2000


@dataclass(frozen=True, eq=False)
class Finished:
    """Of the items of a plan: which are done, and which would only fail again."""

    records: frozenset[str]
    failures: dict[str, Failure]  # only those that a run does not try again by itself


def finished(store: Store, output_uri: str, plan_path: Path, retry_failures: bool) -> Finished:
    """Which planned items have a record, or a failure that would repeat.

    One listing, or one HEAD an item when there are few. A record beats a failure.
    """
    item_ids = {item_id for item_id, _ in read_ids(plan_path)}
    if len(item_ids) <= _HEADS_AT_MOST:
        records = _existing(store, output_uri, record_key, item_ids)
        failures = _existing(store, output_uri, failure_key, item_ids - records)
    else:
        records = {i for i in listed_item_ids(store, output_uri, "records") if i in item_ids}
        failures = {
            i
            for i in listed_item_ids(store, output_uri, "failures")
            if i in item_ids and i not in records
        }
    if retry_failures:
        return Finished(frozenset(records), {})
    with store.in_parallel(_HEADS_IN_FLIGHT) as pool:
        read = pool.map(lambda i: _read_failure(store, output_uri, i), sorted(failures))
        kept = {each.item_id: each for each in read if not each.transient}
    return Finished(frozenset(records), kept)


def _existing(store: Store, output_uri: str, key: Any, item_ids: set[str]) -> set[str]:
    def exists(item_id: str) -> bool:
        try:
            store.head(join_uri(output_uri, key(item_id)))
        except NotFound:
            return False
        return True

    with store.in_parallel(_HEADS_IN_FLIGHT) as pool:
        ordered = sorted(item_ids)
        return {i for i, found in zip(ordered, pool.map(exists, ordered), strict=True) if found}


def _read_failure(store: Store, output_uri: str, item_id: str) -> Failure:
    return Failure.model_validate_json(store.get(join_uri(output_uri, failure_key(item_id))))
