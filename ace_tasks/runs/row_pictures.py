"""Find the current picture of each row of a run, or the reason why it has none.

A row without a picture in the results may have one since, by a retry or a review.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ace_tasks.errors import A_PERSON_DECIDES, NotFound, SettingsError
from ace_tasks.plan.item_ids import ItemIds
from ace_tasks.plan.resume import recorded
from ace_tasks.provenance.keys import failure_key, results_key
from ace_tasks.provenance.record import Failure
from ace_tasks.runs.published import FinishedPicture, FinishedPictures, finished_pictures
from ace_tasks.runs.results import Result, read_results
from ace_tasks.specs import quote
from ace_tasks.store import Store, join_uri


@dataclass(frozen=True, slots=True)
class RowPicture:
    """A row and its picture. Without one, `reason` is a code, and `detail` a sentence or empty."""

    row_id: str | None
    item_id: str | None
    picture: FinishedPicture | None
    reason: str = ""
    detail: str = ""


def download_results(store: Store, output_uri: str, run_id: str, scratch: Path) -> Path:
    """Return a local copy of a run's results.parquet. Raises SettingsError if it has none."""
    path = scratch / "results.parquet"
    try:
        store.download(join_uri(output_uri, results_key(run_id, "parquet")), path)
    except NotFound:
        raise SettingsError(
            f"run: accepted: a run with results under {output_uri}; given {quote(run_id)}"
        ) from None
    return path


@contextmanager
def row_pictures(
    store: Store, output_uri: str, results: Path, scratch: Path
) -> Iterator[Iterator[RowPicture]]:
    """Yield an iterator over all rows of a run, in the order of its results."""
    none = (each.item_id for each in read_results(results) if not each.output_uri)
    since = recorded(store, output_uri, ItemIds(each for each in none if each))
    with finished_pictures(store, output_uri, since, scratch) as pictures:
        yield (_look_up(each, pictures) for each in read_results(results))


def decided_since(
    store: Store, output_uri: str, item_id: str | None, reason: str
) -> Failure | None:
    """Return an item's failure as it is now, if it is of a kind that a person decides about.

    `reason` is its code in the run's results, which may be older than the decision.
    """
    if item_id is None or reason not in A_PERSON_DECIDES:
        return None
    try:
        return Failure.model_validate_json(store.get(join_uri(output_uri, failure_key(item_id))))
    except (NotFound, ValidationError):
        return None


def _look_up(result: Result, since: FinishedPictures) -> RowPicture:
    picture = None
    if result.output_uri and result.sha256:
        picture = FinishedPicture(result.output_uri, result.sha256)
    elif result.item_id:
        picture = since.find(result.item_id)
    if picture is not None:
        return RowPicture(result.row_id, result.item_id, picture)
    reason = result.error_code or result.status
    if result.status in {"done", "done_before"}:
        reason = "record_missing"  # it was deleted since
    return RowPicture(result.row_id, result.item_id, None, reason, result.error or "")
