"""Test the reader of Parquet. If these break, a file of some kilobytes takes all memory of a worker,
and every run in it ends."""

from __future__ import annotations

import datetime
import gzip
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ace_tasks.catalog.files import Reject, Row, Table, read_rows
from ace_tasks.catalog.readers import parquet
from ace_tasks.catalog.readers.row import MAX_ROW_BYTES
from ace_tasks.errors import CatalogError
from tests.support.processes import run_python

FEED = Table(catalog=False)
ROWS = 1024
MB = 1_000_000


def shared(text: str, rows: int = ROWS) -> pyarrow.Array:
    """A column in which all rows share a text, which is in the file once."""
    return pyarrow.DictionaryArray.from_arrays(
        pyarrow.array(np.zeros(rows, np.int32)), pyarrow.array([text])
    )


def one_list(values: pyarrow.Array) -> pyarrow.Array:
    return pyarrow.ListArray.from_arrays(pyarrow.array([0, len(values)], pyarrow.int32()), values)


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, path, compression="zstd", store_schema=False, **options)
    return path


# In a process of its own, since the peak of a process never falls.
PEAK = """
import sys, pathlib, resource
from ace_tasks.catalog.files import Reject, read_rows
from ace_tasks.catalog.readers.header import Table
def peak_kb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, rows, rejects, written = peak_kb(), 0, 0, 0
for each in read_rows(pathlib.Path(sys.argv[1]), Table(catalog=False)):
    rows += 1
    if isinstance(each, Reject):
        rejects, written = rejects + 1, written + len(each.to_json())
print(rows, rejects, written, (peak_kb() - before) // 1000)
"""


@pytest.mark.parametrize(
    ("columns", "rows", "rejects"),
    [
        pytest.param(
            {"id": [str(n) for n in range(ROWS)], "prompt": shared("x" * MB)}, ROWS, 0, id="1 MB"
        ),
        pytest.param({"prompt": shared("x" * 2 * MB)}, ROWS, ROWS, id="2 MB"),
        pytest.param({"prompt": shared("x" * 20 * MB)}, ROWS, ROWS, id="20 MB"),
        pytest.param({"reference": one_list(shared("x" * 100_000, MB))}, 1, 1, id="a list"),
        pytest.param(
            {"mask": pyarrow.StructArray.from_arrays([shared("x" * 2 * MB)], ["box"])},
            ROWS,
            ROWS,
            id="a struct",
        ),
    ],
)
def test_a_small_file_of_huge_rows_takes_little_memory(
    tmp_path: Path, columns: dict[str, Any], rows: int, rejects: int
) -> None:
    path = write(tmp_path / "feed.parquet", columns)
    assert path.stat().st_size < 20_000
    figures = run_python("-c", PEAK, str(path)).stdout.split()
    assert [int(each) for each in figures[:2]] == [rows, rejects]
    assert int(figures[2]) < 500_000  # of rejects.jsonl
    assert int(figures[3]) < 300  # MB; it was 2,443 for 1 MB, 4,896 for 2 MB


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        pytest.param(
            {"prompt": ["x" * 20 * MB] * 8}, "pages of at most 134,217,728 bytes", id="a page"
        ),
        pytest.param(
            {f"c{n}": ["x" * MB] for n in range(200)}, "all columns together", id="many columns"
        ),
        pytest.param(
            {"reference": one_list(pyarrow.array(np.zeros(10 * MB, np.int64)))},
            "column reference.*in lists of a row group",
            id="a list of ten million",
        ),
    ],
)
def test_pages_that_unpack_to_too_much_are_refused_before_they_are_unpacked(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    path = write(
        tmp_path / "feed.parquet",
        columns,
        use_dictionary=False,
        data_page_version="2.0",
        column_encoding={"reference.list.element": "DELTA_BINARY_PACKED"}
        if "reference" in columns
        else None,
    )
    assert path.stat().st_size < MB
    with pytest.raises(CatalogError, match=message):
        list(read_rows(path, FEED))


ODD = {
    "bytes of one length": pyarrow.array([b"x" * 2 * MB] * 20, pyarrow.binary(2 * MB)),
    "lists of one length": pyarrow.FixedSizeListArray.from_arrays(shared("x" * MB, 40), 2),
    "views": pyarrow.array(["x" * 2 * MB] * 20, pyarrow.string_view()),
}


@pytest.mark.parametrize("column", ODD.values(), ids=ODD)
def test_the_bytes_of_every_type_are_counted(tmp_path: Path, column: pyarrow.Array) -> None:
    path = tmp_path / "feed.parquet"
    table = pyarrow.table({"prompt": column})
    pyarrow.parquet.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30)
    assert path.stat().st_size < 20_000
    assert [type(each) for each in read_rows(path, FEED)] == [Reject] * 20


