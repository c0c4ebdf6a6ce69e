"""Test the reading of catalog files. If these break, one odd line ends a run of a million rows, a
row is dropped without a word, or two formats of one catalog are edited twice."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from ace_tasks.catalog.files import (
    Reject,
    Row,
    Spec,
    open_catalog,
    read_rows,
    to_examples,
    to_specs,
)
from ace_tasks.catalog.readers.header import Table
from ace_tasks.catalog.readers.jsonl import unique_keys
from ace_tasks.catalog.readers.row import MAX_ROW_BYTES
from ace_tasks.errors import CatalogError
from ace_tasks.settings import StoreSettings
from ace_tasks.specs import parse_spec
from ace_tasks.store import Store, join_uri

KINDS = ["jsonl", "ndjson", "csv", "parquet"]
ROWS: list[dict[str, Any]] = [
    {"id": "a", "task": "fill", "image": "s3://b/a", "mask": "s3://b/m", "prompt": "tea, hot"},
    {"id": "b", "task": "edit", "image": "s3://b/b", "prompt": 'she said "é"', "guidance": 30},
    {"id": "c", "task": "edit", "image": "s3://b/c", "prompt": "two\nlines", "seed": 7},
    {"id": "d", "task": "reference", "reference": ["s3://b/d", "s3://b/e"], "prompt": "雪"},
    {
        "id": "e",
        "task": "try_on",
        "image": "s3://b/f",
        "mask": {"box": [1, 2, 3, 4]},
        "reference": "s3://b/g",
        "prompt": "p",
        "format": "webp",
    },
]


def as_bytes(kind: str, rows: list[dict[str, Any]]) -> bytes:
    """Write the rows as a file of that kind; the two tables hold shapes and lists as JSON text."""
    if kind in {"jsonl", "ndjson"}:
        return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    flat = [
        {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()}
        for row in rows
    ]
    if kind == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(flat)
        return text.getvalue().encode()
    out = io.BytesIO()
    table = pyarrow.table({column: [row.get(column) for row in flat] for column in columns})
    pyarrow.parquet.write_table(table, out)
    return out.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., tuple[list[tuple[int, Spec]], list[Reject]]]:
    """Write a file and read it: read(name, content) → good (line, spec) pairs, rejects."""

    def read(name: str, content: bytes) -> tuple[list[tuple[int, Spec]], list[Reject]]:
        path = tmp_path / name
        path.write_bytes(content)
        good: list[tuple[int, Spec]] = []
        rejects: list[Reject] = []
        for each in to_specs(read_rows(path), "s3://b/catalog", None):
            if isinstance(each, Reject):
                rejects.append(each)
            else:
                good.append(each[:2])
        for reject in rejects:  # whatever it holds, rejects.jsonl is JSON in UTF-8
            written = json.loads(reject.to_json().encode(), parse_constant=pytest.fail)
            assert (written["line"], written["reason"]) == (reject.line, reject.reason)
        return good, rejects

    return read


Read = Callable[..., tuple[list[tuple[int, Spec]], list[Reject]]]


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_says_the_same(read: Read, kind: str, packed: bool) -> None:
    content = as_bytes(kind, ROWS)
    if packed:
        good, rejects = read(f"catalog.{kind}.gz", gzip.compress(content))
    else:
        good, rejects = read(f"catalog.{kind}", content)
    assert rejects == []
    assert [spec for _, spec in good] == [parse_spec(row) for row in ROWS]


def test_parquet_may_hold_structs_lists_and_numbers(read: Read) -> None:
    rows = [
        {"id": 1, "task": "fill", "image": "s3://b/a", "mask": {"box": [1.0, 2.0, 3.0, 4.0]}},
        {"id": 2, "task": "fill", "image": "s3://b/a", "mask": {"ellipse": [0.0, 0.0, 1.0, 1.0]}},
        {"id": 3, "task": "reference", "reference": ["s3://b/a", "s3://b/b"], "seed": 5},
    ]
    out = io.BytesIO()
    columns = ["id", "task", "image", "mask", "reference", "seed"]
    table = {column: [row.get(column) for row in rows] for column in columns}
    pyarrow.parquet.write_table(pyarrow.table({**table, "prompt": ["p"] * 3}), out)
    good, rejects = read("catalog.parquet", out.getvalue())
    assert rejects == []
    assert [spec for _, spec in good] == [parse_spec(row | {"prompt": "p"}) for row in rows]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_blank_lines_bom_and_windows_line_ends_are_no_rows(read: Read, kind: str) -> None:
    lines = as_bytes(kind, ROWS[:2]).splitlines()
    expected = [parse_spec(row) for row in ROWS[:2]]
    for end in (b"\n", b"\r\n"):
        content = b"\xef\xbb\xbf" + end.join([lines[0], b"", *lines[1:], b"", b""])
        good, rejects = read(f"catalog.{kind}", content)
        assert rejects == []
        assert [spec for _, spec in good] == expected
        assert [line for line, _ in good] == ([1, 3] if kind == "jsonl" else [3, 4])


def test_the_last_line_needs_no_line_end(read: Read) -> None:
    for kind in ("jsonl", "csv"):
        good, rejects = read(f"catalog.{kind}", as_bytes(kind, ROWS[:2]).rstrip())
        assert (len(good), rejects) == (2, [])


# ---------------------------------------------------------------- rows that are rejected

OBJECT = b'{"id": "a", "task": "edit", "image": "s3://b/a", "prompt": "p"}'


NO_OBJECTS = {  # name: (line, what the reason must say)
    "Latin-1": (b'{"id": "a", "prompt": "caf\xe9"}', "UTF-8"),
    "NaN": (b'{"guidance": NaN}', "NaN is not a JSON"),
    "-Infinity": (b'{"guidance": -Infinity}', "-Infinity is not a JSON"),
    "key twice": (b'{"id": "a", "id": "b"}', "key 'id' appears twice"),
    "key twice in a mask": (b'{"mask": {"box": 1, "box": 2}}', "key 'box' appears twice"),
    "list": (b'["a", "fill"]', "one JSON object a line; given list"),
    "text": (b'"text"', "given str"),
    "null": (b"null", "given NoneType"),
    "deep lists": (b"[" * 100_000, "unreadable JSON: nested too deeply"),
    "deep objects": (b'{"mask": ' + b'{"a":' * 100_000, "unreadable JSON: nested too deeply"),
    "lists that Python can read": (
        b'{"id": "a", "mask": ' + b"[" * 700 + b"]" * 700 + b"}",
        "unreadable JSON: nested too deeply",
    ),
    "object left open": (b'{"id": "a"', "unreadable JSON"),
    "two objects": (b'{"id": "a"} {"id": "b"}', "unreadable JSON: Extra data"),
    "number of 5000 digits": (b'{"seed": ' + b"9" * 5000 + b"}", "unreadable JSON"),
    "half a surrogate pair": (b'{"prompt": "\\ud83d"}', "unreadable JSON: .*surrogate"),
    "half a surrogate pair as key": (b'{"\\ud83d": 1}', "unreadable JSON: .*surrogate"),
    "CSV": (b"id,task,image", "unreadable JSON"),
    "zero bytes": (b"\0\0\0", "unreadable JSON"),
}


def test_many_points_are_not_many_levels(read: Read) -> None:
    polygon = [[n / 200, 0.5] for n in range(100)]
    row = json.loads(OBJECT) | {"task": "fill", "mask": {"polygon": polygon}}
    good, rejects = read("catalog.jsonl", json.dumps(row).encode())
    assert (len(good), rejects) == (1, [])


@pytest.mark.parametrize(("line", "reason"), NO_OBJECTS.values(), ids=NO_OBJECTS)
def test_a_line_that_is_no_object_is_one_reject(read: Read, line: bytes, reason: str) -> None:
    good, rejects = read("catalog.jsonl", b"\n".join([OBJECT, line, OBJECT]))
    assert [number for number, _ in good] == [1, 3]
    (reject,) = rejects
    assert (reject.line, reject.field) == (2, None)
    assert reject.row == line.decode(errors="replace")
    assert re.search(reason, reject.reason), reject.reason
    assert len(reject.reason) <= 300


HEADER = b"id,task,image,prompt\n"
GOOD = b"a,edit,s3://b/a,p\n"


BROKEN_RECORDS: dict[str, tuple[bytes, str, dict[str, str] | str]] = {
    # name: (record, what the reason must say, what the reject holds)
    "too few cells": (
        b"a,edit,s3://b/a\n",
        "4 cells, like the header; given 3",
        {"image": "s3://b/a"},
    ),
    "too many cells": (
        b"a,edit,s3://b/a,p,more\n",
        "4 cells, like the header; given 5",
        {"prompt": "p"},
    ),
    "Latin-1": (b"a,edit,s3://b/a,caf\xe9\n", "UTF-8", {"prompt": "caf\ufffd"}),
    "Latin-1 and too few": (b"a,edit,caf\xe9\n", "UTF-8", {"image": "caf\ufffd"}),
    "text after a quote": (b'a,edit,s3://b/a,"p"q\n', "unreadable CSV", 'a,edit,s3://b/a,"p"q\n'),
    "Latin-1 and a quote": (
        b'a,edit,s3://b/a,"caf\xe9"q\n',
        "unreadable CSV",
        'a,edit,s3://b/a,"caf\ufffd"q\n',
    ),
    "carriage return in a cell": (
        b"a,edit\r,s3://b/a,p\n",
        "unreadable CSV",
        "a,edit\r,s3://b/a,p\n",
    ),
}


@pytest.mark.parametrize(("record", "reason", "row"), BROKEN_RECORDS.values(), ids=BROKEN_RECORDS)
def test_a_broken_csv_record_is_one_reject(
    read: Read, record: bytes, reason: str, row: dict[str, str] | str
) -> None:
    good, rejects = read("catalog.csv", HEADER + GOOD + record + GOOD)
    assert [number for number, _ in good] == [2, 4]
    (reject,) = rejects
    assert (reject.line, reject.field) == (3, None)
    assert re.search(reason, reject.reason), reject.reason
    if isinstance(reject.row, dict) and isinstance(row, dict):
        assert reject.row.items() >= row.items()
    else:
        assert reject.row == row


def test_a_quote_left_open_is_a_reject_and_the_next_rows_are_read(read: Read) -> None:
    good, rejects = read("catalog.csv", HEADER + GOOD + b'b,edit,s3://b/a,"open\n' + GOOD)
    assert [number for number, _ in good] == [2, 4]
    (reject,) = rejects
    assert (reject.line, reject.row) == (3, 'b,edit,s3://b/a,"open\n')
    assert "line 4 is read as a row of its own (a)" in reject.reason


@pytest.mark.parametrize("more", [5000, 2 * MAX_ROW_BYTES // len(GOOD)], ids=["small", "large"])
def test_a_quote_left_open_swallows_no_row(read: Read, more: int) -> None:
    good, rejects = read("catalog.csv", HEADER + b'b,edit,s3://b/a,"open\n' + GOOD * more)
    assert len(good) == more
    assert [(reject.line, reject.lines) for reject in rejects] == [(2, 1)]


def test_lines_are_counted_where_a_record_starts(read: Read) -> None:
    records = b'a,edit,s3://b/a,"one\ntwo\n\nfour"\n\nb,paint,s3://b/a,p\nc,edit,s3://b/a,p\n'
    good, rejects = read("catalog.csv", HEADER + records)
    assert [number for number, _ in good] == [2, 8]
    assert getattr(good[0][1], "prompt", None) == "one\ntwo\n\nfour"
    assert [reject.line for reject in rejects] == [7]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reject_holds_line_column_reason_and_the_row_as_it_was(read: Read, kind: str) -> None:
    wrong = {"id": "x", "task": "edit", "image": "http://h/i", "prompt": "p", "guidance": 2.5}
    _, rejects = read(f"catalog.{kind}", as_bytes(kind, [ROWS[1], wrong]))
    (reject,) = rejects
    assert reject.line == {"csv": 3}.get(kind, 2)
    assert reject.field == "image"
    assert reject.reason == "accepted: s3://bucket/key or a local path; given scheme 'http'"
    as_it_was = wrong | ({"guidance": "2.5"} if kind == "csv" else {})
    assert json.loads(reject.to_json()) == {
        "line": reject.line,
        "field": reject.field,
        "reason": reject.reason,
        "row": as_it_was,
    }


@pytest.mark.parametrize(("kind", "guidance"), [("jsonl", float("inf")), ("parquet", float("nan"))])
def test_numbers_that_json_cannot_hold_are_rejected_with_a_reason(
    read: Read, kind: str, guidance: float
) -> None:
    """`rejects.jsonl` is read by other programs, and `NaN` is no JSON."""
    row = ROWS[1] | {"guidance": guidance, "seed": None}
    content = as_bytes(kind, [row]).replace(b"Infinity", b"1e999")
    _, (reject,) = read(f"catalog.{kind}", content)
    assert reject.field == "guidance"
    written = json.loads(reject.to_json())["row"]
    assert written == row | {"guidance": str(guidance)}


def test_a_line_of_ten_megabytes_is_rejected_and_never_held(read: Read, tmp_path: Path) -> None:
    long = b'{"id": "' + b"x" * 10_000_000 + b'"}'
    for kind, lines in (
        ("jsonl", [OBJECT, long, OBJECT]),
        ("csv", [HEADER.strip(), GOOD.strip(), long, GOOD.strip()]),
    ):
        path = tmp_path / f"catalog.{kind}"
        path.write_bytes(b"\n".join(lines))
        tracemalloc.start()
        rows = list(read_rows(path))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 * MAX_ROW_BYTES
        good = [row for row in rows if isinstance(row, Row)]
        (reject,) = (row for row in rows if isinstance(row, Reject))
        first = 1 if kind == "jsonl" else 2
        assert [row.line for row in good] == [first, first + 2]
        assert (reject.line, reject.field) == (lines.index(long) + 1, None)
        assert str(MAX_ROW_BYTES) in reject.reason
        assert reject.row == long[:MAX_ROW_BYTES].decode()


def test_a_row_of_many_keys_takes_no_quadratic_time(read: Read) -> None:
    """70,000 keys fit a row; comparing each with all others took minutes."""
    row = json.dumps({f"k{n}": 0 for n in range(70_000)}).encode()
    assert len(row) < MAX_ROW_BYTES
    _, (reject,) = read("catalog.jsonl", row)
    assert reject.field == "task"

    class Key(str):
        compared = 0
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Key.compared += 1
            return super().__eq__(other)

    keys = [Key(f"k{n}") for n in range(1000)]
    assert [*unique_keys([(key, 0) for key in keys])] == keys
    assert Key.compared < 3 * len(keys)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_large_catalog_streams(tmp_path: Path, kind: str) -> None:
    """The peak of memory depends on the batch that is read, and not on the file's size."""
    path = tmp_path / f"catalog.{kind}"
    path.write_bytes(as_bytes(kind, [ROWS[1] | {"id": str(n)} for n in range(5000)]))
    tracemalloc.start()
    count = sum(1 for _ in to_specs(read_rows(path), "s3://b/catalog", None))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 5000
    assert peak < 1_000_000  # the rows of one Parquet batch; all of them are 5 MB


