"""The key of every object that a run writes.

Layout under an output URI (one function a key, below):

    images/<row id>/<item_id[:16]>.<sha256[:8]>.<ext>
    records/<item_id[:2]>/<item_id>.json       the commit marker of an item
    failures/<item_id[:2]>/<item_id>.json
    candidates/<row id>/<item_id[:16]>.<number>.<sha256[:8]>.<ext>    those that were not chosen
    review/<row id>/<item_id[:16]>.<sha256[:8]>.<ext>    a picture that waits for a person
    review/<row id>/<item_id[:16]>.<sha256[:8]>.json     the record that it would have
    runs/<run id>/catalog.jsonl                rows that the run made itself
    runs/<run id>/plan.parquet, rejects.jsonl, results.parquet, results.csv, failures.jsonl,
                  canary.json, ending.json, summary.json, audit.json,
                  report.html, report-2.html …, review.html …
    forgotten/<digest>.json                    tombstones: what is not to be made again
    rates/<model fingerprint[:16]>-<device>.json    how fast a model was in the last run
"""

from __future__ import annotations

from typing import Literal

from ace_tasks.provenance.record import Record


def image_key(row_id: str, item_id: str, sha256: str, extension: str) -> str:
    """Ends in its own hash, so two racing writers never write one key."""
    return f"images/{row_id}/{item_id[:16]}.{sha256[:8]}.{extension}"


def record_key(item_id: str) -> str:
    return f"records/{item_id[:2]}/{item_id}.json"


def failure_key(item_id: str) -> str:
    return f"failures/{item_id[:2]}/{item_id}.json"


def candidate_key(row_id: str, item_id: str, number: int, sha256: str, extension: str) -> str:
    """With its own hash, as `image_key`: what a record names is not overwritten by a racer."""
    return f"candidates/{row_id}/{item_id[:16]}.{number}.{sha256[:8]}.{extension}"


def review_prefix(row_id: str, item_id: str) -> str:
    """What waits of one item: usually one picture and its record."""
    return f"review/{row_id}/{item_id[:16]}."


def review_picture_key(record: Record) -> str:
    extension = record.output.uri.rpartition(".")[2]
    return f"{review_prefix(record.row_id, record.item_id)}{record.output.sha256[:8]}.{extension}"


def review_record_key(record: Record) -> str:
    """Written after its picture, deleted after it: what has one is not settled yet."""
    return f"{review_prefix(record.row_id, record.item_id)}{record.output.sha256[:8]}.json"


def catalog_key(run_id: str) -> str:
    """The rows that a run made itself, as a catalog that can be run again."""
    return f"runs/{run_id}/catalog.jsonl"


def plan_key(run_id: str) -> str:
    return f"runs/{run_id}/plan.parquet"


def rejects_key(run_id: str) -> str:
    return f"runs/{run_id}/rejects.jsonl"


def results_key(run_id: str, extension: Literal["parquet", "csv"]) -> str:
    return f"runs/{run_id}/results.{extension}"


def failures_key(run_id: str) -> str:
    """The failed rows of a run, as a catalog that can be run again."""
    return f"runs/{run_id}/failures.jsonl"


def rate_key(model: str, device: str) -> str:
    """How fast a model is on a kind of device, by its fingerprint; of all runs under an output."""
    return f"rates/{model[:16]}-{device}.json"


def tombstone_key(digest: str) -> str:
    """Of what is not to be made again; see `ace_tasks.provenance.tombstones`."""
    return f"forgotten/{digest}.json"


def canary_key(run_id: str) -> str:
    """Which pictures a run made first, and what a person said of them."""
    return f"runs/{run_id}/canary.json"


def summary_key(run_id: str) -> str:
    return f"runs/{run_id}/summary.json"


def ending_key(run_id: str) -> str:
    """How a run ended that edited nothing, or its first pictures only; see `ace_tasks.runs.history`."""
    return f"runs/{run_id}/ending.json"


def audit_key(run_id: str) -> str:
    """What an audit of a run found, the last time."""
    return f"runs/{run_id}/audit.json"


def report_key(run_id: str, page: int = 1) -> str:
    """A page of the contact sheet, counted from 1."""
    return f"runs/{run_id}/report{_page(page)}.html"


def review_report_key(run_id: str, page: int = 1) -> str:
    return f"runs/{run_id}/review{_page(page)}.html"


def _page(number: int) -> str:
    return "" if number == 1 else f"-{number}"
