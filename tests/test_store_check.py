"""What is tried out on a store before a run. If these break, two runs overwrite each other's records
on a store that races, or every run leaves litter in the bucket."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from ace_tasks import store_check
from ace_tasks.errors import NoConditionalWrites, OutputRefused, StoreUnavailable
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store
from ace_tasks.store_check import KEYS, WRITERS, Prober, check_output, check_purge, probing, race
from infra.object_store import ObjectStore
from tests.support import odd_stores
from tests.support.odd_stores import OddStore
from tests.support.raw_s3 import keep_versions

Behind = Callable[[type[OddStore]], tuple[Store, OddStore]]
TRIALS = 5


@pytest.fixture
def behind(object_store: ObjectStore) -> Iterator[Behind]:
    """Put a store of some kind before the real one; give a client of it."""
    made: list[OddStore] = []

    def make(kind: type[OddStore]) -> tuple[Store, OddStore]:
        made.append(kind(object_store.endpoint_url))
        settings = StoreSettings(endpoint_url=made[-1].endpoint_url)
        return Store(settings), made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture(scope="module")
def versioned(object_store: ObjectStore) -> str:
    """A place in a bucket that keeps versions."""
    bucket = f"versioned-{uuid.uuid4().hex[:8]}"
    Store(StoreSettings()).create_bucket(bucket)
    keep_versions(bucket)
    return f"s3://{bucket}/out"


def leftovers(store: Store, prefix: str) -> list[object]:
    return [*store.list(prefix), *store._versions(prefix)]


def test_a_good_store_passes_and_nothing_is_left(store: Store, prefix: str) -> None:
    with probing(store, prefix, Prober) as prober:
        assert store_check.condition_fault(prober) is None
        seen = race(prober)
    assert seen.winners == (1,) * KEYS
    assert seen.statuses == {200: KEYS, 412: KEYS * (WRITERS - 1)}
    check_output(store, prefix)
    assert leftovers(store, prefix) == []


def test_a_bucket_with_versions_is_tried_as_such_and_none_is_left(
    store: Store, versioned: str
) -> None:
    with probing(store, versioned, Prober) as prober:
        assert store_check.condition_fault(prober) is None
        assert prober.keeps_versions
        assert race(prober, keys=4).winners == (1,) * 4
        assert leftovers(store, versioned)
    assert leftovers(store, versioned) == []


def test_a_racing_store_is_found_in_every_trial(behind: Behind, prefix: str) -> None:
    """The share of keys that several writers win is `p` of the docstring. It says how many of a
    thousand runs would take such a store for a good one.
    """
    store, _ = behind(odd_stores.RacingStore)
    seen = []
    for _ in range(TRIALS):
        with probing(store, prefix, Prober) as prober:
            seen.append(race(prober))
    assert all(each.most_winners > 1 for each in seen)
    winners = [each for trial in seen for each in trial.winners]
    p = sum(each > 1 for each in winners) / len(winners)
    print(f"p = {p:.3f} over {len(winners)} keys; missed: {(1 - p) ** KEYS:.1e}")
    assert (1 - p) ** KEYS < 0.001
    assert leftovers(store, prefix) == []


def test_a_run_on_a_racing_store_is_refused_and_may_be_allowed(behind: Behind, prefix: str) -> None:
    store, _ = behind(odd_stores.RacingStore)
    with pytest.raises(NoConditionalWrites, match="lets 2 concurrent If-None-Match writes"):
        check_output(store, prefix)
    check_output(store, prefix, unguarded=True)
    assert leftovers(store, prefix) == []


def test_a_process_proves_a_bucket_once(behind: Behind, prefix: str) -> None:
    store, proxy = behind(OddStore)
    counts = []
    for _ in range(2):
        proxy.requests.clear()
        check_output(store, prefix)
        counts.append(sum(method == "PUT" for method, *_ in proxy.requests))
    assert counts[0] >= WRITERS * KEYS
    assert counts[1] <= 6


def test_a_store_that_answers_nobody_is_not_taken_for_a_good_one(
    behind: Behind, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, proxy = behind(OddStore)
    monkeypatch.setattr(store_check, "_START_PATIENCE_S", 0)
    proxy.times(10_000, "503")
    with pytest.raises(StoreUnavailable):
        check_output(store, prefix)


def test_a_bucket_that_is_missing_is_refused(store: Store) -> None:
    with pytest.raises(OutputRefused):
        check_output(store, "s3://no-such-bucket/out")


def test_versions_that_cannot_be_listed_cannot_be_forgotten(
    behind: Behind, prefix: str, versioned: str
) -> None:
    """They would stay after `forget` had called itself done."""
    store, _ = behind(odd_stores.VersionlessStore)
    check_purge(store, prefix)
    with pytest.raises(OutputRefused, match="keeps versions, and its store lists none"):
        check_purge(store, versioned)
