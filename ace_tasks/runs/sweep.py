"""Find the pictures under an output that no record names, and delete them on demand."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

from ace_tasks.errors import NotFound, SettingsError
from ace_tasks.plan import plan_file
from ace_tasks.provenance.keys import PARTS, part_run_id, plan_key
from ace_tasks.provenance.orphans import WrittenBy, delete_orphan, orphans
from ace_tasks.specs import quote
from ace_tasks.store import Store, join_uri


@dataclass(frozen=True)
class Swept:
    """One picture that no record names, and whether it is gone now."""

    uri: str
    is_deleted: bool


def sweep(
    store: Store, output_uri: str, older_than_hours: float, run_id: str = "", *, delete: bool
) -> Iterator[Swept]:
    """Yield every picture of ours that no record names, and delete each if `delete` is set.

    With `run_id`, only pictures that this run can have written count. For a comparison they are
    those that its parts can have written.
    Raises OutputRefused if no run has ever written to the output, SettingsError for a run without a
    plan, and StoreUnavailable.
    """
    run = _written_by(store, output_uri, run_id) if run_id else None
    before = datetime.now(UTC) - timedelta(hours=older_than_hours)
    for orphan in orphans(store, output_uri, before, run):
        gone = delete and delete_orphan(store, output_uri, orphan)
        yield Swept(orphan.uri, gone)


def _written_by(store: Store, output_uri: str, run_id: str) -> WrittenBy:
    """Return what a run can have written, or its parts if it is a comparison.

    The plan of a comparison itself holds its whole catalog, of which it edits nothing.
    """
    try:
        planned_at = store.head(join_uri(output_uri, plan_key(run_id))).modified
    except NotFound:
        raise SettingsError(
            f"run: accepted: the id of a run with a plan under {output_uri}; given {quote(run_id)}"
        ) from None
    assert planned_at is not None
    parts = (part_run_id(run_id, each) for each in PARTS)
    with tempfile.TemporaryDirectory(prefix="ace-sweep-") as scratch:
        path = Path(scratch) / "plan.parquet"
        item_ids = (_planned_ids(store, output_uri, each, path) for each in parts)
        of_parts = WrittenBy.of(chain.from_iterable(item_ids), planned_at)
        if of_parts.starts:
            return of_parts
        return WrittenBy.of(_planned_ids(store, output_uri, run_id, path), planned_at)


def _planned_ids(store: Store, output_uri: str, run_id: str, path: Path) -> Iterator[str]:
    with suppress(NotFound):
        store.download(join_uri(output_uri, plan_key(run_id)), path)
        yield from plan_file.read_ids(path)
