"""Test sources that listings identify. If these break, an item gets another id than a HEAD of its
sources would give it and is edited again, or every source of ten million costs a request."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ace_tasks.catalog.files import Row, to_specs
from ace_tasks.errors import SourceChanged
from ace_tasks.model.variants import find_variant
from ace_tasks.plan import identify, plan_file, source_listings
from ace_tasks.plan.plan_file import Basis, PlanFiles, PlannedRow
from ace_tasks.replica.fetch import fetch
from ace_tasks.settings import ImageLimits, StoreSettings
from ace_tasks.specs import Source
from ace_tasks.store import Store, join_uri, split_uri
from infra.object_store import ObjectStore
from tests.conftest import BUCKET
from tests.support.naming_store import OF_PARTS, NamingStore
from tests.support.raw_s3 import (
    keep_versions,
    put_without_checksum,
    store_with_short_pages,
    upload_in_parts,
)

MODEL = find_variant("toy").identity()
ODD_NAMES = [
    "a b.png",
    "a+b%20c.png",
    "amp&<quote>'\".png",
    "Zo\u0308e.png",
    "Zo\u00eb.png",
    "雪/\U0001f600.png",
    "~!@$^*()_=:;,?#[]{}|.png",
    "upper/Case.PNG",
    "upper-case.png",
]
Plan = Callable[..., dict[str, PlannedRow]]


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make what pays for a thousand sources pay for a few."""
    monkeypatch.setattr(identify, "_WINDOW", 8)
    monkeypatch.setattr(source_listings, "_LISTED_FROM", 8)
    monkeypatch.setattr(source_listings, "_AGREED", 4)
    monkeypatch.setattr(source_listings, "_PAGE_KEYS", 10)
    monkeypatch.setattr(source_listings, "_NOTHING_NAMED", 20)


