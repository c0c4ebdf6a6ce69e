"""The results that earlier runs left under an output URI, for the items of one plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ace_tasks.errors import A_PERSON_DECIDES, NotFound
from ace_tasks.plan.item_ids import ItemIds, MarkedIds
from ace_tasks.plan.outline import Outline
from ace_tasks.plan.plan_file import read_earlier_ids, rename_items
from ace_tasks.provenance.keys import failure_key, record_key
from ace_tasks.provenance.listing import listed_item_ids
from ace_tasks.provenance.record import Failure
from ace_tasks.store import Store, join_uri

log = logging.getLogger(__name__)

_HEADS_IN_FLIGHT = 32
# Up to this many planned items are looked up one by one. A listing returns 1000 keys a request, but
# must pass over everything that was ever written there.
_HEADS_AT_MOST = 2000


@dataclass(frozen=True)
class RetryRules:
    """The rules for which results of earlier runs are tried again."""

    failures: bool = False
    """Retry everything that failed for good, except what a person decides about."""
    named: frozenset[str] = frozenset()
    """Codes that a person decides about, and whose retry the person asked for by naming them."""
    lifted: frozenset[str] = frozenset()
    """Codes whose failures are always retried, because the setting that caused them is off."""
    redo_older: bool = False
    """Redo what an earlier PIXELS_VERSION finished, if this version makes other pixels."""

    def tries_again(self, failure: Failure) -> bool:
        if failure.code in A_PERSON_DECIDES:
            return failure.code in self.named
        return self.failures or failure.transient or failure.code in self.lifted


ONCE = RetryRules()


@dataclass(frozen=True, eq=False)
class FinishedItems:
    """The items of a plan that are done, and those that would only fail again."""

    records: MarkedIds  # of the outline's item ids
    failures: dict[str, Failure]  # only those that this run does not try again
    reopened: tuple[Failure, ...]  # decided by a person, retried because this run names them
    outline: Outline  # of the plan as it is now
    renamed: bool  # whether the plan now has ids under an earlier version of the code


def find_finished(
    store: Store, output_uri: str, plan_path: Path, rules: RetryRules = ONCE
) -> FinishedItems:
    """Find which planned items have a record, or a failure that would repeat.

    This takes one listing, or one HEAD per item if there are few. A record overrides a failure.

    An item without a record that has one under an earlier PIXELS_VERSION counts as done, unless it
    is to be redone. What a person decides about under such a version stays theirs. The plan is then
    rewritten with the id that the picture has.
    """
    # The outline is read again below: for ten million rows, it and the ids under earlier versions
    # would be too much memory together.
    done_rows, failures = _find_own(store, output_uri, plan_path)
    earlier = _find_earlier(store, output_uri, plan_path, done_rows, rules)
    renamed = bool(earlier) and rename_items(plan_path, earlier.renaming(done_rows, failures))
    failed = ItemIds(chain(failures, earlier.failures))
    del earlier
    outline = Outline.read(plan_path)
    done = np.zeros(len(outline.item_ids), bool)
    done[outline.items[done_rows]] = True
    failures = outline.item_ids.where(outline.item_ids.marked(failed) & ~done)
    kept: dict[str, Failure] = {}
    reopened: list[Failure] = []
    for each in _read_failures(store, output_uri, failures):
        if not rules.tries_again(each):
            kept[each.item_id] = each
        elif each.code in A_PERSON_DECIDES:
            reopened.append(each)
    records = MarkedIds(outline.item_ids, done)
    return FinishedItems(records, kept, tuple(reopened), outline, renamed)


def _find_own(store: Store, output_uri: str, plan_path: Path) -> tuple[np.ndarray, ItemIds]:
    """Return which rows have a record under their own ids (booleans), and the failures."""
    outline = Outline.read(plan_path)
    done = recorded(store, output_uri, outline.item_ids).marks
    return done[outline.items], _failed(store, output_uri, outline.item_ids, done)


@dataclass(frozen=True, eq=False)
class _Earlier:
    """Records and failures under earlier versions of the code, by the ids of those versions."""

    records: MarkedIds
    failures: ItemIds  # only those that a person decides about

    def __bool__(self) -> bool:
        return bool(self.records or self.failures)

    def renaming(
        self, done_rows: np.ndarray, failures: ItemIds
    ) -> Callable[[list[str], list[list[str]]], list[str]]:
        """Return the function that `plan_file.rename_items` takes.

        It marks in `done_rows` the rows that get the id of a record. `failures` hold the items' own
        ids.
        """
        end = 0

        def rename(item_ids: list[str], earlier_ids: list[list[str]]) -> list[str]:
            nonlocal end
            rows = done_rows[end : end + len(item_ids)]  # a view
            end += len(item_ids)
            every = list(chain.from_iterable(earlier_ids))
            done, decided = _those_in(self.records, every), _those_in(self.failures, every)
            failed = _those_in(failures, item_ids)
            named = item_ids.copy()
            for at in np.flatnonzero(~rows).tolist():
                counts = done if item_ids[at] in failed else done | decided
                named[at] = next((each for each in earlier_ids[at] if each in counts), item_ids[at])
                rows[at] = named[at] in done
            return named

        return rename


def _those_in(known: ItemIds | MarkedIds, item_ids: list[str]) -> set[str]:
    at = known.positions(item_ids) if known else ()
    return {item_id for item_id, place in zip(item_ids, at, strict=False) if place >= 0}


def _find_earlier(
    store: Store, output_uri: str, plan_path: Path, done_rows: np.ndarray, rules: RetryRules
) -> _Earlier:
    """Find what items that are not done under their own id have under earlier ids."""
    count = len(done_rows) - int(np.count_nonzero(done_rows))
    ids = ItemIds.of_batches(read_earlier_ids(plan_path, ~done_rows), count) if count else ItemIds()
    if rules.redo_older:
        records = MarkedIds(ids, np.zeros(len(ids), bool))
    else:
        records = recorded(store, output_uri, ids)
    failures = _read_failures(store, output_uri, _failed(store, output_uri, ids, records.marks))
    decided = (
        each.item_id
        for each in failures
        if each.code in A_PERSON_DECIDES and each.code not in rules.named
    )
    return _Earlier(records, ItemIds(decided))


def _failed(store: Store, output_uri: str, item_ids: ItemIds, done: np.ndarray) -> ItemIds:
    """Return those of the items that have a failure and are not `done`.

    They are looked up as records are.
    """
    if len(done) - np.count_nonzero(done) <= _HEADS_AT_MOST:
        not_done = item_ids.where(~done)
        return not_done.where(_exist(store, output_uri, failure_key, not_done))
    failed = item_ids.marked(listed_item_ids(store, output_uri, "failures"))
    return item_ids.where(failed & ~done)


def recorded(store: Store, output_uri: str, item_ids: ItemIds) -> MarkedIds:
    """Return those of the items that have a record.

    This takes a HEAD per item if there are few, else one listing.
    """
    if len(item_ids) <= _HEADS_AT_MOST:
        return MarkedIds(item_ids, _exist(store, output_uri, record_key, item_ids))
    return MarkedIds(item_ids, item_ids.marked(listed_item_ids(store, output_uri, "records")))


def _exist(
    store: Store, output_uri: str, key: Callable[[str], str], item_ids: ItemIds
) -> np.ndarray:
    """Return booleans: whether the object of each item is there. This takes a HEAD for each."""

    def exists(item_id: str) -> bool:
        try:
            store.head(join_uri(output_uri, key(item_id)))
        except NotFound:
            return False
        return True

    with store.in_parallel(_HEADS_IN_FLIGHT) as pool:
        return np.fromiter(pool.map(exists, item_ids), bool, len(item_ids))


def _read_failures(store: Store, output_uri: str, item_ids: ItemIds) -> Iterator[Failure]:
    """Yield the readable failures. An unreadable one keeps no item from being tried again."""

    def read(item_id: str) -> Failure | None:
        uri = join_uri(output_uri, failure_key(item_id))
        try:
            return Failure.model_validate_json(store.get(uri))
        except NotFound:  # deleted since it was listed
            return None
        except ValidationError:
            log.warning("%s is not a failure record, so its item is tried again", uri)
            return None

    with store.in_parallel(_HEADS_IN_FLIGHT) as pool:
        yield from filter(None, pool.map(read, item_ids))
