"""Parquet → rows. Memory is limited in bytes, because a small file may hold rows of any size.

A text shared by a thousand rows is stored once. So texts stay in Arrow's dictionaries, and a row
becomes Python objects only after its size is known.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from ace_tasks.catalog.readers.header import Table, check_columns, check_unique
from ace_tasks.catalog.readers.parquet_pages import Pages, read_pages
from ace_tasks.catalog.readers.row import MAX_ROW_BYTES, Reject, Row, too_long
from ace_tasks.errors import CatalogError
from ace_tasks.wording import counted

MAX_UNPACKED_BYTES = 2**30
"""The largest size that a .parquet.gz may unpack to, on disk."""

# The largest page of every column of a row group is in memory at once. Most writers make pages of
# 1 MB, but DuckDB's may have 100 MB.
_MAX_PAGES_BYTES = 2**27
# A row's list may span any number of pages, so the limit on lists is per row group.
_MAX_LISTS_BYTES, _MAX_LIST_VALUES = 2**28, 2**23
# The limit for a batch of values that share bytes of a page.
_MAX_SHARING_BYTES = 2**26
_BATCH_ROWS = 256
_BATCH_BYTES = 4 * MAX_ROW_BYTES
_CHUNK_BYTES = 2**16
_SHOWN_BYTES = 1000
_VALUE_BYTES = 8  # the approximate size of a number
# Dates after the year 9999, unknown time zones, and text that is not UTF-8.
_UNREADABLE = (OverflowError, LookupError, ValueError)


def read_parquet(path: Path, table: Table, *, packed: bool) -> Iterator[Row | Reject]:
    """Yield every row, in order. Raises CatalogError if the file cannot be read."""
    with ExitStack() as held:
        file = _unpacked(path, held) if packed else held.enter_context(path.open("rb"))
        try:
            yield from _rows(path.name, file, table)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise CatalogError(f"{path.name}: unreadable Parquet: {error}"[:300]) from None


def _unpacked(path: Path, held: ExitStack) -> IO[bytes]:
    """Unpack a file to disk first, because Parquet is read from its end."""
    unpacked: IO[bytes] = held.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    with gzip.open(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            unpacked.write(chunk)
            if unpacked.tell() > MAX_UNPACKED_BYTES:
                raise CatalogError(
                    f"{path.name}: accepted: at most {MAX_UNPACKED_BYTES:,} bytes of Parquet in a "
                    ".gz; this file unpacks to more. Parquet is compressed already, so "
                    "give it without .gz"
                )
    return unpacked


def _rows(name: str, file: IO[bytes], table: Table) -> Iterator[Row | Reject]:
    metadata = pyarrow.parquet.read_metadata(file)
    names = metadata.schema.to_arrow_schema().names
    check_unique(name, names)
    check_columns(name, names, table)
    if not metadata.num_rows:
        raise CatalogError(f"{name}: no {table.noun}s; the columns are {names}"[:400])
    texts = [
        column.path
        for column in map(metadata.schema.column, range(metadata.num_columns))
        if column.physical_type == "BYTE_ARRAY" and column.logical_type.type != "DECIMAL"
    ]
    number = 0
    for group in range(metadata.num_row_groups):
        pages = read_pages(file, metadata, group)
        rows = _batch_rows(name, pages)
        # Arrow cannot keep texts that share their beginnings in a dictionary.
        plain = {each.column for each in pages if each.shares_beginnings}
        with pyarrow.parquet.ParquetFile(
            file,
            metadata=metadata,
            read_dictionary=[each for each in texts if each not in plain],
            pre_buffer=False,
            buffer_size=_CHUNK_BYTES,
        ) as parquet:
            for batch in parquet.iter_batches(rows, row_groups=[group], use_threads=False):
                yield from _rows_of_batch(batch, number)
                number += batch.num_rows
    if number != metadata.num_rows:
        raise CatalogError(
            f"{name}: {counted(number, 'row')}, but its footer announces {metadata.num_rows:,}"
        )


def _batch_rows(name: str, pages: list[Pages]) -> int:
    """Return how many rows to read at once, so that they touch at most two pages of a column.

    Raises CatalogError if those pages may not fit into memory.
    """
    largest = sum(each.largest_bytes for each in pages)
    if largest > _MAX_PAGES_BYTES:
        raise CatalogError(
            f"{name}: accepted: pages of at most {_MAX_PAGES_BYTES:,} bytes, all columns together; "
            f"those of this file unpack to {largest:,}"
        )
    for each in pages:
        list_bytes = max(each.all_bytes, each.values * each.value_bytes)
        if each.repeated and (list_bytes > _MAX_LISTS_BYTES or each.values > _MAX_LIST_VALUES):
            raise CatalogError(
                f"{name}: column {each.column[:80]}: accepted in lists of a row group: "
                f"{_MAX_LIST_VALUES:,} values and {_MAX_LISTS_BYTES:,} bytes; given "
                f"{each.values:,} values and up to {list_bytes:,} bytes"
            )
    sharing = (_MAX_SHARING_BYTES // each.value_bytes for each in pages if each.value_bytes)
    return max(1, min([_BATCH_ROWS, *sharing, *(each.fewest_values for each in pages)]))


def _rows_of_batch(batch: pyarrow.RecordBatch, before: int) -> Iterator[Row | Reject]:
    sizes = {name: _bytes_of(column) for name, column in _columns(batch)}
    total = sum(sizes.values(), np.zeros(batch.num_rows, np.int64))
    if total.sum() <= _BATCH_BYTES and total.max(initial=0) <= MAX_ROW_BYTES:
        rows = None
        with suppress(*_UNREADABLE):
            rows = batch.to_pylist()
        if rows is not None:
            yield from (Row(number, cells) for number, cells in enumerate(rows, start=before + 1))
            return
    for place in range(batch.num_rows):
        number = before + place + 1
        if total[place] <= MAX_ROW_BYTES:
            yield _row(batch, place, number)
        else:
            yield too_long(number, _beginning(batch, place, sizes))


def _row(batch: pyarrow.RecordBatch, place: int, number: int) -> Row | Reject:
    """Return a row of a batch, or a reject if Python cannot represent one of its values."""
    cells = {name: _value(column, place) for name, column in _columns(batch)}
    for name, cell in cells.items():
        if isinstance(cell, _Unreadable):
            reason = f"accepted: values that can be read; given {cell}"
            return Reject(number, name, reason, {each: str(cells[each]) for each in cells})
    return Row(number, cells)


class _Unreadable(str):
    """The placeholder of a value that Python cannot represent."""


def _value(column: pyarrow.Array, place: int) -> Any:
    try:
        return column[place].as_py()
    except _UNREADABLE:
        return _Unreadable(f"a value of the type {column.type} that cannot"[:200])


def _columns(batch: pyarrow.RecordBatch) -> Iterator[tuple[str, pyarrow.Array]]:
    yield from zip(batch.schema.names, batch.columns, strict=True)


def _beginning(
    batch: pyarrow.RecordBatch, place: int, sizes: dict[str, np.ndarray]
) -> dict[str, Any]:
    return {
        name: _value(column, place)
        if sizes[name][place] <= _SHOWN_BYTES
        else f"({sizes[name][place]:,} bytes)"
        for name, column in _columns(batch)
    }


def _bytes_of(array: pyarrow.Array) -> np.ndarray:
    """Return the approximate size of each value in bytes, without creating Python objects."""
    kind = array.type
    sizes: np.ndarray
    types = pyarrow.types
    if types.is_dictionary(kind) and len(array.dictionary):
        sizes = _bytes_of(array.dictionary)[_numbers(array.indices)]
    elif types.is_fixed_size_binary(kind):
        sizes = np.full(len(array), kind.byte_width, np.int64)
    elif types.is_string_view(kind) or types.is_binary_view(kind):
        sizes = _bytes_of(array.cast(pyarrow.large_binary()))
    elif types.is_fixed_size_list(kind):
        sizes = _bytes_of(array.cast(pyarrow.large_list(kind.value_type)))
    elif kind in (
        pyarrow.string(),
        pyarrow.binary(),
        pyarrow.large_string(),
        pyarrow.large_binary(),
    ):
        sizes = _numbers(pyarrow.compute.binary_length(array))
    elif types.is_struct(kind):
        sizes = sum(map(_bytes_of, array.flatten()), np.zeros(len(array), np.int64))
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        ends = np.cumsum(_bytes_of(array.values) + _VALUE_BYTES)
        starts = np.concatenate([[0], ends])
        offsets = _numbers(array.offsets)
        sizes = starts[offsets[1:]] - starts[offsets[:-1]]
    elif types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind):
        sizes = np.full(len(array), _VALUE_BYTES, np.int64)
    elif types.is_dictionary(kind):  # with an empty dictionary
        sizes = np.zeros(len(array), np.int64)
    else:
        raise ValueError(f"accepted: texts, numbers, times, lists and structs; given {kind}")
    return sizes


def _numbers(array: pyarrow.Array) -> np.ndarray:
    numbers: np.ndarray = array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers
