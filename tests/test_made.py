"""The catalog that a run makes. If these break, a picture of a source has no row and no word, or a
run that is started again is another one."""

from __future__ import annotations

from pathlib import Path

from ace_tasks.catalog import MAX_ROW_BYTES, Reject, Row
from ace_tasks.feeds import Skipped
from ace_tasks.made import Made, read_made, write_made

GOOD = {"id": "a", "task": "edit", "image": "s3://b/ä.png", "prompt": "p"}


def test_rows_and_rejects_have_a_line_each_in_the_sources_order(tmp_path: Path) -> None:
    bad = Reject(17, "image", "accepted: links under x", {"id": "b", "image": "https://y"})
    rows = [GOOD, Skipped("notes.txt"), bad, GOOD | {"id": "c"}]
    path = tmp_path / "catalog.jsonl"
    assert write_made(rows, path) == Made(rows=2, rejected=1, skipped=1)
    first, second, third = read_made(path)
    assert first == Row(1, GOOD)
    assert second == Reject(2, "image", "accepted: links under x", bad.row)
    assert third == Row(3, GOOD | {"id": "c"})


def test_a_reject_as_long_as_a_row_may_be_is_told_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "catalog.jsonl"
    write_made([Reject(1, None, "too long", '"' * MAX_ROW_BYTES)], path)
    (told,) = read_made(path)
    assert isinstance(told, Reject)
    assert told.reason == "too long"
    assert len(told.row) == 10_000


def test_numbers_that_json_has_no_word_for_are_told(tmp_path: Path) -> None:
    path = tmp_path / "catalog.jsonl"
    write_made(
        [Reject(1, "x", "r", {"n": float("nan"), "b": b"\xff"}), GOOD | {"mask": b"x"}], path
    )
    told, row = read_made(path)
    assert isinstance(told, Reject)
    assert isinstance(row, Row)
    assert told.row["n"] == "nan"  # type: ignore[index]
