"""Specs → an ordered plan of identified items, and what of it is already done.

A plan is a Parquet file, sorted so that a replica rarely switches adapter or shape, and built
through a scratch SQLite file: uniqueness, order and duplicates of a million rows cost disk, not
memory.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from ace_tasks.catalog import Reject, Spec
from ace_tasks.errors import (
    BadRow,
    CatalogError,
    NotFound,
    StoreError,
    StoreUnavailable,
)
from ace_tasks.provenance import Failure, failure_key, listed_item_ids, record_key
from ace_tasks.specs import (
    DEFAULT_PIXELS,
    PIXELS_VERSION,
    ModelIdentity,
    PixelSettings,
    Source,
    Sources,
    WorkItem,
    canonical_json,
    work_item,
)
from ace_tasks.store import Store, join_uri

_HEADS_IN_FLIGHT = 32
_KNOWN_SOURCES = 100_000  # references repeat over a catalog: remember that many heads
_BATCH_ROWS = 1000
# Up to so many planned items are asked for one by one; a listing answers 1000 keys a request,
# but must pass over everything that ever was written there.
_HEADS_AT_MOST = 2000

_MADE_FOR = b"ace_catalog.made_for"
SCHEMA = pyarrow.schema(
    [
        pyarrow.field("position", pyarrow.int64(), nullable=False),
        pyarrow.field("line", pyarrow.int64(), nullable=False),
        pyarrow.field("row_id", pyarrow.string(), nullable=False),
        pyarrow.field("item_id", pyarrow.string(), nullable=False),
        # The row whose picture this row shares: same request on the same bytes.
        pyarrow.field("same_as", pyarrow.string()),
        pyarrow.field("task", pyarrow.string(), nullable=False),
        pyarrow.field("item", pyarrow.string(), nullable=False),  # WorkItem as JSON
    ]
)


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One row of a plan. `same_as` names the row that is edited in its stead, if one is."""

    item: WorkItem
    same_as: str | None


@dataclass
class PlanCounts:
    """What a plan holds, in rows."""

    planned: int = 0
    rejected: int = 0
    shared: int = 0
    by_task: dict[str, int] = field(default_factory=dict)


def check_available(spec: Spec) -> None:
    """Refuse what this version cannot do yet, before anything is paid for. Raises BadRow."""
    if getattr(spec, "mask", None) == "auto":
        raise BadRow("mask", '"auto" needs a segmentation model, and none is set')
    if spec.candidates not in {None, 1}:
        raise BadRow(
            "candidates", f"not available in this version (accepted: 1); given {spec.candidates}"
        )


