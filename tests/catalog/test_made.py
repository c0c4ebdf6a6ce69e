"""The catalog that a run makes. If these break, a picture of a source has no row and no word, or a
run that is started again is another one."""

from __future__ import annotations

from pathlib import Path

from ace_tasks.catalog.files import Reject, Row
from ace_tasks.catalog.generated import GeneratedCatalog, Places, read_made, write_made
from ace_tasks.catalog.readers.row import MAX_ROW_BYTES
from ace_tasks.catalog.sources.source_picture import GeneratedRow, Skipped

GOOD = {"id": "a", "task": "edit", "image": "s3://b/ä.png", "prompt": "p"}


def test_rows_and_rejects_have_a_line_each_in_the_sources_order(tmp_path: Path) -> None:
    bad = Reject(17, "image", "accepted: links under x", {"id": "b", "image": "https://y"})
    rows: list[GeneratedRow | Skipped | Reject] = [
        GeneratedRow(GOOD, "feed.csv, line 7"),
        Skipped("notes.txt"),
        bad,
        GeneratedRow(GOOD | {"id": "c"}),
    ]
    path = tmp_path / "catalog.jsonl"
    made = write_made(rows, path)
    assert made == GeneratedCatalog(2, 1, {"no picture": 1}, {"no picture": ["notes.txt"]})
    first, second, third = read_made(path)
    assert first == Row(1, GOOD)
    assert second == Reject(2, "image", "accepted: links under x", bad.row)
    assert third == Row(3, GOOD | {"id": "c"})


def test_a_reject_as_long_as_a_row_may_be_is_reported_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "catalog.jsonl"
    write_made([Reject(1, None, "too long", '"' * MAX_ROW_BYTES)], path)
    (reject,) = read_made(path)
    assert isinstance(reject, Reject)
    assert reject.reason == "too long"
    assert len(reject.row) == 10_000


def test_numbers_that_json_has_no_form_for_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "catalog.jsonl"
    write_made(
        [
            Reject(1, "x", "r", {"n": float("nan"), "b": b"\xff"}),
            GeneratedRow(GOOD | {"mask": b"x"}),
        ],
        path,
    )
    reject, row = read_made(path)
    assert isinstance(reject, Reject)
    assert isinstance(row, Row)
    assert reject.row["n"] == "nan"  # type: ignore[index]


def test_what_is_passed_over_is_counted_by_its_reason_with_the_first_names(tmp_path: Path) -> None:
    system = [Skipped(f"._{n}.jpg", "written by the system") for n in range(5)]
    made = write_made([Skipped("a\u202e.gif"), *system], tmp_path / "catalog.jsonl")
    assert made.passed_over == 6
    assert made.skipped_summary == (
        "6 passed over: no picture: 'a\\u202e.gif'; written by the system: '._0.jpg', '._1.jpg', "
        "'._2.jpg' and 2 more"
    )
    assert write_made([GeneratedRow(GOOD)], tmp_path / "catalog.jsonl").skipped_summary == ""


def test_each_row_has_its_place_in_the_sources_file(tmp_path: Path) -> None:
    path = tmp_path / "catalog.jsonl"
    bad = Reject(2, "image", "f.csv, line 3: far", {})
    write_made(
        [GeneratedRow(GOOD, "f.csv, line 2"), bad, GeneratedRow(GOOD, "f.csv, line 4")], path
    )
    with Places(path) as places:
        assert [places.of(line) for line in (1, 2, 3, 4)] == [
            "f.csv, line 2",
            "",
            "f.csv, line 4",
            "",
        ]
    with Places(path) as places:
        assert places.of(3) == "f.csv, line 4"
    for unknown in (None, tmp_path / "other.jsonl"):
        with Places(unknown) as places:
            assert places.of(1) == ""
