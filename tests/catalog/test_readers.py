"""Test the readers of tables. If these break, products vanish from a feed without a word, or a
product gets the picture of another one."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ace_tasks.catalog.files import Reject, Row, Table, read_rows
from ace_tasks.catalog.readers.lines import Ledger, Lines
from ace_tasks.catalog.readers.row import MAX_ROW_BYTES, SHOWN_ROW_CHARS
from ace_tasks.catalog.sources.source_picture import SourcePicture
from ace_tasks.catalog.sources.tables import TableReader
from ace_tasks.errors import BrokenRun, CatalogError

FEED = Table(catalog=False)
Read = Callable[..., list[Row | Reject]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write a file and read it: read(name, content) → its rows and rejects."""

    def read(name: str, content: str | bytes, table: Table = FEED) -> list[Row | Reject]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return list(read_rows(path, table))

    return read


def spans(found: list[Row | Reject]) -> list[tuple[str, int, int]]:
    """(row or reject, first line, lines) of each."""
    return [(type(each).__name__, each.line, each.lines) for each in found]


# ---------------------------------------------------------------- quotes that are none

STRAY_TSV = (
    'id\ttitle\timage_link\n1\t12" pan\tl/1.jpg\n2\t"Best" chair\tl/2.jpg\n'
    '3\t"Retro poster\tl/3.jpg\n4\tPlain\tl/4.jpg\n5\tSay "hi"\tl/5.jpg\n'
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("feed.txt", STRAY_TSV, id="closed by another row"),
        pytest.param("feed.tsv", STRAY_TSV.replace('Say "hi"', "Say"), id="never closed"),
        pytest.param(
            "feed.tsv", STRAY_TSV.replace("\tl", "\tx\tl").replace("\tim", "\td\tim"), id="early"
        ),
        pytest.param("feed.tsv", STRAY_TSV.replace("\n", "\r"), id="CR"),
    ],
)
def test_a_quote_in_a_tsv_title_is_text(read: Read, name: str, text: str) -> None:
    found = read(name, text)
    links = {each.cells["id"]: each.cells["image_link"] for each in found if isinstance(each, Row)}
    assert links == {n: f"l/{n}.jpg" for n in "12345"}
    titles = [each.cells["title"] for each in found if isinstance(each, Row)]
    assert titles[:3] == ['12" pan', '"Best" chair', '"Retro poster']


def test_a_quoted_tsv_cell_is_read_as_spreadsheets_write_it(read: Read) -> None:
    text = 'id\ttitle\timage\n1\t"12"" pan"\ta.jpg\n2\t"two\nlines"\tb.jpg\n3\t"a\tb"\tc.jpg\n'
    titles = [each.cells["title"] for each in read("feed.tsv", text) if isinstance(each, Row)]
    assert titles == ['12" pan', "two\nlines", "a\tb"]
    (row,) = read("feed.tsv", '"id"\t"image"\t"a\tb"\n"1"\t"a.jpg"\t"c"\n')
    assert isinstance(row, Row)
    assert row.cells == {"id": "1", "image": "a.jpg", "a\tb": "c"}


@pytest.mark.parametrize(
    ("stray", "closing"),
    [
        pytest.param('"Retro poster', "Plain", id="never closed"),
        pytest.param('"Retro poster', 'Frame 20"', id="closed in the same column"),
        pytest.param('"Best" chair', "Plain", id="text behind a quote"),
        pytest.param('"Retro poster', '"Nice" frame', id="opened again"),
    ],
)
@pytest.mark.parametrize(
    "columns",
    [
        pytest.param(("id", "title", "image_link"), id="title before link"),
        pytest.param(("id", "image_link", "title"), id="title after link"),
        pytest.param(("title", "id", "image_link"), id="title first"),
        pytest.param(("Handle", "Title", "Body", "Image Src", "Price"), id="Shopify"),
    ],
)
def test_a_stray_quote_in_csv_costs_its_own_row_only(
    read: Read, stray: str, closing: str, columns: tuple[str, ...]
) -> None:
    titles = ["Mug", stray, "Plain", closing, "Bowl"]
    lines = [",".join(columns)]
    for number, title in enumerate(titles, start=1):
        link = f"https://c.test/{number}.jpg"
        cells = {
            "id": f"p{number}",
            "Handle": f"p{number}",
            "title": title,
            "Title": title,
            "image_link": link,
            "Image Src": link,
            "Body": "x",
            "Price": "9",
        }
        lines.append(",".join(cells[column] for column in columns))
    found = read("feed.csv", "\n".join(lines))
    assert [(each.line, each.lines) for each in found] == [(n, 1) for n in range(2, 7)]
    wrong = {each.line - 1 for each in found if isinstance(each, Reject)}
    assert wrong <= {n for n, title in enumerate(titles, start=1) if title.startswith('"')}
    for each in found:
        row = each.cells if isinstance(each, Row) else each.row
        own = f"p{each.line - 1}"
        assert own in (row if isinstance(row, str) else row.values())
        if isinstance(each, Row):
            assert f"https://c.test/{each.line - 1}.jpg" in each.cells.values()