# ---------------------------------------------------------------- files that are refused

PARQUET = as_bytes("parquet", ROWS)
PACKED = gzip.compress(as_bytes("jsonl", ROWS), mtime=0)


def _parquet_with_a_column_twice() -> bytes:
    out = io.BytesIO()
    arrays = [pyarrow.array(["x"])] * 3
    table = pyarrow.Table.from_arrays(arrays, names=["task", "prompt", "prompt"])
    pyarrow.parquet.write_table(table, out)
    return out.getvalue()


UNREADABLE = {  # case: (file name, content, what the message must say)
    "empty JSONL": ("catalog.jsonl", b"", "an empty file"),
    "empty Parquet": ("catalog.parquet", b"", "an empty file"),
    "text file": ("catalog.txt", b"x", r"accepted: \.jsonl, \.ndjson, \.csv or \.parquet"),
    "no ending": ("catalog", b"x", "accepted"),
    "only gz": ("catalog.gz", PACKED, "accepted"),
    "zip": ("catalog.jsonl.zip", b"x", "accepted"),
    "UTF-16 JSONL": ("catalog.jsonl", OBJECT.decode().encode("utf-16"), "UTF-16"),
    "UTF-16 CSV": ("catalog.csv", (HEADER + GOOD).decode().encode("utf-16"), "UTF-16"),
    "big-endian CSV": (
        "catalog.csv",
        b"\xfe\xff" + HEADER.decode().encode("utf-16-be"),
        "UTF-16",
    ),
    "semicolons": ("catalog.csv", b"id;task;image\n", "separated by commas.*id;task;image"),
    "tabs": ("catalog.csv", b"id\ttask\timage\n", "separated by commas"),
    "CSV column twice": ("catalog.csv", b"id,task,image,task\n", "column 'task' appears twice"),
    "no task column": ("catalog.csv", b"id,image,prompt\n", "no 'task' column.*'prompt'"),
    "Latin-1 header": ("catalog.csv", b"id,task,caf\xe9\na,edit,x\n", "UTF-8"),
    "Parquet column twice": (
        "catalog.parquet",
        _parquet_with_a_column_twice(),
        "column 'prompt' appears twice",
    ),
    "half a Parquet": ("catalog.parquet", PARQUET[: len(PARQUET) // 2], "unreadable Parquet"),
    "Parquet without its last byte": ("catalog.parquet", PARQUET[:-1], "unreadable Parquet"),
    "overwritten Parquet": (
        "catalog.parquet",
        PARQUET[:4] + b"\xff" * 64 + PARQUET[68:],
        "unreadable Parquet",
    ),
    "JSON as Parquet": ("catalog.parquet", OBJECT, "unreadable Parquet"),
    "packed JSON as Parquet": (
        "catalog.parquet.gz",
        gzip.compress(OBJECT, mtime=0),
        "unreadable Parquet",
    ),
    "Parquet cut in its gzip": (
        "catalog.parquet.gz",
        gzip.compress(PARQUET, mtime=0)[:-9],
        "damaged gzip",
    ),
    "gzip cut at its end": ("catalog.jsonl.gz", PACKED[:-9], "damaged gzip"),
    "gzip cut in its header": ("catalog.jsonl.gz", PACKED[:5], "damaged gzip"),
    "gzip with a wrong checksum": ("catalog.jsonl.gz", PACKED[:-8] + b"\0" * 8, "damaged gzip"),
    "overwritten gzip": (
        "catalog.jsonl.gz",
        PACKED[:20] + b"\xff" * 9 + PACKED[29:],
        "damaged gzip",
    ),
    "gz not packed": (
        "catalog.jsonl.gz",
        as_bytes("jsonl", ROWS),
        "damaged gzip.*[Nn]ot a gzipped file",
    ),
    "zip as gz": ("catalog.csv.gz", b"PK\x03\x04", "damaged gzip"),
}


@pytest.mark.parametrize(("name", "content", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_cannot_be_read_is_an_error_of_the_catalog(
    read: Read, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(CatalogError, match=message) as caught:
        read(name, content)
    assert str(caught.value).startswith(name)
    assert len(str(caught.value)) < 400


# ---------------------------------------------------------------- sources


def _one(
    row: dict[str, Any], catalog: str, allowed: tuple[str, ...] | None = None
) -> tuple[int, Spec, dict[str, Any]] | Reject:
    (each,) = to_specs([Row(1, row)], catalog, allowed)
    return each


SOURCES = ["image", "mask", "reference"]


def _row(column: str, uri: str) -> dict[str, Any]:
    good = {"image": "s3://own/i", "mask": "s3://own/m", "reference": ["s3://own/r"]}
    value: Any = ["s3://own/r", uri] if column == "reference" else uri
    return {"id": "a", "task": "try_on", "prompt": "p"} | good | {column: value}


@pytest.mark.parametrize("column", SOURCES)
def test_an_s3_catalog_names_objects_of_its_own_bucket_only(column: str) -> None:
    catalog = "s3://own/catalogs/c.jsonl"
    assert not isinstance(_one(_row(column, "s3://own/x"), catalog), Reject)
    for uri, reason in (
        ("s3://other/x", "accepted buckets: own; given 'other'"),
        ("s3://own2/x", "accepted buckets: own; given 'own2'"),
        ("x.png", "s3:// sources only; given 'x.png'"),
        ("/etc/passwd", "s3:// sources only; given '/etc/passwd'"),
    ):
        reject = _one(_row(column, uri), catalog)
        assert isinstance(reject, Reject)
        assert (reject.field, reason in reject.reason) == (column, True)
        assert reject.row == _row(column, uri)


@pytest.mark.parametrize("column", SOURCES)
@pytest.mark.parametrize("catalog", ["s3://own/c.jsonl", "c.jsonl"])
def test_the_allow_list_decides_where_there_is_one(column: str, catalog: str) -> None:
    allowed = ("own", "shared")
    assert not isinstance(_one(_row(column, "s3://shared/x"), catalog, allowed), Reject)
    reject = _one(_row(column, "s3://private/x"), catalog, allowed)
    assert isinstance(reject, Reject)
    assert (reject.field, reject.reason) == (
        column,
        "accepted buckets: own, shared; given 'private'",
    )


def test_a_web_link_without_its_scheme_is_named_without_what_may_be_secret() -> None:
    reject = _one(_row("image", "//cdn.shop.com/a.png?token=secret"), "c.jsonl")
    assert isinstance(reject, Reject)
    assert "given a web link without https:, '//cdn.shop.com/a.png'" in reject.reason
    assert "secret" not in reject.reason


def test_a_local_path_is_measured_where_it_leads(tmp_path: Path) -> None:
    """It is short as the row has it, and too long in its catalog's folder."""
    catalog = tmp_path / ("f" * 200) / "c.jsonl"
    each = _one(_row("image", "i" * 1500), str(catalog))
    assert not isinstance(each, Reject)
    reject = _one(_row("image", "i" * 2000), str(catalog))
    assert isinstance(reject, Reject)
    assert "accepted: paths of at most 2048 characters" in reject.reason


def test_a_broken_row_of_a_training_is_handed_on() -> None:
    broken = Reject(1, None, "no JSON object", "{")
    row = {"id": "a", "task": "edit", "image": "s3://b/i", "prompt": "p", "target": "s3://b/t"}
    first, (line, _, target, cells) = to_examples([broken, Row(2, row)], "s3://b/c.jsonl", None)  # type: ignore[misc]
    assert first is broken
    assert (line, target, cells) == (2, "s3://b/t", row)


def test_the_allow_list_can_leave_the_catalogs_own_bucket_out() -> None:
    reject = _one(_row("image", "s3://own/x"), "s3://own/c.jsonl", ("shared",))
    assert isinstance(reject, Reject)


def test_a_local_catalog_names_local_files_beside_it_and_any_bucket(tmp_path: Path) -> None:
    catalog = str(tmp_path / "catalogs" / "c.jsonl")
    row = _row("reference", "../r.png") | {"image": "i.png", "mask": "/masks/m.png"}
    each = _one(row, catalog)
    assert not isinstance(each, Reject)
    _, spec, cells = each
    assert getattr(spec, "image", None) == str(tmp_path / "catalogs" / "i.png")
    assert getattr(spec, "mask", None) == "/masks/m.png"
    assert getattr(spec, "reference", None) == ("s3://own/r", str(tmp_path / "r.png"))
    assert cells == row
    for mask in ("alpha", "auto", {"box": [0, 0, 1, 1]}):
        each = _one(row | {"mask": mask}, catalog)
        assert not isinstance(each, Reject)
        assert getattr(each[1], "mask", None) == parse_spec(row | {"mask": mask}).mask  # type: ignore[union-attr]


# ---------------------------------------------------------------- where it lies


@pytest.mark.parametrize("kind", ["jsonl", "parquet.gz"])
def test_a_catalog_on_s3_is_read_like_a_local_one(store: Store, prefix: str, kind: str) -> None:
    plain, _, packed = kind.partition(".")
    content = as_bytes(plain, ROWS)
    uri = join_uri(prefix, f"deep/catalog.{kind}")
    store.put(uri, gzip.compress(content) if packed else content, "application/octet-stream")
    with open_catalog(uri, store) as path:
        assert [row.cells["id"] for row in read_rows(path) if isinstance(row, Row)] == [*"abcde"]
    assert not path.exists()


def test_a_local_catalog_is_read_where_it_lies(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "catalog.jsonl"
    path.write_bytes(OBJECT)
    with open_catalog(str(path), store) as opened:
        assert opened == path
    assert path.exists()


def test_a_catalog_that_is_not_there_says_so(store: Store, prefix: str, tmp_path: Path) -> None:
    missing = [join_uri(prefix, "c.csv"), "s3://no-such-bucket/c.csv", f"{tmp_path}/c.csv"]
    for uri in [*missing, str(tmp_path)]:
        with pytest.raises(CatalogError) as caught, open_catalog(uri, store):
            pass
        assert str(caught.value).startswith(uri)


@pytest.mark.usefixtures("object_store")  # for its keys
def test_a_store_that_is_away_is_an_error_of_the_catalog() -> None:
    away = Store(StoreSettings(endpoint_url="http://127.0.0.1:9", max_attempts=1, patience_s=0))
    with pytest.raises(CatalogError, match="Connection"), open_catalog("s3://b/c.csv", away):
        pass


def test_an_address_that_is_none_is_an_error_of_the_catalog(store: Store) -> None:
    for uri, words in (
        ("https://shop.test/c.csv", "given scheme 'https'"),
        ("c\n.csv", "control characters"),
    ):
        with pytest.raises(CatalogError, match=f"catalog: .*{words}"), open_catalog(uri, store):
            pass


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_encoding_that_nobody_knows_is_an_error_of_the_catalog(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"c.{kind}"
    path.write_bytes(as_bytes(kind, ROWS))
    with pytest.raises(CatalogError, match=f"c.{kind}: .*utf-9"):
        list(read_rows(path, Table(encoding="utf-9")))
