"""Test the store when it misbehaves, through a proxy before the real one. If these break, a hiccup
of S3 fails items that were paid for, or an expired key is retried for minutes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ace_tasks import store as store_module
from ace_tasks.errors import CredentialsError, StoreUnavailable
from ace_tasks.provenance.outcomes import Done
from ace_tasks.replica.replica import Replica
from ace_tasks.settings import ReplicaSettings, StoreSettings, WeightsSettings
from ace_tasks.store import Store, join_uri
from infra.object_store import ObjectStore
from tests.replica.test_replica import FILL
from tests.support.faults import FaultyStore
from tests.support.patience import limit_s, wait_until

BODY = b"0123456789" * 10_000


@pytest.fixture(scope="module")
def proxy(object_store: ObjectStore) -> Iterator[FaultyStore]:
    proxy = FaultyStore(object_store.endpoint_url)
    yield proxy
    proxy.stop()


@pytest.fixture
def faulty(proxy: FaultyStore) -> FaultyStore:
    """Return the proxy, which does nothing wrong yet and remembers nothing."""
    proxy.times(0, "")
    proxy.requests.clear()
    return proxy


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have boto3 and our store try again at once: these tests count tries, and need no pauses."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setattr(store_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(store_module, "_LONGEST_PAUSE_S", 0.1)


@pytest.fixture(scope="module")
def through(proxy: FaultyStore) -> Store:
    return Store(StoreSettings(endpoint_url=proxy.endpoint_url, patience_s=limit_s()))


def work(operation: str, through: Store, uri: str) -> None:
    """Do one operation on an object, which holds BODY afterwards."""
    if operation == "get":
        assert through.get(uri) == BODY
    elif operation == "put":
        through.put(uri, BODY, "text/plain")
    elif operation == "head":
        assert through.head(uri).size_bytes == len(BODY)
    else:
        assert [each.uri for each in through.list(uri)] == [uri]


OPERATIONS = ("get", "put", "head", "list")


@pytest.mark.parametrize("kind", ["503", "500", "reset", "lost"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_passing_trouble_is_not_noticed(
    through: Store, faulty: FaultyStore, store: Store, prefix: str, kind: str, operation: str
) -> None:
    uri = join_uri(prefix, "a")
    if operation != "put":
        store.put(uri, BODY, "text/plain")
    faulty.times(4, kind)  # more than boto3's own three tries
    work(operation, through, uri)
    assert store.get(uri) == BODY
    assert sum(fault is not None for *_, fault in faulty.requests) == 4


def test_a_slow_answer_is_waited_for(
    through: Store, faulty: FaultyStore, store: Store, prefix: str
) -> None:
    uris = {operation: join_uri(prefix, operation) for operation in OPERATIONS}
    for uri in uris.values():
        store.put(uri, BODY, "text/plain")
    faulty.times(4, "slow")
    with ThreadPoolExecutor(4) as pool:
        works = [pool.submit(work, operation, through, uri) for operation, uri in uris.items()]
        for each in works:
            each.result()
    assert [fault for *_, fault in faulty.requests] == ["slow"] * 4


def test_a_body_cut_short_is_read_again(
    through: Store, faulty: FaultyStore, store: Store, prefix: str, tmp_path: Path
) -> None:
    uri = join_uri(prefix, "a")
    store.put(uri, BODY, "text/plain")
    faulty.times(2, "cut", "GET")
    assert through.get(uri) == BODY
    faulty.times(2, "cut", "GET")
    through.download(uri, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_lost_answer_to_a_conditional_write_reads_as_taken(
    through: Store, faulty: FaultyStore, prefix: str
) -> None:
    faulty.times(1, "lost", "PUT")
    assert not through.put_if_absent(join_uri(prefix, "marker"), b"ours", "text/plain")
    assert through.get(join_uri(prefix, "marker")) == b"ours"


def test_a_lost_answer_to_a_record_is_still_our_success(
    planned: Callable[..., Any],
    faulty: FaultyStore,
    weights_dir: Path,
    prefix: str,
) -> None:
    settings = ReplicaSettings(
        variant="toy",
        weights=WeightsSettings(folder=weights_dir),
        output_uri=prefix,
        output_store=StoreSettings(endpoint_url=faulty.endpoint_url),
    )
    replica = Replica(settings, "run", "replica-0")
    replica.start()
    faulty.times(1, "lost", "PUT", "/records/")
    done = replica.run(planned(**FILL), 0)
    assert isinstance(done, Done)
    assert done.published_by_us
    assert "lost" in [fault for *_, fault in faulty.requests]


def test_expired_credentials_stop_at_once(through: Store, faulty: FaultyStore, prefix: str) -> None:
    faulty.times(100, "expired")
    with pytest.raises(CredentialsError, match="ExpiredToken"):
        through.get(join_uri(prefix, "a"))
    assert len(faulty.requests) == 1


def test_a_store_that_stays_away_is_given_up(faulty: FaultyStore, prefix: str) -> None:
    impatient = Store(StoreSettings(endpoint_url=faulty.endpoint_url, patience_s=0.5))
    faulty.times(10_000, "503")
    with pytest.raises(StoreUnavailable, match="SlowDown"):
        impatient.get(join_uri(prefix, "a"))


def test_a_store_that_is_away_for_a_minute_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's clock moves on by a minute, and no further, while it pauses between its tries."""
    clock = [0.0]
    service = ObjectStore(tmp_path / "store").start()
    for name, value in service.env.items():
        monkeypatch.setenv(name, value)
    store = Store(StoreSettings())
    store.create_bucket("minute")
    pause = store._abandoned.wait

    def waited(seconds: float) -> bool:
        clock[0] = min(clock[0] + 100 * seconds, 61)
        return pause(seconds)

    monkeypatch.setattr(store._abandoned, "wait", waited)
    monkeypatch.setattr(store_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    service.kill()
    writer = threading.Thread(
        target=store.put, args=("s3://minute/a", b"1", "text/plain"), daemon=True
    )
    writer.start()
    wait_until(lambda: clock[0] > 60, "a minute without the store")
    assert writer.is_alive()
    service.start()
    writer.join(limit_s())
    assert store.get("s3://minute/a") == b"1"
    service.kill()