def build_plan(
    specs: Iterable[tuple[int, Spec, dict[str, Any]] | Reject],
    model: ModelIdentity,
    store: Store,
    plan_path: Path,
    rejects_path: Path,
    pixels: PixelSettings = DEFAULT_PIXELS,
) -> None:
    """Identify every spec; write the sorted plan, and the rejects as JSON lines.

    The plan remembers the model, the settings and the pixels' version it was made for: see `fits`.

    Raises CatalogError when there is no row at all, StoreUnavailable when sources cannot be
    identified because the store is away.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ace-plan-") as scratch,
        rejects_path.open("w", encoding="utf-8") as out,
    ):
        rows = _Scratch(Path(scratch) / "plan.sqlite")
        for each in _identified(specs, model, store, pixels):
            reject = each if isinstance(each, Reject) else rows.add(*each)
            if reject:
                out.write(reject.to_json() + "\n")
        if not rows.count and not out.tell():
            raise CatalogError("the catalog has no rows")
        _write_plan(rows, plan_path, _made_for(model, pixels))


def fits(plan_path: Path, model: ModelIdentity, pixels: PixelSettings = DEFAULT_PIXELS) -> bool:
    """Whether a plan was made for this model and settings, by code that makes the same pixels."""
    with pyarrow.parquet.ParquetFile(plan_path) as parquet:
        metadata = parquet.schema_arrow.metadata or {}
    return bool(metadata.get(_MADE_FOR) == _made_for(model, pixels))


def count(plan_path: Path, rejects_path: Path) -> PlanCounts:
    """What a plan holds."""
    counts = PlanCounts()
    with pyarrow.parquet.ParquetFile(plan_path) as parquet:
        for batch in parquet.iter_batches(columns=["task", "same_as"]):
            counts.planned += batch.num_rows
            counts.shared += batch.num_rows - batch.column("same_as").null_count
            for each in batch.column("task").value_counts().to_pylist():
                counts.by_task[each["values"]] = (
                    counts.by_task.get(each["values"], 0) + each["counts"]
                )
    with rejects_path.open(encoding="utf-8") as lines:
        counts.rejected = sum(1 for _ in lines)
    return counts


def read_plan(path: Path) -> Iterator[PlannedRow]:
    """The rows of a plan, in order, streamed."""
    with pyarrow.parquet.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=["item", "same_as"]):
            for row in batch.to_pylist():
                yield PlannedRow(WorkItem.model_validate_json(row["item"]), row["same_as"])


def read_ids(path: Path) -> Iterator[tuple[str, str | None]]:
    """(item id, same_as) of every row of a plan, in order; much lighter than the rows."""
    with pyarrow.parquet.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(columns=["item_id", "same_as"]):
            columns = (batch.column(name).to_pylist() for name in ("item_id", "same_as"))
            yield from zip(*columns, strict=True)


def shards(items: Iterable[WorkItem], size: int) -> Iterator[list[WorkItem]]:
    """Consecutive groups of at most `size` items."""
    iterator = iter(items)
    while shard := list(islice(iterator, size)):
        yield shard


# ---------------------------------------------------------------- what is done


@dataclass(frozen=True, eq=False)
class Finished:
    """What earlier runs left under an output URI, for the items of one plan."""

    records: frozenset[str]
    failures: dict[str, Failure]  # only those that a run does not try again by itself


def finished(store: Store, output_uri: str, plan_path: Path, retry_failures: bool) -> Finished:
    """Which planned items have a record, or a failure that would repeat.

    One listing, or one HEAD an item when there are few. A record beats a failure.
    """
    item_ids = {item_id for item_id, _ in read_ids(plan_path)}
    if len(item_ids) <= _HEADS_AT_MOST:
        records = _existing(store, output_uri, record_key, item_ids)
        failures = _existing(store, output_uri, failure_key, item_ids - records)
    else:
        records = {i for i in listed_item_ids(store, output_uri, "records") if i in item_ids}
        failures = {
            i
            for i in listed_item_ids(store, output_uri, "failures")
            if i in item_ids and i not in records
        }
    if retry_failures:
        return Finished(frozenset(records), {})
    with store.in_parallel(_HEADS_IN_FLIGHT) as pool:
        read = pool.map(lambda i: _read_failure(store, output_uri, i), sorted(failures))
        kept = {each.item_id: each for each in read if not each.transient}
    return Finished(frozenset(records), kept)


def _existing(store: Store, output_uri: str, key: Any, item_ids: set[str]) -> set[str]:
    def exists(item_id: str) -> bool:
        try:
            store.head(join_uri(output_uri, key(item_id)))
        except NotFound:
            return False
        return True

    with store.in_parallel(_HEADS_IN_FLIGHT) as pool:
        ordered = sorted(item_ids)
        return {i for i, found in zip(ordered, pool.map(exists, ordered), strict=True) if found}


def _read_failure(store: Store, output_uri: str, item_id: str) -> Failure:
    return Failure.model_validate_json(store.get(join_uri(output_uri, failure_key(item_id))))


# ---------------------------------------------------------------- identifying


class _Heads:
    """Source identities, remembered for a while. Used by many threads, which may ask twice."""

    def __init__(self, store: Store):
        self._store = store
        self._known: OrderedDict[str, Source] = OrderedDict()

    def source(self, uri: str) -> Source:
        known = self._known.get(uri)
        if known is None:
            known = self._known[uri] = self._ask(uri)
            while len(self._known) > _KNOWN_SOURCES:
                self._known.popitem(last=False)
        return known

    def _ask(self, uri: str) -> Source:
        try:
            info = self._store.head(uri)
        except StoreUnavailable:
            raise
        except StoreError as error:
            # S3 answers a HEAD in a missing bucket and for a missing key alike; a local path may
            # be one that the system cannot open, such as one too long.
            return Source(uri=uri, problem=str(error).removeprefix(f"{uri}: "))
        return Source(uri=uri, etag=info.etag, size_bytes=info.size_bytes, sha256=info.sha256)

    def sources(self, spec: Spec) -> Sources:
        mask = getattr(spec, "mask", None)
        mask_uri = mask if isinstance(mask, str) and mask not in {"alpha", "auto"} else None
        image = getattr(spec, "image", None)
        return Sources(
            image=self.source(image) if image else None,
            mask=self.source(mask_uri) if mask_uri else None,
            reference=tuple(self.source(each) for each in getattr(spec, "reference", ())),
        )


def _identified(
    specs: Iterable[tuple[int, Spec, dict[str, Any]] | Reject],
    model: ModelIdentity,
    store: Store,
    pixels: PixelSettings,
) -> Iterator[tuple[WorkItem, dict[str, Any]] | Reject]:
    """Work items in catalog order, their sources asked for in parallel, a window at a time."""
    heads = _Heads(store)

    def identify(
        line: int, spec: Spec, cells: dict[str, Any]
    ) -> tuple[WorkItem, dict[str, Any]] | Reject:
        try:
            check_available(spec)
            return work_item(line, spec, heads.sources(spec), model, pixels), cells
        except BadRow as error:
            return Reject(line, error.field, str(error), cells)

    window: OrderedDict[int, Future[Any] | Reject] = OrderedDict()
    try:
        with store.in_parallel(_HEADS_IN_FLIGHT) as pool:
            for number, each in enumerate(specs):
                window[number] = each if isinstance(each, Reject) else pool.submit(identify, *each)
                if len(window) >= 2 * _HEADS_IN_FLIGHT:
                    yield _result(window.popitem(last=False)[1])
            while window:
                yield _result(window.popitem(last=False)[1])
    except StoreUnavailable as error:
        raise CatalogError(f"sources cannot be identified: {error}") from None


def _result(each: Future[Any] | Reject) -> Any:
    return each if isinstance(each, Reject) else each.result()


# ---------------------------------------------------------------- scratch and writing


class _Scratch:
    """Rows of the plan on disk, until their order is known."""

    def __init__(self, path: Path):
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            CREATE TABLE rows (row_id TEXT PRIMARY KEY, line INT, item_id TEXT, same_as TEXT,
                               task TEXT, sort_key TEXT, item TEXT) WITHOUT ROWID;
            CREATE TABLE firsts (item_id TEXT PRIMARY KEY, row_id TEXT) WITHOUT ROWID;
            BEGIN;
            """
        )
        self.count = 0

    def add(self, item: WorkItem, cells: dict[str, Any]) -> Reject | None:
        """Keep a row; a Reject if its id is taken."""
        taken = self._db.execute("SELECT line FROM rows WHERE row_id = ?", (item.row_id,))
        if first := taken.fetchone():
            reason = f"accepted: an id used once; {item.row_id!r} stands in line {first[0]} too"
            return Reject(item.line, "id", reason, cells)
        first = self._db.execute(
            "SELECT row_id FROM firsts WHERE item_id = ?", (item.item_id,)
        ).fetchone()
        if not first:
            self._db.execute("INSERT INTO firsts VALUES (?, ?)", (item.item_id, item.row_id))
        self._db.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                item.row_id,
                item.line,
                item.item_id,
                first[0] if first else None,
                item.spec.task,
                _sort_key(item),
                item.model_dump_json(),
            ),
        )
        self.count += 1
        return None

    def in_order(self) -> Iterator[tuple[Any, ...]]:
        self._db.execute("COMMIT")
        yield from self._db.execute(
            "SELECT line, row_id, item_id, same_as, task, item FROM rows ORDER BY sort_key, line"
        )
        self._db.close()


def _sort_key(item: WorkItem) -> str:
    """Adapter, then what is known of the shape, then steps: neighbours run alike."""
    resolved = item.resolved
    return (
        f"{resolved.adapter or ''}|{resolved.task}|"
        f"{resolved.width or 0:05}x{resolved.height or 0:05}|{resolved.steps:04}"
    )


def _made_for(model: ModelIdentity, pixels: PixelSettings) -> bytes:
    content = {"model": model.model_dump(), "pixels": pixels.model_dump()}
    return canonical_json({"pixels_version": PIXELS_VERSION, **content})


def _write_plan(rows: _Scratch, path: Path, made_for: bytes) -> None:
    schema = SCHEMA.with_metadata({_MADE_FOR: made_for})
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        ordered = enumerate(rows.in_order())
        while chunk := list(islice(ordered, _BATCH_ROWS)):
            table = [
                {
                    "position": position,
                    "line": line,
                    "row_id": row_id,
                    "item_id": item_id,
                    "same_as": same_as,
                    "task": task,
                    "item": item,
                }
                for position, (line, row_id, item_id, same_as, task, item) in chunk
            ]
            writer.write_table(pyarrow.Table.from_pylist(table, schema=schema))
