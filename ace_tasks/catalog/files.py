"""Catalog files → rows → specs, or rejects with a reason.

Files are JSONL, CSV or Parquet, each with or without gzip. They are streamed, so memory does not
grow with the file. A wrong row becomes a Reject with its line, column, reason and original cells.
Only a file that cannot be read at all raises CatalogError.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ace_tasks.catalog.readers.delimited import read_delimited
from ace_tasks.catalog.readers.encodings import HEAD_BYTES, as_utf8, table_codec
from ace_tasks.catalog.readers.header import CATALOG, Table
from ace_tasks.catalog.readers.jsonl import read_jsonl
from ace_tasks.catalog.readers.packed import is_packed, open_file, readable
from ace_tasks.catalog.readers.parquet import read_parquet
from ace_tasks.catalog.readers.row import Reject, Row
from ace_tasks.errors import BadRow, CatalogError, NotFound, StoreError
from ace_tasks.specs import MAX_URI_CHARS, Spec, check_uri, parse_spec, quote
from ace_tasks.store import Store, is_s3, split_uri

_ACCEPTED = "accepted: .jsonl, .ndjson, .csv or .parquet, each also with .gz"
# Suffix → the character between two cells of a row.
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}

Checked = tuple[int, Spec, dict[str, Any]]
"""A line number, its spec, and the original cells of the row."""


@contextmanager
def open_catalog(uri: str, store: Store) -> Iterator[Path]:
    """Yield the path of the local catalog, or of a temporary copy from S3.

    Raises CatalogError.
    """
    with tempfile.TemporaryDirectory(prefix="ace-catalog-") as scratch:
        path = Path(uri)
        try:
            check_uri(uri)
        except ValueError as error:
            raise CatalogError(f"catalog: {error}") from None
        if is_s3(uri):
            path = Path(scratch) / PurePosixPath(split_uri(uri)[1]).name
            try:
                store.download(uri, path)
            except NotFound:
                raise CatalogError(f"{uri}: no such catalog") from None
            except StoreError as error:
                raise CatalogError(str(error)) from None
        elif not path.is_file():
            raise CatalogError(f"{uri}: no such catalog")
        yield path


def read_rows(path: Path, table: Table = CATALOG) -> Iterator[Row | Reject]:
    """Yield every row of a catalog file, in order.

    `table` describes a file that is not a catalog. Such a file may also be .tsv, or .txt with tabs.
    Raises CatalogError if the file cannot be read.
    """
    packed = is_packed(path)
    kind = (Path(path.stem).suffix if packed else path.suffix).lower()
    with readable(path.name):
        if not path.stat().st_size:
            raise CatalogError(f"{path.name}: an empty file")
        if kind == ".parquet":
            yield from read_parquet(path, table, packed=packed)
        elif kind in {".jsonl", ".ndjson"}:
            with _open(path, table) as file:
                yield from read_jsonl(path.name, file, table)
        elif kind == ".csv" or (not table.catalog and kind in _DELIMITERS):
            with _open(path, table) as file:
                yield from read_delimited(path.name, file, _DELIMITERS[kind], table)
        else:
            raise CatalogError(f"{path.name}: {_ACCEPTED}")


def _open(path: Path, table: Table) -> IO[bytes]:
    """Open a text file as UTF-8. Raises CatalogError for an unknown encoding."""
    file = open_file(path)
    head = file.read(HEAD_BYTES)
    file.seek(0)
    try:
        codec = table_codec(head, table.encoding, catalog=table.catalog)
    except ValueError as error:
        raise CatalogError(f"{path.name}: {error}") from None
    return file if codec == "utf-8" else as_utf8(file, codec, strict=False)


def to_specs(
    rows: Iterable[Row | Reject], catalog_uri: str, allowed_buckets: tuple[str, ...] | None
) -> Iterator[Checked | Reject]:
    """Yield (line, spec with absolute URIs, the row's cells), or a Reject for a wrong row.

    An S3 catalog may name only `s3://` sources in `allowed_buckets`. If `allowed_buckets` is None,
    they must be in the catalog's own bucket. A local catalog may also name local paths, relative to
    itself.
    """
    for row in rows:
        if isinstance(row, Reject):
            yield row
            continue
        try:
            spec = _with_absolute_uris(parse_spec(row.cells), catalog_uri, allowed_buckets)
            yield row.line, spec, row.cells
        except BadRow as error:
            yield Reject(row.line, error.field, str(error), row.cells)


def to_examples(
    rows: Iterable[Row | Reject], catalog_uri: str, allowed_buckets: tuple[str, ...] | None
) -> Iterator[tuple[int, Spec, str, dict[str, Any]] | Reject]:
    """Yield (line, spec, absolute URI of the target, the row's cells), or a Reject.

    Rows are read as by `to_specs`, with one more column: `target`, the picture that a training
    should teach.
    """
    for row in rows:
        if isinstance(row, Reject):
            yield row
            continue
        try:
            cells = dict(row.cells)
            given = _target(cells.pop("target", None))
            spec = _with_absolute_uris(parse_spec(cells), catalog_uri, allowed_buckets)
            target = absolute_uri("target", given, catalog_uri, allowed_buckets)
            yield row.line, spec, target, row.cells
        except BadRow as error:
            yield Reject(row.line, error.field, str(error), row.cells)


def _target(cell: Any) -> str:
    if cell is None or cell == "":
        raise BadRow("target", "missing; training needs a target picture")
    if not isinstance(cell, str) or len(cell) > MAX_URI_CHARS:
        raise BadRow(
            "target", f"accepted: a URI of at most {MAX_URI_CHARS} characters; given {quote(cell)}"
        )
    try:
        return check_uri(cell)
    except ValueError as error:
        raise BadRow("target", str(error)) from None


def _with_absolute_uris(
    spec: Spec, catalog_uri: str, allowed_buckets: tuple[str, ...] | None
) -> Spec:
    changes: dict[str, Any] = {}
    for column in ("image", "mask", "reference"):
        value = spec.__dict__.get(column)
        if isinstance(value, str):
            if column == "mask" and value in {"alpha", "auto"}:
                continue
            uri: Any = absolute_uri(column, value, catalog_uri, allowed_buckets)
        elif column == "reference" and value:
            uri = tuple(absolute_uri(column, each, catalog_uri, allowed_buckets) for each in value)
        else:
            continue
        if uri != value:
            changes[column] = uri
    return spec.model_copy(update=changes) if changes else spec


def absolute_uri(
    column: str, uri: str, catalog_uri: str, allowed_buckets: tuple[str, ...] | None
) -> str:
    """Return the absolute URI of a source as a row names it, by the rules of `to_specs`.

    Raises BadRow.
    """
    if is_s3(uri):
        if allowed_buckets is None and is_s3(catalog_uri):
            allowed_buckets = (split_uri(catalog_uri)[0],)
        bucket = split_uri(uri)[0]
        if allowed_buckets is not None and bucket not in allowed_buckets:
            raise BadRow(
                column, f"accepted buckets: {', '.join(allowed_buckets)}; given {quote(bucket)}"
            )
        return uri
    if uri.startswith("//"):
        raise BadRow(
            column,
            "accepted: s3://bucket/key or a local path; given a web link without https:, "
            f"{quote(uri.partition('?')[0])}",
        )
    if is_s3(catalog_uri):
        raise BadRow(column, f"accepted in an S3 catalog: s3:// sources only; given {quote(uri)}")
    path = str((Path(catalog_uri).resolve().parent / uri).resolve())
    if len(path) > MAX_URI_CHARS:
        raise BadRow(column, f"accepted: paths of at most {MAX_URI_CHARS} characters")
    return path
