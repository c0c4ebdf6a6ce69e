"""A plan on disk: identified items in order, made from specs.

A plan is a Parquet file, sorted so that a replica rarely switches adapter or shape.
"""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from ace_tasks.catalog.files import Checked, Reject
from ace_tasks.catalog.overrides import NO_OVERRIDES, Overrides
from ace_tasks.errors import CatalogError
from ace_tasks.plan.identify import identified
from ace_tasks.plan.spool import Spool
from ace_tasks.provenance.tombstones import NOTHING_FORGOTTEN, Tombstones
from ace_tasks.specs import (
    DEFAULT_PIXELS,
    PIXELS_VERSION,
    ModelIdentity,
    PixelSettings,
    WorkItem,
    canonical_json,
)
from ace_tasks.store import Store

_BATCH_ROWS = 1000
_FORGOTTEN = "its source or its picture was forgotten, so it is not made again"

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
        # The item's ids under earlier versions of the code, comma-separated.
        pyarrow.field("earlier_ids", pyarrow.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One row of a plan. `same_as` names the row that is edited in its place, if there is one.

    The item is parsed only on access, because most rows of a resumed run are done.
    """

    line: int
    row_id: str
    item_id: str
    task: str
    same_as: str | None
    item_json: str

    @property
    def item(self) -> WorkItem:
        return WorkItem.model_validate_json(self.item_json)


@dataclass(frozen=True)
class Basis:
    """The basis of a plan besides its rows: another basis makes other items of the same rows."""

    model: ModelIdentity
    pixels: PixelSettings = DEFAULT_PIXELS
    overrides: Overrides = NO_OVERRIDES

    def to_bytes(self) -> bytes:
        """Return the basis and PIXELS_VERSION as a plan stores them."""
        content = {"model": self.model.model_dump(), "pixels": self.pixels.model_dump()}
        if self.overrides:
            content["changes"] = self.overrides.model_dump()
        return canonical_json({"pixels_version": PIXELS_VERSION, **content})


@dataclass(frozen=True)
class PlanFiles:
    """The paths of a plan on disk and of its rejects (JSON lines)."""

    plan: Path
    rejects: Path

    @classmethod
    def within(cls, folder: Path) -> PlanFiles:
        return cls(folder / "plan.parquet", folder / "rejects.jsonl")


def build_plan(
    specs: Iterable[Checked | Reject],
    basis: Basis,
    store: Store,
    files: PlanFiles,
    forgotten: Tombstones = NOTHING_FORGOTTEN,
    where: Callable[[int], str] | None = None,
) -> None:
    """Identify every spec with its overrides. Write the sorted plan, and the rejects as JSON lines.

    `where` is for a catalog that a run made from a user's file. It returns the place in that file
    of a line, or "" if it is unknown, and is called in the order of the lines.

    The plan stores its basis: see `fits`. Forgotten rows are written as rejects, without their
    contents.

    Raises CatalogError if there are no rows, or if sources cannot be identified because the store
    is unavailable.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ace-plan-") as scratch,
        closing(Spool(Path(scratch))) as spool,
        _old_objects_kept(),
    ):
        for each in identified(basis.overrides.applied(specs), basis.model, store, basis.pixels):
            if isinstance(each, Reject):
                spool.add_reject(each)
                continue
            row, cells = each
            if forgotten.covers(row):
                spool.add_reject(Reject(row.line, None, _FORGOTTEN, {}, forgotten=True))
            else:
                spool.add(row, cells)
        if not spool.end():
            raise CatalogError("the catalog has no rows")
        with files.rejects.open("w", encoding="utf-8") as out:
            for reject in spool.rejects(lined=where is None):
                if where and (place := where(reject.line)):
                    reject = replace(reject, reason=f"{place}: {reject.reason}")
                out.write(reject.to_json() + "\n")
        _write_plan(spool.in_order(), files.plan, basis.to_bytes())


