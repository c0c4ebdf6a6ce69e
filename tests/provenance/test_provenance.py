"""Test keys, listings and failure records. If these break, a finished item is not found again, two
racers write one picture, or a failed row cannot be fed back."""

from __future__ import annotations

import json
import logging
from importlib.resources import files

import pytest

from ace_tasks.model.variants import find_variant
from ace_tasks.provenance.keys import (
    candidate_key,
    failure_key,
    failures_key,
    image_key,
    plan_key,
    record_key,
    rejects_key,
    report_key,
    results_key,
    review_report_key,
    summary_key,
)
from ace_tasks.provenance.listing import listed_item_ids
from ace_tasks.provenance.outcomes import Failed, write_failure
from ace_tasks.provenance.record import Failure, record_schema
from ace_tasks.settings import StoreSettings
from ace_tasks.specs import Source, Sources, WorkItem, parse_spec, work_item
from ace_tasks.store import Store, join_uri

ID = "0123456789abcdef" * 4
ROW = {
    "id": "row-1",
    "task": "edit",
    "image": "s3://b/i",
    "mask": {"box": [0, 0, 1, 1]},
    "prompt": "é",
}


def failed_item(image: str = "s3://b/i") -> tuple[WorkItem, Failed]:
    spec = parse_spec(ROW | {"image": image})
    sources = Sources(image=Source(uri=image, etag="1"))
    item = work_item(3, spec, sources, find_variant("toy").identity())
    return item, Failed(
        item_id=item.item_id, code="bad_mask", message="why", transient=False, attempts=2
    )


def test_the_layout_of_an_output_is_as_documented() -> None:
    """Users point other programs at these keys."""
    sha256 = "ff00" * 16
    assert image_key("row", ID, sha256, "png") == ("images/row/0123456789abcdef.ff00ff00.png")
    assert candidate_key("row", ID, 3, sha256, "png") == (
        "candidates/row/0123456789abcdef.3.ff00ff00.png"
    )
    assert record_key(ID) == f"records/01/{ID}.json"
    assert failure_key(ID) == f"failures/01/{ID}.json"
    assert [
        plan_key("run"),
        rejects_key("run"),
        results_key("run", "parquet"),
        results_key("run", "csv"),
        failures_key("run"),
        summary_key("run"),
        report_key("run"),
        review_report_key("run"),
    ] == [
        "runs/run/plan.parquet",
        "runs/run/rejects.jsonl",
        "runs/run/results.parquet",
        "runs/run/results.csv",
        "runs/run/failures.jsonl",
        "runs/run/summary.json",
        "runs/run/report.html",
        "runs/run/review.html",
    ]


def test_pictures_of_two_racers_never_share_a_key() -> None:
    first, second = (image_key("r", ID, each * 64, "png") for each in "ab")
    assert first != second


def test_the_published_schema_of_records_is_the_one_of_the_code() -> None:
    """Others check records by the published one; `ace-catalog schema --of record` writes it."""
    text = files("ace_tasks").joinpath("record.schema.json").read_text(encoding="utf-8")
    assert json.loads(text) == record_schema()


@pytest.mark.parametrize("kind", ["records", "failures"])
def test_one_listing_finds_every_item_and_nothing_else(
    store: Store, prefix: str, kind: str
) -> None:
    key = {"records": record_key, "failures": failure_key}
    other = {"records": "failures", "failures": "records"}[kind]
    ids = [f"{n:02x}" + "0" * 62 for n in range(0, 256, 16)]
    output = join_uri(prefix, "out")
    for each in ids:
        store.put(join_uri(output, key[kind](each)), b"{}", "application/json")
    store.put(join_uri(output, key[other]("9" * 64)), b"{}", "application/json")
    store.put(join_uri(f"{output}-2", key[kind]("8" * 64)), b"{}", "application/json")
    for near in (f"runs/r/{kind}/x.json", f"{kind}-old/x.json"):
        store.put(join_uri(output, near), b"{}", "application/json")
    assert [*listed_item_ids(store, output, kind)] == ids  # type: ignore[arg-type]
    assert [*listed_item_ids(store, f"{output}/", kind)] == ids  # type: ignore[arg-type]


def test_a_failure_says_what_why_and_how_to_feed_it_back(store: Store, prefix: str) -> None:
    item, failed = failed_item()
    write_failure(store, prefix, item, failed, "run-1")
    data = store.get(join_uri(prefix, failure_key(item.item_id)))
    failure = Failure.model_validate_json(data)
    assert (failure.row_id, failure.item_id, failure.run_id) == ("row-1", item.item_id, "run-1")
    assert (failure.code, failure.message, failure.attempts) == ("bad_mask", "why", 2)
    assert failure.transient is False
    assert parse_spec(failure.row) == item.spec
    assert "é" in data.decode()


def test_the_last_failure_of_an_item_is_the_one_that_counts(store: Store, prefix: str) -> None:
    item, failed = failed_item()
    write_failure(store, prefix, item, failed, "run-1")
    write_failure(store, prefix, item, failed.model_copy(update={"code": "timeout"}), "run-2")
    failure = Failure.model_validate_json(store.get(join_uri(prefix, failure_key(item.item_id))))
    assert (failure.code, failure.run_id) == ("timeout", "run-2")


@pytest.mark.usefixtures("object_store")  # for its keys
def test_a_store_that_is_away_costs_the_failure_record_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = Store(StoreSettings(endpoint_url="http://127.0.0.1:9", max_attempts=1, patience_s=0))
    item, failed = failed_item()
    with caplog.at_level(logging.WARNING, logger=__name__):
        write_failure(away, "s3://b/out", item, failed, "run-1")
    assert f"failure record not written: s3://b/out/{failure_key(item.item_id)}" in caplog.text


def test_a_newer_field_does_not_break_an_older_reader(store: Store, prefix: str) -> None:
    item, failed = failed_item()
    write_failure(store, prefix, item, failed, "run-1")
    content = json.loads(store.get(join_uri(prefix, failure_key(item.item_id))))
    newer = json.dumps(content | {"schema_version": 2, "added_later": True})
    assert Failure.model_validate_json(newer).item_id == item.item_id