def test_a_type_whose_bytes_nobody_counts_is_refused(tmp_path: Path) -> None:
    numbers = pyarrow.array([0, 0], pyarrow.int32())
    views = pyarrow.ListViewArray.from_arrays(numbers, numbers, pyarrow.array(["a"]))
    pyarrow.parquet.write_table(pyarrow.table({"reference": views}), tmp_path / "feed.parquet")
    with pytest.raises(CatalogError, match=r"accepted: texts, numbers, .*; given list_view"):
        list(read_rows(tmp_path / "feed.parquet", FEED))


SHARING = {
    "lengths": (pyarrow.array([b"x" * 1000] * 500, pyarrow.binary(1000)), {}),
    "beginnings": (
        ["x" * 1000] * 500,
        {"use_dictionary": False, "column_encoding": {"prompt": "DELTA_BYTE_ARRAY"}},
    ),
}


@pytest.mark.parametrize(("column", "options"), SHARING.values(), ids=SHARING)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_values_that_share_bytes_of_a_page_are_read_a_few_at_a_time(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    column: Any,
    options: dict[str, Any],
    version: str,
) -> None:
    """A page of a megabyte may hold many values of a megabyte."""
    path = write(
        tmp_path / "feed.parquet", {"prompt": column}, data_page_version=version, **options
    )
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(parquet, "_MAX_SHARING_BYTES", 30_000)
    batches = []
    count = parquet._batch_rows
    monkeypatch.setattr(
        parquet, "_batch_rows", lambda *given: batches.append(count(*given)) or batches[-1]
    )
    found = [each.cells["prompt"] for each in read_rows(path, FEED) if isinstance(each, Row)]
    assert len(found) == 500
    assert {str(each) for each in found} == {str(pyarrow.array(column)[0])}
    assert 1 <= batches[0] <= 30


def test_a_row_that_is_too_long_is_one_reject_among_good_rows(tmp_path: Path) -> None:
    long = {"id": "b", "prompt": "x" * MAX_ROW_BYTES, "image": "s3://b/b.png"}
    rows = [long | {"id": "a", "prompt": "p"}, long, long | {"id": "c", "prompt": "q" * 99}]
    path = tmp_path / "catalog.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    first, second, third = read_rows(path)
    assert isinstance(second, Reject)
    assert (second.line, second.row) == (2, long | {"prompt": "(1,048,576 bytes)"})
    assert f"rows of at most {MAX_ROW_BYTES} bytes" in second.reason
    assert [each.cells for each in (first, third) if isinstance(each, Row)] == [rows[0], rows[2]]


def test_a_packed_file_is_unpacked_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "MAX_UNPACKED_BYTES", 10 * MB)
    path = tmp_path / "catalog.parquet.gz"
    path.write_bytes(gzip.compress(bytes(11 * MB)))
    with pytest.raises(CatalogError, match=r"catalog.parquet.gz: accepted: at most 10,000,000 byt"):
        list(read_rows(path))


def test_a_packed_text_is_never_held(tmp_path: Path) -> None:
    path = tmp_path / "feed.jsonl.gz"
    with gzip.open(path, "wb") as out:
        out.write(b'{"id": "a"}\n')
        for _ in range(150):
            out.write(bytes(MB))
    figures = run_python("-c", PEAK, str(path)).stdout.split()
    assert [int(each) for each in figures[:2]] == [2, 1]
    assert int(figures[3]) < 100


N = 5
TYPES = {
    "decimal": pyarrow.array([Decimal("1.50")] * N, pyarrow.decimal128(30, 2)),
    "large text": pyarrow.array(["a", None, "c", "d", "é"], pyarrow.large_string()),
    "text view": pyarrow.array(["a", None, "longer than twelve", "d", "é"], pyarrow.string_view()),
    "bytes": pyarrow.array([b"a", None, b"\xff", b"", b"x"]),
    "dictionary": pyarrow.array(["a", None, "c", "a", "a"]).dictionary_encode(),
    "no text": pyarrow.array([None] * N, pyarrow.string()),
    "unsigned": pyarrow.array([2**63] * N, pyarrow.uint64()),
    "struct": pyarrow.array(
        [
            {"a": "x", "b": [1, 2]},
            None,
            {"a": None, "b": None},
            {"a": "y", "b": []},
            {"a": "z", "b": [3]},
        ]
    ),
    "map": pyarrow.array(
        [[("k", "v")], None, [], [("a", "b"), ("c", None)], []],
        pyarrow.map_(pyarrow.string(), pyarrow.string()),
    ),
    "fixed list": pyarrow.array(
        [[1, 2], None, [3, 4], [5, 6], [7, 8]], pyarrow.list_(pyarrow.int32(), 2)
    ),
    "large list": pyarrow.array(
        [["a"], None, [], ["b", "c"], [None]], pyarrow.large_list(pyarrow.string())
    ),
    "list of lists": pyarrow.array([[["a"]], None, [[]], [["b", "c"], []], [None]]),
    "date": pyarrow.array([datetime.date(2020, 1, 1)] * N),
    "null": pyarrow.nulls(N),
}