@pytest.fixture
def naming(object_store: ObjectStore) -> Iterator[NamingStore]:
    proxy = NamingStore(object_store.endpoint_url, BUCKET)
    yield proxy
    proxy.stop()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Plan a row for each of some sources, through one endpoint, and return the rows by id."""
    numbers = itertools.count()

    def plan(uris: list[str], endpoint_url: str, pages: int = 1000) -> dict[str, PlannedRow]:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        rows = [
            Row(n, {"id": f"row-{n}", "task": "edit", "image": uri, "prompt": "p"})
            for n, uri in enumerate(uris, start=1)
        ]
        files = PlanFiles.within(folder)
        settings = StoreSettings(endpoint_url=endpoint_url)
        through = Store(settings) if pages == 1000 else store_with_short_pages(settings)
        specs = to_specs(rows, f"s3://{split_uri(uris[0])[0]}/catalog.jsonl", None)
        plan_file.build_plan(specs, Basis(MODEL), through, files)
        assert files.rejects.read_text() == ""
        return {row.row_id: row for row in plan_file.read_plan(files.plan)}

    return plan


def fill(prefix: str, count: int = 40) -> list[str]:
    """Write objects of which the store knows no SHA-256, and return their URIs in order."""
    uris = [join_uri(prefix, f"in/{n:03}.png") for n in range(count)]
    for uri in uris:
        put_without_checksum(uri, uri.encode())
    return uris


def heads_under(naming: NamingStore, uris: list[str]) -> list[str]:
    keys = {split_uri(uri)[1] for uri in uris}
    return [key for key in naming.heads() if key in keys]


def test_a_catalog_has_the_same_items_by_listing_and_by_heads(
    store: Store, prefix: str, object_store: ObjectStore, naming: NamingStore, plan: Plan
) -> None:
    uris = fill(prefix)
    odd = [join_uri(prefix, f"in/{name}") for name in ODD_NAMES]
    for n, uri in enumerate(odd):
        (put_without_checksum if n % 2 else upload_in_parts)(uri, uri.encode())
    whole, parts = join_uri(prefix, "in/500"), join_uri(prefix, "in/501")
    store.put(whole, b"with a SHA-256", "image/png")
    upload_in_parts(parts, b"of parts")
    naming.named[split_uri(parts)[1]] = OF_PARTS
    missing = join_uri(prefix, "in/502")
    catalog = [*uris, whole, parts, missing, *odd]
    by_heads = plan(catalog, object_store.endpoint_url)
    by_listing = plan(catalog, naming.endpoint_url)
    assert by_listing == by_heads
    sources = {row.item.sources.image for row in by_listing.values()}
    info = store.head(whole)
    assert [each for each in sources if each and each.sha256] == [
        Source(uri=whole, etag=info.etag, size_bytes=info.size_bytes, sha256=info.sha256)
    ]
    asked = set(naming.heads())
    assert {split_uri(each)[1] for each in (whole, missing)} <= asked
    first = {split_uri(each)[1] for each in uris[:16]}  # two windows, while nothing is known yet
    assert first <= asked
    assert not {split_uri(each)[1] for each in (*uris[16:], parts)} & asked
    assert len(heads_under(naming, odd)) <= 1  # the last, where the listing had ended
    assert naming.pages() <= 4


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_the_catalog_does_not_matter(
    prefix: str, object_store: ObjectStore, naming: NamingStore, plan: Plan, seed: int
) -> None:
    uris = fill(prefix, 60)
    mixed = random.Random(seed).sample(uris, len(uris))
    assert plan(mixed, naming.endpoint_url) == plan(mixed, object_store.endpoint_url)
    assert len(naming.heads()) < 40


def test_etags_with_quotes_are_those_of_heads(prefix: str, naming: NamingStore, plan: Plan) -> None:
    uris = fill(prefix)
    for n, uri in enumerate(uris):
        naming.etags[split_uri(uri)[1]] = f'&"{n}"&amp;<é' if n % 2 else f'W/"{n}'
    naming.etags = {key: each.replace("é", "") for key, each in naming.etags.items()}
    by_listing = plan(uris, naming.endpoint_url)
    assert len(naming.heads()) == 16
    naming.names_nothing = True
    assert plan(uris, naming.endpoint_url) == by_listing
    assert len(naming.heads()) == 16 + len(uris)


def test_a_store_that_names_no_checksums_is_asked_about_every_source(
    prefix: str, naming: NamingStore, plan: Plan
) -> None:
    uris = fill(prefix, 60)
    naming.names_nothing = True
    plan(uris, naming.endpoint_url)
    assert len(naming.heads()) == len(uris)
    assert naming.pages() <= 2


def test_a_listing_that_names_too_little_is_not_believed(
    store: Store, prefix: str, object_store: ObjectStore, naming: NamingStore, plan: Plan
) -> None:
    """A store may name checksums only of objects that it got since it can."""
    uris = fill(prefix)
    for uri in uris[1:30:2]:
        store.put(uri, uri.encode(), "image/png")
        naming.named[split_uri(uri)[1]] = None
    assert plan(uris, naming.endpoint_url) == plan(uris, object_store.endpoint_url)
    assert len(naming.heads()) == len(uris)


def test_objects_with_a_sha256_are_asked_about(
    store: Store, prefix: str, object_store: ObjectStore, naming: NamingStore, plan: Plan
) -> None:
    uris = fill(prefix, 30)
    for uri in uris:
        store.put(uri, uri.encode(), "image/png")
    assert plan(uris, naming.endpoint_url) == plan(uris, object_store.endpoint_url)
    assert len(naming.heads()) == len(uris)


def test_a_small_share_of_a_bucket_is_not_listed_to_its_end(
    prefix: str, naming: NamingStore, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_listings, "_KEYS_A_SOURCE", 2)
    uris = fill(prefix, 90)
    plan([*uris[:3], *uris[-9:]], naming.endpoint_url, pages=2)
    assert len(naming.heads()) == 12
    assert 5 <= naming.pages() <= 22  # of 45: 24 keys for 12 sources, and what was begun


def test_folders_with_few_sources_each_are_listed_together(
    prefix: str, object_store: ObjectStore, naming: NamingStore, plan: Plan
) -> None:
    """Some shops keep a folder for each product."""
    uris = [join_uri(prefix, f"in/{n:03}/{m}.png") for n in range(20) for m in (1, 2)]
    for uri in uris:
        put_without_checksum(uri, uri.encode())
    assert plan(uris, naming.endpoint_url) == plan(uris, object_store.endpoint_url)
    assert len(naming.heads()) == 16
    (listed,) = {path.split("prefix=")[1] for _, path, _ in naming.requests if "prefix=" in path}
    assert listed.split("&")[0].endswith("in%2F")


def test_a_store_that_may_not_be_listed_is_asked_about_every_source(
    prefix: str, naming: NamingStore, plan: Plan
) -> None:
    uris = fill(prefix, 30)
    naming.fault = lambda _, path: "expired" if "list-type=2" in path else None
    plan(uris, naming.endpoint_url)
    assert len(naming.heads()) == len(uris)


def test_an_object_that_changed_since_it_was_listed_is_not_edited(
    store: Store, prefix: str, naming: NamingStore, plan: Plan
) -> None:
    uris = fill(prefix)
    item = plan(uris, naming.endpoint_url)["row-40"].item
    assert split_uri(uris[-1])[1] not in naming.heads()
    put_without_checksum(uris[-1], b"other bytes")
    with pytest.raises(SourceChanged, match="changed after it was planned"):
        fetch(store, item.sources, ImageLimits())


def test_of_an_object_with_versions_the_newest_is_planned(
    object_store: ObjectStore, store: Store, plan: Plan
) -> None:
    bucket = "listed-versions"
    store.create_bucket(bucket)
    keep_versions(bucket)
    uris = fill(f"s3://{bucket}", 30)
    put_without_checksum(uris[20], b"a newer version")
    store.delete(uris[21])
    naming = NamingStore(object_store.endpoint_url, bucket)
    try:
        found = plan(uris, naming.endpoint_url)
        assert found == plan(uris, object_store.endpoint_url)
    finally:
        naming.stop()
    assert found["row-21"].item.sources.image.size_bytes == len(b"a newer version")
    assert "no such object" in str(found["row-22"].item.sources.image.problem)
