"""Catalog files → rows → specs, or rejects that say what is wrong.

JSONL, CSV or Parquet, gzip or not; streamed, so memory stays flat whatever the file's size. A
wrong row is a Reject with its line, column, reason and the row as it was; only a file that
cannot be read at all is a CatalogError.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import pyarrow
import pyarrow.parquet

from ace_tasks.errors import BadRow, CatalogError, NotFound, StoreError
from ace_tasks.specs import (
    MAX_URI_CHARS,
    Edit,
    Fill,
    Reference,
    TryOn,
    check_uri,
    parse_spec,
    quote,
)
from ace_tasks.store import Store, is_s3, split_uri

MAX_ROW_BYTES = 2**20
_ACCEPTED = "accepted: .jsonl, .ndjson, .csv or .parquet, each also with .gz"
# What lies between two cells of a row.
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_BATCH_ROWS = 1024
# Marks bytes that are not UTF-8 in text decoded with errors="surrogateescape".
_ESCAPES = range(0xDC80, 0xDD00)

Spec = Fill | Edit | Reference | TryOn
Checked = tuple[int, Spec, dict[str, Any]]
"""Line, spec, and the row's cells as they were."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as read, before it is checked. `line` is 1-based: the line, or the Parquet row."""

    line: int
    cells: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is no valid spec. `row` is the row as it was, cut at MAX_ROW_BYTES.

    `forgotten`: nothing is wrong with it but that its picture is to stay away.
    """

    line: int
    field: str | None
    reason: str
    row: dict[str, Any] | str
    forgotten: bool = False

    def to_json(self) -> str:
        content = {"line": self.line, "field": self.field, "reason": self.reason, "row": self.row}
        if self.forgotten:
            content["forgotten"] = True
        try:
            return json.dumps(content, ensure_ascii=False, default=str, allow_nan=False)
        except ValueError:  # Parquet and 1e999 bring numbers that JSON has no word for
            assert isinstance(self.row, dict)
            row = {k: v if isinstance(v, str | int | None) else str(v) for k, v in self.row.items()}
            return json.dumps(content | {"row": row}, ensure_ascii=False)


@contextmanager
def open_catalog(uri: str, store: Store) -> Iterator[Path]:
    """The catalog as a local file: itself, or a copy streamed from S3. Raises CatalogError."""
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


def read_rows(path: Path, *, table: bool = False) -> Iterator[Row | Reject]:
    """Every row of a catalog file, in order. Raises CatalogError for the file as a whole.

    `table`: the file is no catalog, but any table, which need not say a task, and may be .tsv.
    """
    if not path.stat().st_size:
        raise CatalogError(f"{path.name}: an empty file")
    packed = path.suffix.lower() == ".gz"
    kind = (Path(path.stem).suffix if packed else path.suffix).lower()
    try:
        if kind == ".parquet":
            yield from _read_parquet(path, packed)
        elif kind in {".jsonl", ".ndjson"}:
            with _open(path, packed) as file:
                yield from _read_jsonl(path.name, file)
        elif kind == ".csv" or (table and kind in _DELIMITERS):
            with _open(path, packed) as file:
                yield from _read_csv(path.name, file, _DELIMITERS[kind], table)
        else:
            raise CatalogError(f"{path.name}: {_ACCEPTED}")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CatalogError(f"{path.name}: damaged gzip ({error})") from None


def _open(path: Path, packed: bool) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path) if packed else path.open("rb"))


def to_specs(
    rows: Iterable[Row | Reject], catalog_uri: str, allowed_buckets: tuple[str, ...] | None
) -> Iterator[Checked | Reject]:
    """(line, spec with absolute URIs, the row's cells) for each good row, a Reject for the others.

    An S3 catalog may name `s3://` sources only, in `allowed_buckets`, or in its own bucket when
    that is None. A local catalog may name local paths, relative to itself, too.
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
    """As `to_specs`, with one more column: `target`, the picture that a training shall teach.

    (line, spec, absolute URI of the target, the row's cells), or a Reject.
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


# ---------------------------------------------------------------- sources


def _target(cell: Any) -> str:
    if cell is None or cell == "":
        raise BadRow("target", "missing; a training needs the wanted picture")
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
        value = getattr(spec, column, None)
        if column == "mask" and value in {"alpha", "auto"}:
            continue
        if isinstance(value, str):
            changes[column] = absolute_uri(column, value, catalog_uri, allowed_buckets)
        elif column == "reference" and value:
            changes[column] = tuple(
                absolute_uri(column, each, catalog_uri, allowed_buckets) for each in value
            )
    given = {column: getattr(spec, column) for column in changes}
    return spec if given == changes else spec.model_copy(update=changes)


def absolute_uri(
    column: str, uri: str, catalog_uri: str, allowed_buckets: tuple[str, ...] | None
) -> str:
    """A source as a row names it, where it is; see `to_specs`. Raises BadRow."""
    if is_s3(uri):
        if allowed_buckets is None and is_s3(catalog_uri):
            allowed_buckets = (split_uri(catalog_uri)[0],)
        bucket = split_uri(uri)[0]
        if allowed_buckets is not None and bucket not in allowed_buckets:
            raise BadRow(
                column, f"accepted buckets: {', '.join(allowed_buckets)}; given {quote(bucket)}"
            )
        return uri
    if is_s3(catalog_uri):
        raise BadRow(column, f"accepted in an S3 catalog: s3:// sources only; given {quote(uri)}")
    path = str((Path(catalog_uri).resolve().parent / uri).resolve())
    if len(path) > MAX_URI_CHARS:
        raise BadRow(column, f"accepted: paths of at most {MAX_URI_CHARS} characters")
    return path


# ---------------------------------------------------------------- readers


def _check_bom(name: str, start: bytes) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CatalogError(f"{name}: UTF-16 text (accepted: UTF-8)")


def _lines(name: str, file: IO[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """(line number, line, whole?) — a line over MAX_ROW_BYTES is cut, and never held whole."""
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if number == 1:
            _check_bom(name, line)
            line = line.removeprefix(b"\xef\xbb\xbf")
        whole = len(line) <= MAX_ROW_BYTES
        if not whole and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
        yield number, line, whole


def _too_long(number: int, line: bytes) -> Reject:
    reason = f"accepted: rows of at most {MAX_ROW_BYTES} bytes; this one is longer"
    return Reject(number, None, reason, line[:MAX_ROW_BYTES].decode(errors="replace"))


def _not_utf8(number: int, row: dict[str, Any] | str) -> Reject:
    return Reject(number, None, "accepted: UTF-8 text; this row is in another encoding", row)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for key, value in pairs:
        if key in cells:
            raise ValueError(f"key {key!r} stands twice")
        cells[key] = value
    return cells


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON value")


def _read_jsonl(name: str, file: IO[bytes]) -> Iterator[Row | Reject]:
    for number, line, whole in _lines(name, file):
        if not whole:
            yield _too_long(number, line)
            continue
        if not line.strip():
            continue
        try:
            text = line.decode()
        except UnicodeDecodeError:
            yield _not_utf8(number, line.decode(errors="replace").strip())
            continue
        try:
            cells = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
            if "\\u" in text:  # half of a surrogate pair is JSON, but no text that can be written
                json.dumps(cells, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            yield Reject(number, None, f"no JSON: {error}"[:300], text.strip())
            continue
        if isinstance(cells, dict):
            yield Row(number, cells)
        else:
            reason = f"accepted: one JSON object a line; given {type(cells).__name__}"
            yield Reject(number, None, reason, text.strip())


def _read_csv(name: str, file: IO[bytes], delimiter: str, table: bool) -> Iterator[Row | Reject]:
    too_long: list[Reject] = []
    raw: list[str] = []  # the lines of the row being read

    def text_lines() -> Iterator[str]:
        for number, line, whole in _lines(name, file):
            if whole:
                raw.append(line.decode(errors="surrogateescape"))
                yield raw[-1]
            else:
                too_long.append(_too_long(number, line))
                yield "\n"  # keeps the reader's line count right; blank rows are skipped

    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(text_lines(), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        raw.clear()
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            as_it_was = "".join(raw).encode(errors="surrogateescape").decode(errors="replace")
            yield Reject(number, None, f"no CSV: {error}", as_it_was[:MAX_ROW_BYTES])
            continue
        finally:
            yield from too_long
            too_long.clear()
        if not any(cells):
            continue
        if not header:
            header = _check_header(name, cells, delimiter, table)
        else:
            yield _csv_row(number, header, cells)


def _check_header(name: str, header: list[str], delimiter: str, table: bool) -> list[str]:
    header = [column.strip() for column in header]
    if not all(map(_is_utf8, header)):
        raise CatalogError(f"{name}: the header is no UTF-8 text; it is {header}"[:300])
    if len(header) == 1 and any(other in header[0] for other in ",;\t" if other != delimiter):
        wanted = {",": "commas", "\t": "tabs"}[delimiter]
        raise CatalogError(f"{name}: columns must be separated by {wanted}; the header is {header}")
    _check_unique(name, header)
    if not table and "task" not in header:
        raise CatalogError(f"{name}: the header has no 'task' column; it is {header}"[:300])
    return header


def _csv_row(number: int, header: list[str], cells: list[str]) -> Row | Reject:
    row = dict(zip(header, cells, strict=False))
    if not all(map(_is_utf8, cells)):
        readable = {k: v.encode(errors="surrogateescape").decode(errors="replace")
                    for k, v in row.items()}  # fmt: skip
        return _not_utf8(number, readable)
    if len(cells) != len(header):
        reason = f"accepted: {len(header)} cells, as the header; given {len(cells)}"
        return Reject(number, None, reason, row)
    return Row(number, row)


def _is_utf8(cell: str) -> bool:
    return not any(ord(c) in _ESCAPES for c in cell)


def _check_unique(name: str, columns: list[str]) -> None:
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise CatalogError(f"{name}: column {twice[0]!r} stands twice in the header")


def _read_parquet(path: Path, packed: bool) -> Iterator[Row | Reject]:
    with tempfile.TemporaryFile() as unpacked:
        if packed:  # Parquet is read from its end
            with gzip.open(path) as file:
                shutil.copyfileobj(file, unpacked)
        try:
            with pyarrow.parquet.ParquetFile(unpacked if packed else path) as parquet:
                _check_unique(path.name, parquet.schema_arrow.names)
                number = 0
                for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
                    for cells in batch.to_pylist():
                        number += 1
                        yield Row(number, cells)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise CatalogError(f"{path.name}: unreadable Parquet: {error}"[:300]) from None