@pytest.mark.parametrize("column", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("size", ["small", "large"])
def test_every_type_is_read_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: pyarrow.Array, size: str
) -> None:
    if size == "large":  # rows are then taken one by one
        monkeypatch.setattr(parquet, "_BATCH_BYTES", 0)
    table = pyarrow.table({"x": column})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    found = [each.cells for each in read_rows(tmp_path / "t.parquet", FEED)]  # type: ignore[union-attr]
    assert found == pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"data_page_size": 1000, "row_group_size": 700}, id="small pages"),
        pytest.param({"data_page_version": "2.0", "compression": "snappy"}, id="version 2"),
        pytest.param({"use_dictionary": False, "compression": "none"}, id="plain"),
        pytest.param({"write_page_checksum": True, "write_page_index": True}, id="checksums"),
        pytest.param({"write_batch_size": 1, "data_page_size": 1}, id="a row a page"),
    ],
)
def test_pages_of_every_kind_are_counted(tmp_path: Path, options: dict[str, Any]) -> None:
    rows = [
        {"id": str(n), "prompt": f"p {n % 7}", "reference": [f"r{n}"] * (n % 3)}
        for n in range(2000)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet", **options)
    found = [each.cells for each in read_rows(tmp_path / "t.parquet", FEED)]  # type: ignore[union-attr]
    assert found == rows


def test_bytes_that_are_no_page_are_an_unreadable_file(tmp_path: Path) -> None:
    out = io.BytesIO()
    table = pyarrow.table({"id": [str(n) for n in range(1000)]})
    pyarrow.parquet.write_table(table, out, use_dictionary=False)
    for fill in (b"\x00", b"\xff", b"\x1c"):
        content = out.getvalue()[:4] + fill * 300 + out.getvalue()[304:]
        (tmp_path / "t.parquet").write_bytes(content)
        with pytest.raises(CatalogError, match=r"t.parquet: unreadable Parquet"):
            list(read_rows(tmp_path / "t.parquet", FEED))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        pytest.param(2**31 - 1, pyarrow.date32(), id="a date beyond the year 9999"),
        pytest.param(2**62, pyarrow.timestamp("us"), id="a time beyond the year 9999"),
    ],
)
def test_a_value_that_python_has_no_form_for_is_a_reject_of_its_row(
    tmp_path: Path, value: int, kind: pyarrow.DataType
) -> None:
    when = pyarrow.array([None, value, None], kind)
    path = write(tmp_path / "t.parquet", {"id": ["a", "b", "c"], "when": when})
    first, wrong, last = read_rows(path, FEED)
    assert isinstance(wrong, Reject)
    assert (wrong.line, wrong.field) == (2, "when")
    assert "given a value of the type" in wrong.reason
    assert wrong.row["id"] == "b"  # type: ignore[index]
    assert [each.cells["id"] for each in (first, last) if isinstance(each, Row)] == ["a", "c"]


def test_a_table_without_rows_or_columns_is_refused(tmp_path: Path) -> None:
    pairs = Table(catalog=False, columns=("person", "garment"), noun="pair")
    write(tmp_path / "t.parquet", {"person": pyarrow.array([], pyarrow.string())})
    with pytest.raises(CatalogError, match=r"t.parquet: no rows; the columns are \['person'\]"):
        list(read_rows(tmp_path / "t.parquet", FEED))
    with pytest.raises(CatalogError, match="the columns person and garment; its header is"):
        list(read_rows(tmp_path / "t.parquet", pairs))


def test_rejects_of_a_small_file_stay_small(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"id": ["a"] * ROWS, "prompt": shared("x" * 100_000)})
    lines = [Reject(each.line, None, "r", each.cells).to_json() for each in read_rows(path, FEED)]  # type: ignore[union-attr]
    assert sum(map(len, lines)) < 5 * MB  # it was 97 MB
    assert json.loads(lines[0])["row"]["id"] == "a"