@contextmanager
def _old_objects_kept() -> Iterator[None]:
    """Keep the garbage collector off the objects that are there before the body.

    A plan makes and drops millions of objects. Each full collection would look at all that Prefect
    and its like hold, which takes a seventh of a plan's time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def fits(plan_path: Path, basis: Basis) -> bool:
    """Return whether a plan was made for this basis, by code that makes the same pixels."""
    with pyarrow.parquet.ParquetFile(plan_path) as parquet:
        metadata = parquet.schema_arrow.metadata or {}
    return bool(metadata.get(_MADE_FOR) == basis.to_bytes())


def made_for(plan_path: Path) -> dict[str, Any]:
    """Return the basis of a plan: `model`, `pixels`, `pixels_version`, and `changes` if any.

    Raises ValueError for a file that is not a plan.
    """
    try:
        with pyarrow.parquet.ParquetFile(plan_path) as parquet:
            metadata = parquet.schema_arrow.metadata or {}
        return dict(json.loads(metadata[_MADE_FOR]))
    except (OSError, pyarrow.ArrowException, KeyError, TypeError) as error:
        raise ValueError(f"not a plan ({type(error).__name__})") from None


def read_plan(path: Path) -> Iterator[PlannedRow]:
    """Yield the rows of a plan in order, streamed."""
    names = ["line", "row_id", "item_id", "task", "same_as", "item"]
    with pyarrow.parquet.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=names):
            columns = (batch.column(name).to_pylist() for name in names)
            yield from map(PlannedRow, *columns)


def read_ids(path: Path) -> Iterator[str]:
    """Yield the item id of every row of a plan in order. This is much lighter than the rows."""
    with pyarrow.parquet.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(columns=["item_id"]):
            yield from batch.column("item_id").to_pylist()


def read_earlier_ids(path: Path, rows: np.ndarray) -> Iterator[list[str]]:
    """Yield the ids under earlier versions of the code of some rows (booleans), by batches."""
    with pyarrow.parquet.ParquetFile(path) as parquet:
        if "earlier_ids" not in parquet.schema_arrow.names:
            return
        first = 0
        for batch in parquet.iter_batches(columns=["earlier_ids"]):
            wanted = pyarrow.array(rows[first : (first := first + batch.num_rows)])
            found = batch.column("earlier_ids").filter(wanted).drop_null().to_pylist()
            yield list(chain.from_iterable(each.split(",") for each in found))


def rename_items(path: Path, renamed: Callable[[list[str], list[list[str]]], list[str]]) -> bool:
    """Rewrite a plan with the item ids that `renamed` returns for (item ids, their earlier ids).

    Returns whether any id changed. If none did, the plan stays as it is.
    """
    anew, changed = path.with_name(f"{path.name}.renamed"), False
    with pyarrow.parquet.ParquetFile(path) as parquet:
        schema = parquet.schema_arrow
        with pyarrow.parquet.ParquetWriter(anew, schema, compression="zstd") as writer:
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
                now, earlier, items = (
                    batch.column(name).to_pylist() for name in ("item_id", "earlier_ids", "item")
                )
                then = renamed(now, [each.split(",") if each else [] for each in earlier])
                if then != now:
                    changed = True
                    items = [  # the id is the first member of an item's JSON
                        item.replace(*names, 1)
                        for item, *names in zip(items, now, then, strict=True)
                    ]
                    for name, values in (("item_id", then), ("item", items)):
                        at = schema.get_field_index(name)
                        column = pyarrow.array(values, schema.field(at).type)
                        batch = batch.set_column(at, schema.field(at), column)
                writer.write_batch(batch)
    if changed:
        anew.replace(path)
    anew.unlink(missing_ok=True)
    return changed


def items_at(path: Path, positions: Collection[int]) -> list[WorkItem]:
    """Return the items at some positions of a plan, in its order. Other row groups are not read."""
    wanted, first, found = sorted(positions), 0, list[WorkItem]()
    with pyarrow.parquet.ParquetFile(path) as parquet:
        for group in range(parquet.num_row_groups):
            last = first + parquet.metadata.row_group(group).num_rows
            here = [each - first for each in wanted if first <= each < last]
            if here:
                column = parquet.read_row_group(group, columns=["item"]).column("item")
                found += (WorkItem.model_validate_json(column[each].as_py()) for each in here)
            first = last
    return found


def read_lines(path: Path) -> Iterator[tuple[str | None, int]]:
    """Yield (item id, line) of every row of a plan or of results, in order."""
    with pyarrow.parquet.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(columns=["item_id", "line"]):
            for row in batch.to_pylist():
                yield row["item_id"], row["line"]


def drop_items(path: Path, item_ids: Collection[str], lines: Collection[int]) -> None:
    """Rewrite a plan, or results, without the rows of some items.

    Of a row without an item in one of the `lines`, only its place is kept.
    """
    shorter = path.with_name(f"{path.name}.shorter")
    with pyarrow.parquet.ParquetFile(path) as parquet:
        schema = parquet.schema_arrow
        with pyarrow.parquet.ParquetWriter(shorter, schema, compression="zstd") as writer:
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
                rows = [each for each in batch.to_pylist() if each["item_id"] not in item_ids]
                for row in rows:
                    if row["item_id"] is None and row["line"] in lines:
                        row |= {"row_id": None, "task": None, "error": "forgotten"}
                writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema=schema))
    shorter.replace(path)


def shards(items: Iterable[WorkItem], size: int) -> Iterator[list[WorkItem]]:
    """Yield consecutive groups of at most `size` items."""
    iterator = iter(items)
    while shard := list(islice(iterator, size)):
        yield shard


def _write_plan(rows: Iterator[tuple[Any, ...]], path: Path, made_for: bytes) -> None:
    schema = SCHEMA.with_metadata({_MADE_FOR: made_for})
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while chunk := list(islice(rows, _BATCH_ROWS)):
            columns = [
                pyarrow.array(values, field.type)
                for values, field in zip(zip(*chunk, strict=True), schema, strict=True)
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