def test_a_row_of_plain_names_does_not_vanish_among_commas(read: Read) -> None:
    text = (
        'brand,image,id\nx,mug,1\n"big, red and round,hat,2\nwide, and blue",shoe,3\ntall,lamp,4\n'
    )
    second, third, fourth = [*read("feed.csv", text)][1:]
    assert isinstance(second, Reject)
    assert isinstance(third, Reject)
    assert (second.line, third.line) == (3, 4)
    assert isinstance(fourth, Row)
    assert fourth.cells == {"brand": "tall", "image": "lamp", "id": "4"}


def test_a_reject_names_the_row_that_its_quote_would_swallow(read: Read) -> None:
    text = 'id,title,image\np1,"Retro,a.jpg\np2,Plain,b.jpg\np3,Frame 20",c.jpg\n'
    first, *others = read("feed.csv", text)
    assert isinstance(first, Reject)
    assert "would hold whole rows" in first.reason
    assert first.row == 'p1,"Retro,a.jpg\n'
    assert [each.cells["id"] for each in others if isinstance(each, Row)] == ["p2", "p3"]
    text = 'id,image,title\np1,a.jpg,"Retro\np2,b.jpg,Plain\n'
    first, _ = read("feed.csv", text)
    assert isinstance(first, Reject)
    assert "line 3 is read as a row of its own (p2)" in first.reason


@pytest.mark.parametrize(
    "link",
    ["https://c.test/{}.jpg", "s3://b/red mug {}.jpg", "red mug {}.png", "//c.test/{}", "plain{}"],
)
def test_links_of_every_form_reveal_a_row_that_a_quote_would_swallow(read: Read, link: str) -> None:
    titles = ["Mug", '"Retro', "Plain", 'Frame 20"', "Bowl"]
    lines = [f"p{n},{title},{link.format(n)}" for n, title in enumerate(titles)]
    found = read("feed.csv", "\n".join(["id,title,image_link", *lines]))
    assert [type(each) for each in found] == [Row, Reject, Row, Row, Row]
    for row in (each for each in found if isinstance(each, Row)):
        assert row.cells["image_link"] == link.format(row.cells["id"][1:])


DESCRIPTIONS = {
    "prose": "Soft, warm\nred, blue, green",
    "as many commas as the table": "Red, blue, green\nS,90,70\nM,95,75",
    "HTML": '<p>12" wide, "nice"</p>\n\n<p>Soft, warm</p>',
    "a link": "See https://shop.test/size.html, or\nhttps://shop.test/a\nor ask",
    "a list of links": "https://c.test/a.jpg,https://c.test/b.jpg,\nhttps://c.test/c.jpg",
    "JSON": '{"polygon":\n[[1,2],[3,4],\n[5,6]]}',
    "Windows line ends": "one\r\ntwo, three\r\nfour",
}


@pytest.mark.parametrize("text", DESCRIPTIONS.values(), ids=DESCRIPTIONS)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_description_may_have_line_breaks(read: Read, text: str, place: int, suffix: str) -> None:
    columns = ["id", "image_link"]
    columns.insert(place, "description")
    rows = [
        {"id": "a", "image_link": "l/1.jpg", "description": text},
        {"id": "b", "image_link": "l/2.jpg", "description": "plain"},
    ]
    found = read(f"feed.{suffix}", written(suffix, columns, rows))
    assert [each.cells if isinstance(each, Row) else each for each in found] == rows


