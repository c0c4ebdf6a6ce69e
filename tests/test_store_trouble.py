"""The store when it misbehaves, through a proxy before the real one. If these break, a hiccup of S3
fails items that were paid for, or an expired key is retried for minutes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ace_tasks.errors import CredentialsError, StoreUnavailable
from ace_tasks.provenance import Done
from ace_tasks.replica import Replica
from ace_tasks.settings import ReplicaSettings, StoreSettings, WeightsSettings
from ace_tasks.store import Store, join_uri
from infra.object_store import ObjectStore
from tests.faults import FaultyStore
from tests.test_replica import FILL

BODY = b"0123456789" * 10_000


@pytest.fixture
def faulty(object_store: ObjectStore) -> Iterator[FaultyStore]:
    proxy = FaultyStore(object_store.endpoint_url)
    yield proxy
    proxy.stop()


@pytest.fixture
def through(faulty: FaultyStore) -> Store:
    return Store(StoreSettings(endpoint_url=faulty.endpoint_url, patience_s=30))


@pytest.mark.parametrize("kind", ["503", "500", "reset", "lost", "slow"])
@pytest.mark.parametrize("operation", ["get", "put", "head", "list"])
def test_passing_trouble_is_not_noticed(
    through: Store, faulty: FaultyStore, store: Store, prefix: str, kind: str, operation: str
) -> None:
    uri = join_uri(prefix, "a")
    store.put(uri, BODY, "text/plain")
    faulty.times(4, kind)  # more than boto3's own three tries
    if operation == "get":
        assert through.get(uri) == BODY
    elif operation == "put":
        through.put(uri, b"new", "text/plain")
        assert store.get(uri) == b"new"
    elif operation == "head":
        assert through.head(uri).size_bytes == len(BODY)
    else:
        assert [each.uri for each in through.list(prefix)] == [uri]
    assert sum(fault is not None for *_, fault in faulty.told) == (4 if kind != "slow" else 1)


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
    assert "lost" in [fault for *_, fault in faulty.told]


def test_expired_credentials_stop_at_once(through: Store, faulty: FaultyStore, prefix: str) -> None:
    faulty.times(100, "expired")
    started = time.monotonic()
    with pytest.raises(CredentialsError, match="ExpiredToken"):
        through.get(join_uri(prefix, "a"))
    assert time.monotonic() - started < 5


def test_a_store_that_stays_away_is_given_up(faulty: FaultyStore, prefix: str) -> None:
    impatient = Store(StoreSettings(endpoint_url=faulty.endpoint_url, patience_s=3))
    faulty.times(10_000, "503")
    with pytest.raises(StoreUnavailable, match="SlowDown"):
        impatient.get(join_uri(prefix, "a"))


@pytest.mark.slow
def test_a_store_that_is_away_for_a_minute_is_waited_for(tmp_path: Path) -> None:
    service = ObjectStore(tmp_path / "store").start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in service.env.items():
            patch.setenv(name, value)
        store = Store(StoreSettings())
        store.create_bucket("minute")
        service.kill()
        writer = threading.Thread(target=store.put, args=("s3://minute/a", b"1", "text/plain"))
        writer.start()
        time.sleep(60)
        assert writer.is_alive()
        service.start()
        writer.join(30)
        assert store.get("s3://minute/a") == b"1"
        service.kill()
