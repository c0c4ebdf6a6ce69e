"""Read which items and sources the records, failures and plans under an output name."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ace_tasks.errors import NotFound
from ace_tasks.plan import plan_file
from ace_tasks.provenance import tombstones
from ace_tasks.provenance.record import Failure, OutputRecord, Record, SourceRecord
from ace_tasks.specs import Source, WorkItem
from ace_tasks.store import Store, is_s3, join_uri

_THREADS = 16
_PLAN = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/plan\.parquet")


@dataclass(frozen=True, slots=True)
class SeenObject:
    """One source or picture, as a record, a failure or a plan names it."""

    uri: str
    sha256: str | None = None
    etag: str | None = None
    size_bytes: int = 0

    @classmethod
    def of(cls, each: Source | SourceRecord | OutputRecord) -> SeenObject:
        return cls(each.uri, each.sha256, each.etag, each.size_bytes)

    def tombstones(self) -> Iterator[str]:
        return tombstones.of_source(self.sha256, self.etag, self.size_bytes)


@dataclass(frozen=True, slots=True)
class Trace:
    """The sources and pictures of an item, as one object in the store names them.

    `planned_by` is the run whose plan it is.
    """

    item_id: str
    row_id: str
    run_id: str | None
    sources: tuple[SeenObject, ...]
    outputs: tuple[SeenObject, ...] = ()
    planned_by: str | None = None


def read_traces(store: Store, output_uri: str) -> Iterator[Trace]:
    """Yield a trace for every record, waiting or published, every failure and every planned row.

    Objects that were deleted since they were listed are left out.
    """
    with store.in_parallel(_THREADS) as pool:
        for kind, parse in (
            ("records/", trace_of_record),
            ("review/", trace_of_record),
            ("failures/", _trace_of_failure),
        ):
            found = store.list(join_uri(output_uri, kind))
            uris = [each.uri for each in found if each.uri.endswith(".json")]
            bodies = pool.map(lambda uri: get_or_empty(store, uri), uris)
            yield from filter(None, map(parse, bodies))
    base = join_uri(output_uri, "runs/")
    for each in store.list(base):
        if plan := _PLAN.fullmatch(each.uri.removeprefix(base)):
            with local_copy(store, each.uri) as path:
                for row in plan_file.read_plan(path):
                    yield _trace_of_planned(row.item, plan[1])


def read_source(store: Store, uri: str) -> SeenObject | None:
    """Return the object that is at the URI now, or None if there is none or it is a local file."""
    if not is_s3(uri):
        return None
    try:
        found = store.head(uri)
        sha256 = found.sha256
        if sha256 is None:  # multipart uploads have none, and copies may have other part sizes
            with local_copy(store, uri) as path, path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except NotFound:
        return None
    return SeenObject(uri, sha256, found.etag, found.size_bytes)


def trace_of_record(body: bytes) -> Trace | None:
    """Return the trace of a record, or None for anything that is no record of ours."""
    try:
        record = Record.model_validate_json(body)
    except ValidationError:
        return None
    recorded = record.sources
    sources = [each for each in (recorded.image, recorded.mask, *recorded.reference) if each]
    return Trace(
        item_id=record.item_id,
        row_id=record.row_id,
        run_id=record.run.run_id,
        sources=tuple(map(SeenObject.of, sources)),
        outputs=(SeenObject.of(record.output),),
    )


def _trace_of_failure(body: bytes) -> Trace | None:
    try:
        failure = Failure.model_validate_json(body)
    except ValidationError:
        return None
    row = failure.row
    references = row.get("reference")
    listed = references if isinstance(references, list | tuple) else [references]
    uris = [row.get("image"), row.get("mask"), *listed]
    sources = tuple(SeenObject(uri) for uri in uris if isinstance(uri, str))
    return Trace(failure.item_id, failure.row_id, failure.run_id, sources)


def _trace_of_planned(item: WorkItem, run_id: str) -> Trace:
    """Return the trace of a planned row. It has no run id, since a plan does not prove an edit."""
    sources = tuple(map(SeenObject.of, item.sources.each()))
    return Trace(item.item_id, item.row_id, None, sources, planned_by=run_id)


def get_or_empty(store: Store, uri: str) -> bytes:
    """Return an object's content, or empty bytes if it was deleted since it was listed."""
    try:
        return store.get(uri)
    except NotFound:
        return b""


@contextmanager
def local_copy(store: Store, uri: str) -> Iterator[Path]:
    """Download an object to a temporary file, which is deleted at the end of the context."""
    with tempfile.TemporaryDirectory(prefix="ace-forget-") as folder:
        path = Path(folder) / "file"
        store.download(uri, path)
        yield path