def written(suffix: str, columns: list[str], rows: list[dict[str, str]], end: str = "\n") -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(
        out, columns, delimiter="\t" if suffix == "tsv" else ",", lineterminator=end
    )
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        pytest.param('{n},"Mug,https://c/{n}.jpg,x', 0, id="a quote opened in each"),
        pytest.param('{n},Frame 20","Nice,https://c/{n}.jpg', 0, id="one closed and one opened"),
        pytest.param('{n},"Mug" 12",https://c/{n}.jpg,x', 0, id="text behind quotes"),
        pytest.param('{n},"Mug, red",https://c/{n}.jpg,x', 20_000, id="good ones"),
    ],
)
def test_many_rows_with_quotes_take_no_quadratic_time(read: Read, line: str, rows: int) -> None:
    lines = [line.format(n=n) for n in range(20_000)]
    found = read("feed.csv", "\n".join(["id,title,image_link,note", *lines]))
    assert [(each.line, each.lines) for each in found] == [(n, 1) for n in range(2, 20_002)]
    assert sum(isinstance(each, Row) for each in found) == rows


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_hostile_chain_of_quotes_is_read_a_few_times_at_most(read: Read, suffix: str) -> None:
    """Each line closes the cell of the line before and opens one: each could be read from anew."""
    delimiter = "\t" if suffix == "tsv" else ","
    header = delimiter.join(["a", "image", "c", "d"])
    found = read(f"feed.{suffix}", "\n".join([header, *[f'a"{delimiter}"b'] * 200_000]))
    assert sum(each.lines for each in found) == 200_000


# ---------------------------------------------------------------- rows that are too long

LONG = "x" * MAX_ROW_BYTES
HEAD = "id,task,image,prompt\n"
GOOD = "a,edit,s3://b/a.jpg,p\n"


@pytest.mark.parametrize(
    ("record", "lines"),
    [
        pytest.param(f'b,edit,s3://b/b.jpg,"one\n{LONG}\nthree"\n', 3, id="a long line in a cell"),
        pytest.param(f'b,edit,s3://b/b.jpg,"{LONG}\ntwo"\n', 2, id="its first line"),
        pytest.param(f'b,edit,s3://b/b.jpg,"one\n{LONG}"\n', 2, id="its last line"),
        pytest.param(f'b,edit,s3://b/b.jpg,"{LONG}"\n', 1, id="its only line"),
        pytest.param('b,edit,s3://b/b.jpg,"' + "one\n" * 300_000 + '"\n', 300_001, id="all of it"),
    ],
)
def test_a_row_of_which_a_part_is_too_long_is_one_reject(
    read: Read, record: str, lines: int
) -> None:
    found = read("catalog.csv", HEAD + GOOD + record + GOOD, Table())
    assert spans(found) == [("Row", 2, 1), ("Reject", 3, lines), ("Row", 3 + lines, 1)]
    assert isinstance(found[1], Reject)
    assert f"rows of at most {MAX_ROW_BYTES} bytes" in found[1].reason


def test_a_long_row_that_closes_no_quote_leaves_the_others(read: Read) -> None:
    for broken in (f'b,edit,s3://b/b.jpg,"{LONG}\n', f'b,edit,s3://b/b.jpg,"one\n{LONG}\n'):
        found = read("catalog.csv", HEAD + broken + GOOD * 3, Table())
        assert [type(each) for each in found] == [Reject, Row, Row, Row]
        assert found[0].lines == broken.count("\n")


# ---------------------------------------------------------------- every line is accounted for

PLAIN = st.text(alphabet='ab 1"é', max_size=8)
WILD = st.text(alphabet='a1 ",\t\n\ré;', max_size=12)
COLUMNS = ["id", "title", "description", "image_link"]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        pytest.param('"p" x', "a comma or the end of the row after the quote", id="behind-a-quote"),
        pytest.param('"open', "a quoted cell that begins in this row is never closed", id="open"),
    ],
)
def test_a_quote_that_makes_no_sense_is_explained(tmp_path: Path, cell: str, reason: str) -> None:
    path = tmp_path / "c.csv"
    path.write_text(f"id,task,image,prompt\n1,edit,a.png,{cell}\n")
    (reject,) = read_rows(path)
    assert isinstance(reject, Reject)
    assert reason in reject.reason


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, bytes, int]:
    """(file name, content, products): tables well and badly written."""
    delimiter = draw(st.sampled_from(",\t"))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    columns = draw(st.permutations(COLUMNS))
    header = [*columns, *[""] * draw(st.integers(0, 3))]
    count = draw(st.integers(1, 6))
    out = io.StringIO(newline="")
    proper = csv.writer(out, delimiter=delimiter, lineterminator=end)
    proper.writerow(header)
    for number in range(count):
        cells = {
            "id": f"p{number}",
            "image_link": f"https://c.test/{number}.jpg",
            "title": draw(PLAIN),
            # Python 3.11 writes a line feed without quotes where lines end with CR.
            "description": draw(WILD).replace("\n", "\r" if end == "\r" else "\n"),
        }
        row = [cells[column] for column in columns]
        if draw(st.booleans()):
            proper.writerow([*row, *[""] * draw(st.integers(0, 3))])
        else:
            row = [re.sub("[\r\n]", " ", cell).replace(delimiter, ";") for cell in row]
            out.write(delimiter.join(row) + draw(st.sampled_from(["", delimiter])) + end)
        if draw(st.integers(0, 4)) == 0:
            out.write(draw(st.sampled_from([end, delimiter * 3 + end])))
    text = out.getvalue()
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    name = "feed.csv" if delimiter == "," else "feed.tsv"
    if draw(st.booleans()):
        return f"{name}.gz", gzip.compress(text.encode(encoding), mtime=0), count
    return name, text.encode(encoding), count


