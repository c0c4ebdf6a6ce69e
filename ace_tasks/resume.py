"""What earlier runs left under an output URI, for the items of one plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ace_tasks.errors import A_PERSON_DECIDES, NotFound
from ace_tasks.item_ids import ItemIds
from ace_tasks.plan import read_ids
from ace_tasks.provenance import Failure, failure_key, listed_item_ids, record_key
from ace_tasks.store import Store, join_uri

log = logging.getLogger(__name__)

_HEADS_IN_FLIGHT = 32
# Up to so many planned items are asked for one by one; a listing answers 1000 keys a request,
# but must pass over everything that ever was written there.
_HEADS_AT_MOST = 2000


@dataclass(frozen=True, eq=False)
class Finished:
    """Of the items of a plan: which are done, and which would only fail again."""

    records: ItemIds
    failures: dict[str, Failure]  # only those that this run does not try again
    reopened: tuple[Failure, ...] = ()  # a person's, that this run tries again since it names them


def finished(
    store: Store,
    output_uri: str,
    plan_path: Path,
    retry_failures: bool,
    named: Collection[str] = frozenset(),
    lifted: Collection[str] = frozenset(),
) -> Finished:
    """Which planned items have a record, or a failure that would repeat.

    One listing, or one HEAD an item when there are few. A record beats a failure. With
    `retry_failures` all failures are tried again, but for those that a person decides about: these
    only if their code is `named`. Failures of a `lifted` code are always tried again: the setting
    that made them is off.
    """
    planned = ItemIds(item_id for item_id, _ in read_ids(plan_path))
    records = recorded(store, output_uri, planned)
    if len(planned) <= _HEADS_AT_MOST:
        failures = _existing(store, output_uri, failure_key, planned.without(records))
    else:
        failed = planned.among(listed_item_ids(store, output_uri, "failures"))
        failures = failed.without(records)
    kept: dict[str, Failure] = {}
    reopened: list[Failure] = []
    with store.in_parallel(_HEADS_IN_FLIGHT) as pool:
        for each in pool.map(lambda i: _read_failure(store, output_uri, i), failures):
            if each is None:
                continue
            if each.code in A_PERSON_DECIDES:
                if each.code in named:
                    reopened.append(each)
                else:
                    kept[each.item_id] = each
            elif not (retry_failures or each.transient or each.code in lifted):
                kept[each.item_id] = each
    return Finished(records, kept, tuple(reopened))


def recorded(store: Store, output_uri: str, item_ids: ItemIds) -> ItemIds:
    """Return those of the items that have a record: by a HEAD each when they are few, else by one
    listing."""
    if len(item_ids) <= _HEADS_AT_MOST:
        return _existing(store, output_uri, record_key, item_ids)
    return item_ids.among(listed_item_ids(store, output_uri, "records"))


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


def _read_failure(store: Store, output_uri: str, item_id: str) -> Failure | None:
    """None: it cannot be read, and so keeps no item from being tried again."""
    uri = join_uri(output_uri, failure_key(item_id))
    try:
        return Failure.model_validate_json(store.get(uri))
    except NotFound:  # deleted since it was listed
        return None
    except ValidationError:
        log.warning("%s is no failure record, so its item is tried again", uri)
        return None
