"""Test the documents' queries, run by DuckDB and pyarrow over results of runs. If these break, an analyst
is told of columns that are not there."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pytest

from ace_tasks.provenance.keys import results_key
from ace_tasks.runs.results import Result, ResultsWriter
from ace_tasks.store import Store, join_uri

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "query-results.md").read_text()
TEXT = PAGE + (ROOT / "README.md").read_text()
QUERIES = list(dict.fromkeys(re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)))
RUNS: dict[str, list[Result]] = {
    "run-1": [
        Result(1, "a", "edit", "done", "1", "s3://b/a.png", "f", 1.0, 0.9),
        Result(2, "b", "edit", "failed", "2", error_code="bad_image", error="no picture"),
        Result(3, "c", "fill", "failed", "3", error_code="timeout", error="too long"),
        Result(4, None, None, "rejected", error="no id"),
        Result(5, "twin", "edit", "done", "1", "s3://b/a.png", "f", 1.0, 0.9, "a"),
    ],
    "run-2": [
        Result(1, "a", "edit", "done_before", "1"),
        Result(2, "b", "edit", "failed_before", "2", error_code="bad_image", error="no picture"),
        Result(3, "c", "fill", "done", "3", "s3://b/c.png", "e", 3.0, 0.5),
    ],
}


@pytest.fixture
def database(store: Store, prefix: str, tmp_path: Path) -> Any:
    for run_id, results in RUNS.items():
        parquet = tmp_path / f"{run_id}.parquet"
        with ResultsWriter(parquet, tmp_path / f"{run_id}.csv") as writer:
            for each in results:
                writer.write(each)
        store.upload(parquet, join_uri(prefix, results_key(run_id, "parquet")), "application/octet")
    connection = duckdb.connect()
    version = connection.sql("PRAGMA version").fetchall()[0][0]
    extension = files("duckdb_extension_httpfs") / "extensions" / version
    connection.load_extension(str(extension / "httpfs.duckdb_extension"))
    connection.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID '{os.environ['AWS_ACCESS_KEY_ID']}', "
        f"SECRET '{os.environ['AWS_SECRET_ACCESS_KEY']}', URL_STYLE 'path', USE_SSL false, "
        f"ENDPOINT '{urlsplit(os.environ['AWS_ENDPOINT_URL']).netloc}')"
    )
    yield connection
    connection.close()


def test_the_documented_queries_answer_from_s3(database: Any, prefix: str) -> None:
    failed, seconds, without = (
        database.sql(query.replace("s3://shop/edited", prefix)).fetchall() for query in QUERIES
    )
    assert sorted(failed, key=str) == [
        ("run-1", "failed", "bad_image", 1, "no picture"),
        ("run-1", "failed", "timeout", 1, "too long"),
        ("run-1", "rejected", None, 1, "no id"),
        ("run-2", "failed_before", "bad_image", 1, "no picture"),
    ]
    assert sorted(seconds) == [("edit", 1, 1.0, 1.0, 0.9), ("fill", 1, 3.0, 3.0, 0.5)]
    assert without == [("b", 2, "bad_image")]


def test_the_documented_lines_of_python_list_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ResultsWriter(tmp_path / "results.parquet", tmp_path / "results.csv") as writer:
        for each in RUNS["run-1"]:
            writer.write(each)
    monkeypatch.chdir(tmp_path)
    ((code),) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out.splitlines() == ["a s3://b/a.png", "twin s3://b/a.png"]