@given(tables())
def test_no_product_vanishes_and_none_has_the_picture_of_another(
    tmp_path_factory: pytest.TempPathFactory, table: tuple[str, bytes, int]
) -> None:
    name, content, count = table
    path = tmp_path_factory.mktemp("tables") / name
    path.write_bytes(content)
    found = list(read_rows(path, FEED))
    covered = [n for each in found for n in range(each.line, each.line + each.lines)]
    assert covered == sorted(set(covered))
    for row in (each.cells for each in found if isinstance(each, Row)):
        if re.fullmatch("p[0-9]", row["id"]) and row["image_link"].startswith("https://c.test/"):
            assert row["image_link"] == f"https://c.test/{row['id'][1:]}.jpg"
    text = "\n".join(
        json.dumps(each.cells) if isinstance(each, Row) else each.to_json() for each in found
    )
    for number in range(count):
        assert f"c.test/{number}.jpg" in text
    assert len(found) >= count


PROSE = st.lists(
    st.text(alphabet='ab ",é', max_size=10).filter(lambda line: line.count(",") < 2),
    min_size=1,
    max_size=3,
).map("\n".join)


@given(
    st.lists(st.tuples(PROSE, st.text(alphabet='ab ",é', max_size=8)), min_size=1, max_size=5),
    st.permutations(COLUMNS),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
@example([('"', "")], COLUMNS, "\n", "utf-8")
def test_the_same_rows_in_every_format_are_the_same_pictures(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[tuple[str, str]],
    columns: list[str],
    end: str,
    encoding: str,
) -> None:
    rows = [
        {"id": f"p{n}", "title": title, "description": prose, "image_link": f"s3://b/{n}.jpg"}
        for n, (prose, title) in enumerate(texts)
    ]
    rows = [{column: row[column] for column in columns} for row in rows]
    folder = tmp_path_factory.mktemp("formats")
    for suffix in ("csv", "tsv"):
        text = written(suffix, columns, rows, end)
        (folder / f"feed.{suffix}").write_bytes(text.encode(encoding))
    lines = end.join(json.dumps(row) for row in rows)
    (folder / "feed.jsonl").write_bytes(lines.encode(encoding))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "feed.parquet")
    for path in folder.iterdir():
        read = TableReader(f"s3://b/{path.name}", None, None).read(read_rows(path, FEED))
        pictures = [each for each in read if isinstance(each, SourcePicture)]
        assert [dict(each.columns) for each in pictures] == rows, path.name
        assert [each.uri for each in pictures] == [row["image_link"] for row in rows]


def test_lines_that_do_not_add_up_are_an_error_of_ours() -> None:
    lines = Lines("feed.csv", io.BytesIO(b"a\nb\nc\n"))
    ledger = Ledger("feed.csv", lines)
    assert [line.number for line in lines] == [1, 2, 3]
    ledger.enter(1, 2)
    with pytest.raises(BrokenRun, match="1 line from line 2 came after line 2"):
        ledger.enter(2, 1)
    with pytest.raises(BrokenRun, match="read 3 lines, but accounted for 2"):
        ledger.close()
    ledger.enter(3, 1)
    ledger.close()


@pytest.mark.parametrize(
    "end", ["\n", "\r\n", "\r", "\r\r\n"], ids=["LF", "CRLF", "CR", "CR-twice"]
)
def test_lines_end_as_the_first_one_does(read: Read, end: str) -> None:
    text = end.join(["id,image", "a,a.jpg", "", "b,b.jpg", ""])
    assert spans(read("feed.csv", text)) == [("Row", 2, 1), ("Row", 4, 1)]
    text = end.join(['{"image": "a.jpg"}', '{"image": "b.jpg"}'])
    assert spans(read("feed.jsonl", text)) == [("Row", 1, 1), ("Row", 2, 1)]


def test_long_lines_that_end_with_cr_are_never_held(read: Read) -> None:
    found = read("feed.jsonl", f'{{"image": "a.jpg"}}\r"{LONG * 3}"\r{{"image": "b.jpg"}}')
    assert [type(each) for each in found] == [Row, Reject, Row]


