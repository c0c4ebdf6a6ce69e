"""Kinds of stores, a line a kind. If these break, somebody's store overwrites records, or is refused
though it would do. The page on S3 stores has the same lines."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ace_tasks import store as store_module
from ace_tasks import store_check
from ace_tasks.errors import NoConditionalWrites
from ace_tasks.provenance.outcomes import Done
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, join_uri
from ace_tasks.store_check import check_output, check_purge
from infra.object_store import ObjectStore
from infra.services import ROOT
from infra.store_keys import ensure_keys
from tests.replica.test_replica import FILL, new_replica
from tests.support import odd_stores
from tests.support.odd_stores import OddStore
from tests.support.patience import limit_s
from tests.support.processes import ace_here
from tests.support.raw_s3 import keep_versions


@dataclass(frozen=True)
class Kind:
    """A kind of store: as the page names it, with or without versions and TLS."""

    line: str
    proxy: type[OddStore] = OddStore
    versions: bool = False
    tls: bool = False


WORK = {
    "real": Kind("SeaweedFS, with and without versions"),
    "versions": Kind("SeaweedFS, with and without versions", versions=True),
    "500": Kind("answers 500 or 409 instead of 412", odd_stores.OtherStatusStore),
    "409": Kind("answers 500 or 409 instead of 412", odd_stores.ConflictStore),
    "trailers": Kind("refuses trailers", odd_stores.TrailerlessStore, tls=True),
    "checksums-400": Kind("refuses checksum headers, by 400 or 501", odd_stores.ChecksumlessStore),
    "checksums-501": Kind(
        "refuses checksum headers, by 400 or 501", odd_stores.UnimplementedChecksumStore
    ),
    "no-versions": Kind("lists no versions", odd_stores.VersionlessStore),
    "slow-listings": Kind("lists slowly", odd_stores.SlowListingStore),
}
FIRST = {"real", "409", "checksums-501"}  # in the first tier
STOP = {
    "racing": Kind("lets several writers win", odd_stores.RacingStore),
    "inverted": Kind("has the condition inverted", odd_stores.InvertedStore),
    "ignoring": Kind("ignores the condition", odd_stores.IgnoringStore),
    "unknowing": Kind("does not implement the condition", odd_stores.UnknowingStore),
    "old-versions": Kind(
        "counts deleted versions as there", odd_stores.OldVersionStore, versions=True
    ),
}


def page() -> dict[str, str]:
    """Return the table of the page: a kind of store → what a run does."""
    text = (ROOT / "docs/how-to/s3-stores.md").read_text()
    _, _, table = text.partition("| store | a run |\n|---|---|\n")
    rows = [row.strip("| ").split(" | ") for row in table.partition("\n\n")[0].splitlines()]
    return dict(rows)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have boto3 and our store try again at once, and race for few keys: see test_store_check.py."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setattr(store_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(store_check, "KEYS", 6)


@pytest.fixture
def shop(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Kind], tuple[OddStore, str]]]:
    """Open a store of some kind; return it and a place in it. Every client made later has it."""
    opened: list[OddStore] = []

    def open_(kind: Kind) -> tuple[OddStore, str]:
        keys = ensure_keys(tmp_path / "keys", "127.0.0.1") if kind.tls else None
        if keys:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(keys / "certificate.pem"))
        bucket = f"kind-{uuid.uuid4().hex[:8]}"
        Store(StoreSettings()).create_bucket(bucket)
        if kind.versions:
            keep_versions(bucket)
        opened.append(kind.proxy(object_store.endpoint_url, keys))
        monkeypatch.setenv("AWS_ENDPOINT_URL", opened[-1].endpoint_url)
        return opened[-1], f"s3://{bucket}/out"

    yield open_
    for each in opened:
        each.stop()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=name, marks=[] if name in FIRST else [pytest.mark.thorough])
        for name, kind in WORK.items()
    ],
)
def test_a_run_works(
    kind: Kind,
    shop: Callable[[Kind], tuple[OddStore, str]],
    planned: Callable[..., Any],
    weights_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a run asks of its store, from the check at its start to a record that stands."""
    item = planned(**FILL)
    _, prefix = shop(kind)
    assert page()[kind.line].startswith("works")
    store = Store(StoreSettings(patience_s=limit_s()))
    check_output(store, prefix)
    replica = new_replica(weights_dir, prefix)
    first, second = replica.run(item, 0), replica.run(item, 0)
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    assert (first.published_by_us, second.output_uri) == (True, first.output_uri)
    assert store.head(first.output_uri).size_bytes == len(store.get(first.output_uri))
    monkeypatch.setattr("ace_tasks.store._PART_BYTES", 5 * 2**20)  # S3 takes none that are smaller
    file = tmp_path / "file"
    file.write_bytes(b"x" * 6_000_000)
    store.upload(file, join_uri(prefix, "in-parts"), "text/plain")
    store.download(join_uri(prefix, "in-parts"), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()
    check_purge(store, prefix)
    store.purge(first.output_uri)
    left = {each.uri for each in store.list(prefix)}
    assert first.output_uri not in left
    assert len(left) == 2  # a record and the file in parts: no probes


@pytest.mark.parametrize("kind", STOP.values(), ids=STOP)
def test_a_run_stops_at_once_with_the_sentence_of_the_page(
    kind: Kind, shop: Callable[[Kind], tuple[OddStore, str]], store: Store
) -> None:
    proxy, prefix = shop(kind)
    outcome, _, sentence = page()[kind.line].partition(": ")
    assert outcome == "stops"
    with pytest.raises(NoConditionalWrites) as caught:
        check_output(Store(StoreSettings()), prefix)
    message = str(caught.value)
    assert sentence.strip("`") in message
    assert "allow unguarded writes" in message
    assert len(proxy.requests) < 60
    assert [*store.list(prefix), *store._versions(prefix)] == []


# ---------------------------------------------------------------- check-store


def checked(prefix: str, accept: int) -> dict[str, dict[str, Any]]:
    """Run `check-store --json`; return its findings by what was asked."""
    ended = ace_here("check-store", prefix, "--json")
    assert ended.returncode == accept, ended.stderr
    return {each["asked"]: each for each in map(json.loads, ended.stdout.splitlines())}


def test_check_store_tells_what_the_real_store_does(
    shop: Callable[[Kind], tuple[OddStore, str]], store: Store
) -> None:
    for versions in (False, True):
        _, prefix = shop(Kind("", versions=versions))
        found = checked(prefix, 0)
        assert {name: each["seen"] for name, each in found.items() if name != "clock"} == {
            "If-None-Match on PUT": "HTTP 412 for a key that exists",
            "several writers at once": "one of them wins each key",
            "SHA-256 of what is written": "checked, and kept",
            "checksums in listings": "not named",
            "versions": "kept and listed" if versions else "the bucket keeps none",
            "If-Match on DELETE": "HTTP 412 for another ETag",
        }
        assert re.fullmatch(r"this machine is \d s (ahead|behind)", found["clock"]["seen"])
        assert [*store.list(prefix), *store._versions(prefix)] == []


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("proxy", "asked", "seen", "status"),
    [
        (odd_stores.RacingStore, "several writers at once", "concurrent If-None-Match writes", 1),
        (odd_stores.IgnoringStore, "If-None-Match on PUT", "ignores If-None-Match", 1),
        (odd_stores.ConflictStore, "If-None-Match on PUT", "HTTP 409 for a key that exists", 0),
        (odd_stores.ChecksumlessStore, "SHA-256 of what is written", "refuses the header", 0),
        (odd_stores.AmazonLikeStore, "checksums in listings", "named", 0),
        (odd_stores.LateStore, "clock", "s ahead", 0),
    ],
)
def test_check_store_tells_what_is_odd(
    shop: Callable[[Kind], tuple[OddStore, str]],
    proxy: type[OddStore],
    asked: str,
    seen: str,
    status: int,
) -> None:
    _, prefix = shop(Kind("", proxy))
    assert seen in checked(prefix, status)[asked]["seen"]


def test_check_store_says_what_it_accepts() -> None:
    ended = ace_here("check-store", "bucket/prefix")
    assert ended.returncode == 2
    assert "accepted: s3://bucket/prefix; given 'bucket/prefix'" in ended.stderr
