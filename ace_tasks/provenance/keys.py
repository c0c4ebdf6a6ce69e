"""The key of every object that a run writes.

Layout under an output URI (one function a key, below):

    images/<row id>/<item_id[:16]>.<sha256[:8]>.<ext>
    records/<item_id[:2]>/<item_id>.json       the record, which is an item's commit marker
    failures/<item_id[:2]>/<item_id>.json
    candidates/<row id>/<item_id[:16]>.<number>.<sha256[:8]>.<ext>    candidates not chosen
    review/<row id>/<item_id[:16]>.<sha256[:8]>.<ext>    a picture held for a person
    review/<row id>/<item_id[:16]>.<sha256[:8]>.json     the record it would have
    runs/<run id>/catalog.jsonl                rows that the run made itself
    runs/<run id>/feed.json                    the feed that it made them from
    runs/<run id>/plan.parquet, rejects.jsonl, results.parquet, results.csv, failures.jsonl,
                  canary.json, ending.json, summary.json, audit.json,
                  report.html, report-2.html …, review.html …
    forgotten/<digest>.json                    tombstones: what must not be made again
    rates/<model fingerprint[:16]>-<device>.json    how fast a model was in the last run
"""

from __future__ import annotations

from typing import Literal
from uuid import NAMESPACE_URL, uuid5

from ace_tasks.provenance.record import Record

PARTS = ("first", "second", "third", "fourth", "fifth", "sixth")
"""The names of a comparison's alternatives. Each is a run of its own."""


def part_run_id(run_id: str, part: str) -> str:
    """Return the id of the run of one alternative, the same whenever its comparison goes on."""
    return str(uuid5(NAMESPACE_URL, f"{run_id}/{part}"))


def image_key(row_id: str, item_id: str, sha256: str, extension: str) -> str:
    """Return a picture's key. It contains a hash, so two racing writers never share a key."""
    return f"images/{row_id}/{item_id[:16]}.{sha256[:8]}.{extension}"


def record_key(item_id: str) -> str:
    return f"records/{item_id[:2]}/{item_id}.json"


def failure_key(item_id: str) -> str:
    return f"failures/{item_id[:2]}/{item_id}.json"


def candidate_key(row_id: str, item_id: str, number: int, sha256: str, extension: str) -> str:
    """Return the key of a candidate that is kept.

    It contains the candidate's own hash, so no racing writer overwrites what a record names.
    """
    return f"candidates/{row_id}/{item_id[:16]}.{number}.{sha256[:8]}.{extension}"


def review_prefix(row_id: str, item_id: str) -> str:
    """Return the prefix of what is held of one item: usually one picture and its record."""
    return f"review/{row_id}/{item_id[:16]}."


def review_picture_key(record: Record) -> str:
    extension = record.output.uri.rpartition(".")[2]
    return f"{review_prefix(record.row_id, record.item_id)}{record.output.sha256[:8]}.{extension}"


def review_record_key(record: Record) -> str:
    """Return the key of a held picture's record.

    It is written after its picture and deleted after it, so an item that has one is not settled.
    """
    return f"{review_prefix(record.row_id, record.item_id)}{record.output.sha256[:8]}.json"


def catalog_key(run_id: str) -> str:
    """Return the key of the rows that a run made itself, as a catalog to run again."""
    return f"runs/{run_id}/catalog.jsonl"


def feed_key(run_id: str) -> str:
    """Return the key of the note of the feed that a run read; see `ace_tasks.runs.feed_note`."""
    return f"runs/{run_id}/feed.json"


def plan_key(run_id: str) -> str:
    return f"runs/{run_id}/plan.parquet"


def rejects_key(run_id: str) -> str:
    return f"runs/{run_id}/rejects.jsonl"


def results_key(run_id: str, extension: Literal["parquet", "csv"]) -> str:
    return f"runs/{run_id}/results.{extension}"


def failures_key(run_id: str) -> str:
    """Return the key of a run's failed rows, as a catalog to run again."""
    return f"runs/{run_id}/failures.jsonl"


def rate_key(model: str, device: str) -> str:
    """Return the key of how fast a model is on a kind of device.

    `model` is its fingerprint. All runs under an output share the key.
    """
    return f"rates/{model[:16]}-{device}.json"


def tombstone_key(digest: str) -> str:
    """Return the key of a tombstone; see `ace_tasks.provenance.tombstones`."""
    return f"forgotten/{digest}.json"


def canary_key(run_id: str) -> str:
    """Return the key of the pictures that a run made first, with a person's decision on them."""
    return f"runs/{run_id}/canary.json"


def summary_key(run_id: str) -> str:
    return f"runs/{run_id}/summary.json"


def ending_key(run_id: str) -> str:
    """Return the key of the ending of a run that edited nothing, or its first pictures only.

    See `ace_tasks.runs.history`.
    """
    return f"runs/{run_id}/ending.json"


def audit_key(run_id: str) -> str:
    """Return the key of what the last audit of a run found."""
    return f"runs/{run_id}/audit.json"


def report_key(run_id: str, page: int = 1) -> str:
    """Return the key of a page of the contact sheet, counted from 1."""
    return f"runs/{run_id}/report{_page(page)}.html"


def review_report_key(run_id: str, page: int = 1) -> str:
    return f"runs/{run_id}/review{_page(page)}.html"


def _page(number: int) -> str:
    return "" if number == 1 else f"-{number}"