# ---------------------------------------------------------------- spreadsheets


def test_columns_without_a_name_are_none(read: Read) -> None:
    found = read("catalog.csv", "id,task,image,prompt,,,\na,edit,a.jpg,p,,,\n", Table())
    assert [each.cells for each in found if isinstance(each, Row)] == [
        {"id": "a", "task": "edit", "image": "a.jpg", "prompt": "p"}
    ]
    (noted,) = read("catalog.csv", "id,task,image,prompt,,\na,edit,a.jpg,p,note,\n", Table())
    assert isinstance(noted, Row)
    assert noted.cells[""] == "note"  # which is no column of a catalog


def test_a_feeds_row_may_leave_out_its_empty_cells(read: Read) -> None:
    text = (
        "id\ttitle\timage_link\tprice\n1\ta\t1.jpg\n2\tb\t2.jpg\t9\t\t\n3\tc\t3.jpg\t9\tmore\n4\n"
    )
    found = read("feed.txt", text)
    assert [type(each) for each in found] == [Row, Row, Reject, Reject]
    assert isinstance(found[0], Row)
    assert found[0].cells["price"] == ""
    (reject,) = read("catalog.csv", "id,task,image,prompt\na,edit,a.jpg\n", Table())
    assert isinstance(reject, Reject)  # of a catalog, all are needed


# ---------------------------------------------------------------- tables that are refused

PAIRS = Table(catalog=False, columns=("person", "garment"), noun="pair")
REFUSED = {  # case: (name, content, table, message)
    "no header": (
        "pairs.txt",
        "00001_00.jpg 05006_00.jpg\n00006_00.jpg 00001_00.jpg\n",
        PAIRS,
        r"pairs.txt: accepted: a table with the columns person and garment; its header is "
        r"\['00001_00.jpg 05006_00.jpg'\]",
    ),
    "one line without a header": ("pairs.txt", "a b\n", PAIRS, "columns person and garment"),
    "header of another table": ("pairs.csv", "person,shirt\n", PAIRS, "columns person and garment"),
    "other keys": ("pairs.jsonl", '{"a": 1}\n', PAIRS, r"columns person and garment.*\['a'\]"),
    "only a header": (
        "pairs.csv",
        "person,garment\n",
        PAIRS,
        "pairs.csv: no pairs after the header",
    ),
    "only a catalog's header": ("c.csv", HEAD, Table(), "c.csv: no rows after the header.*'task'"),
    "only blank lines": ("c.csv", "\n\n", FEED, "c.csv: no rows, only 2 blank lines"),
    "only blank JSON lines": ("c.jsonl", "\n \n", FEED, "c.jsonl: no rows, only 2 blank lines"),
    "broken header": (
        "c.csv",
        'id,"a" b\nx,y\n',
        FEED,
        "c.csv: the header cannot be read as a row",
    ),
    "header with an open quote": ("c.csv", 'id,"a,b\nx,y\nz,w"\n', FEED, "quote that it does not"),
    "header that is too long": (
        "c.csv",
        f"id,{LONG}\n1,2\n",
        FEED,
        "cannot be read as a row.*too long",
    ),
}


@pytest.mark.parametrize(("name", "text", "table", "message"), REFUSED.values(), ids=REFUSED)
def test_a_table_that_cannot_be_used_is_refused_by_its_own_name(
    read: Read, name: str, text: str, table: Table, message: str
) -> None:
    with pytest.raises(CatalogError, match=message) as caught:
        read(name, text, table)
    assert len(str(caught.value)) <= 400


# ---------------------------------------------------------------- rejects


@pytest.mark.parametrize(
    "row",
    [
        pytest.param("x" * MAX_ROW_BYTES, id="text"),
        pytest.param({"prompt": "x" * MAX_ROW_BYTES}, id="one cell"),
        pytest.param({f"k{n}": "x" * 100 for n in range(5000)}, id="many cells"),
        pytest.param({"k" * 50_000: 1, "l" * 50_000: [1] * 50_000}, id="long names"),
    ],
)
def test_a_list_of_rejects_holds_the_beginning_of_a_long_row(row: dict[str, Any] | str) -> None:
    line = Reject(1, None, "too long", row).to_json()
    assert len(line) < 2 * SHOWN_ROW_CHARS
    uri = "s3://b/" + "k" * 1500
    row = {"image": uri} | (row if isinstance(row, dict) else {"x": row})
    assert json.loads(Reject(1, None, "too long", row).to_json())["row"]["image"] == uri
