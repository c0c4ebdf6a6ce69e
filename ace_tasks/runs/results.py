"""The tables and counts of a run, with exactly one result for every row of the catalog."""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
from pydantic import BaseModel, Field

from ace_tasks.errors import A_PERSON_DECIDES, BrokenRun, SettingsError
from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.outcomes import Done, Failed
from ace_tasks.runs.loss import Loss
from ace_tasks.settings import ReviewSettings
from ace_tasks.specs import DEFAULT_PIXELS, PixelSettings, WorkItem
from ace_tasks.wording import counted

Status = Literal["done", "done_before", "failed", "failed_before", "rejected", "forgotten"]
FAILED_STATUSES = frozenset({"failed", "failed_before", "rejected"})

_COLUMNS = {
    "line": pyarrow.int64(),
    "row_id": pyarrow.string(),
    "task": pyarrow.string(),
    "status": pyarrow.string(),
    "item_id": pyarrow.string(),
    "record": pyarrow.string(),  # key below the output URI
    "output_uri": pyarrow.string(),
    "sha256": pyarrow.string(),
    "seconds": pyarrow.float64(),
    "score": pyarrow.float64(),  # total score, 0-1, if this run made the picture
    "same_as": pyarrow.string(),
    "error_code": pyarrow.string(),
    "error": pyarrow.string(),
    "hint_codes": pyarrow.string(),  # comma-separated codes of `mask_hints`, if this run looked
    "hints": pyarrow.string(),  # the sentences of these codes
}
SCHEMA = pyarrow.schema(list(_COLUMNS.items()))
_BATCH_ROWS = 1000
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one row."""

    line: int
    row_id: str | None
    task: str | None
    status: Status
    item_id: str | None = None
    output_uri: str | None = None
    sha256: str | None = None
    seconds: float | None = None
    score: float | None = None
    same_as: str | None = None
    error_code: str | None = None
    error: str | None = None
    hint_codes: str | None = None
    hints: str | None = None

    @classmethod
    def of(cls, item: WorkItem, outcome: Done | Failed) -> Result:
        """Return the result of an item that this run edited."""
        row: dict[str, Any] = {
            "line": item.line,
            "row_id": item.row_id,
            "task": item.spec.task,
            "item_id": item.item_id,
            "hint_codes": ",".join(outcome.hints) or None,
            "hints": "; ".join(outcome.hints.values()) or None,
        }
        if isinstance(outcome, Failed):
            return cls(status="failed", error_code=outcome.code, error=outcome.message, **row)
        return cls(
            status="done",
            output_uri=outcome.output_uri,
            sha256=outcome.sha256,
            seconds=outcome.seconds,
            score=outcome.score,
            **row,
        )

    def as_row(self) -> dict[str, Any]:
        finished = self.status in {"done", "done_before"}
        record = record_key(self.item_id) if finished and self.item_id else None
        return {name: record if name == "record" else getattr(self, name) for name in _COLUMNS}


@dataclass(eq=False)
class Tally:
    """The counts of the results so far."""

    by_status: Counter[str] = field(default_factory=Counter)
    by_error: Counter[str] = field(default_factory=Counter)
    by_hint: Counter[str] = field(default_factory=Counter)
    hinted: int = 0  # rows with a hint; one may have several

    def add(self, result: Result) -> None:
        self.by_status[result.status] += 1
        if result.error_code:
            self.by_error[result.error_code] += 1
        if result.hint_codes:
            self.hinted += 1
            self.by_hint.update(result.hint_codes.split(","))

    @property
    def total(self) -> int:
        return self.by_status.total()

    @property
    def not_done(self) -> int:
        return sum(self.by_status[status] for status in FAILED_STATUSES)


class ResultsWriter:
    """Streams results into a Parquet and a CSV file, and counts them."""

    def __init__(self, parquet_path: Path, csv_path: Path):
        self.tally = Tally()
        self._parquet = pyarrow.parquet.ParquetWriter(parquet_path, SCHEMA, compression="zstd")
        self._csv_file = csv_path.open("w", newline="", encoding="utf-8")
        self._csv = csv.DictWriter(self._csv_file, list(_COLUMNS))
        self._csv.writeheader()
        self._buffer: list[dict[str, Any]] = []
        self._seen = bytearray()  # by line

    def __enter__(self) -> ResultsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._parquet.close()
        self._csv_file.close()

    def write(self, result: Result) -> None:
        self._see(result.line)
        row = result.as_row()
        self.tally.add(result)
        # A valid row id is no formula, although it may begin with a dash. A rejected one may be.
        from_outside = ("row_id", "task", "error") if result.status == "rejected" else ("error",)
        self._csv.writerow(row | {column: no_formula(row[column]) for column in from_outside})
        self._buffer.append(row)
        if len(self._buffer) >= _BATCH_ROWS:
            self._flush()

    def _see(self, line: int) -> None:
        if line >= len(self._seen):
            self._seen.extend(bytes(line + _BATCH_ROWS - len(self._seen)))
        if self._seen[line]:
            raise BrokenRun(f"the row in line {line} has two results")
        self._seen[line] = 1

    def _flush(self) -> None:
        if self._buffer:
            self._parquet.write_table(pyarrow.Table.from_pylist(self._buffer, schema=SCHEMA))
            self._buffer.clear()

    def check_complete(self, expected: int) -> None:
        """Raise BrokenRun unless every row of the catalog has one result."""
        if self.tally.total != expected:
            raise BrokenRun(
                f"read {counted(expected, 'row')}, but found results for {self.tally.total:,}: "
                f"{dict(self.tally.by_status)}"
            )


def no_formula(text: str | None) -> str | None:
    """Return a text that a spreadsheet takes for text."""
    # Messages quote the catalog, and a spreadsheet would run a cell such as "=HYPERLINK(…)".
    return f"'{text}" if text and text.startswith(_FORMULA_STARTS) else text


def read_results(path: Path) -> Iterator[Result]:
    """Yield the results of a run from its results.parquet."""
    names = [each.name for each in dataclasses.fields(Result)]
    with pyarrow.parquet.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=names):
            for row in batch.to_pylist():
                yield Result(**row)


def count_results(path: Path) -> int:
    """Return how many rows a results.parquet has."""
    return int(pyarrow.parquet.read_metadata(path).num_rows)


def read_sha256(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (item id, SHA-256 of its picture) for each row of a results.parquet with a picture.

    Raises ValueError for a file that is no such table.
    """
    names = ["item_id", "sha256"]
    try:
        with pyarrow.parquet.ParquetFile(path) as parquet:
            for batch in parquet.iter_batches(columns=names):
                if set(names) - set(batch.schema.names):
                    raise ValueError(f"accepted: columns {names}; given {batch.schema.names}")
                columns = (batch.column(name).to_pylist() for name in names)
                yield from (each for each in zip(*columns, strict=True) if all(each))
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(str(error)) from None


def failed_rows(parquet: bytes, codes: Collection[str]) -> set[str]:
    """Return the ids of the rows that failed with one of `codes`.

    Without `codes`, all failed rows count except those that a person decides about. A picture that
    was held back may have been discarded since, so each of these two codes finds the rows of both.
    `parquet` is a run's results.parquet. Raises SettingsError for a code that did not occur.
    """
    failed = _failed(parquet)
    found = {each["error_code"] for each in failed}
    if found & A_PERSON_DECIDES:
        found |= A_PERSON_DECIDES
    if unknown := sorted(set(codes) - found):
        raise SettingsError(
            f"codes: accepted: those of the run, {', '.join(sorted(found)) or 'none'}; "
            f"given {unknown[0]!r}"
        )
    wanted = set(codes) or found - A_PERSON_DECIDES
    if wanted & A_PERSON_DECIDES:
        wanted |= A_PERSON_DECIDES
    return {each["row_id"] for each in failed if each["error_code"] in wanted}


def items_to_review(parquet: bytes) -> dict[str, str]:
    """Return row id → item id for the rows that a run held back, or found held back or discarded.

    `parquet` is a run's results.parquet.
    """
    return {
        each["row_id"]: each["item_id"]
        for each in _failed(parquet)
        if each["error_code"] in A_PERSON_DECIDES
    }


def _failed(parquet: bytes) -> list[dict[str, Any]]:
    columns = ["row_id", "item_id", "status", "error_code"]
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(parquet), columns=columns)
    return [each for each in table.to_pylist() if each["status"] in {"failed", "failed_before"}]


class Summary(BaseModel):
    """The summary of a run, kept as `summary.json`.

    It is written last, so its existence means that the run finished.
    """

    schema_version: int = 1
    run_id: str
    flow: str = Field("edit-catalog", description="The flow that ran.")
    state: Literal["Completed", "FinishedWithFailures"]
    catalog: str = Field(description="The catalog, or the source the run made its rows from.")
    buckets: tuple[str, ...] | None = Field(
        None, description="Buckets that rows may name, if not just the catalog's own bucket."
    )
    output: str
    variant: str
    pixels: PixelSettings = DEFAULT_PIXELS
    review: ReviewSettings = ReviewSettings()
    started_at: datetime
    ended_at: datetime
    rows: int = Field(description="Rows of the catalog, rejects included.")
    done: int
    done_before: int
    failed: int
    failed_before: int
    rejected: int
    forgotten: int = Field(0, description="Rows whose source or picture must stay forgotten.")
    skipped: int | None = Field(
        None, description="Files of the source that are no pictures. None: it was not read."
    )
    shared: int = Field(description="Rows that share another row's picture. Also counted above.")
    by_error: dict[str, int]
    hinted: int = Field(0, description="Rows whose mask looked like a mistake. Also counted above.")
    by_hint: dict[str, int] = Field(
        {}, description="Rows with a suspicious mask by hint code. A row may have several codes."
    )
    replicas: int = Field(description="The largest number of replicas that worked at once.")
    deaths: int = Field(description="Replicas that died, for whatever reason.")
    replicas_asked: int | None = Field(
        None, description="Replicas asked for, if the machine can run only fewer."
    )
    replica_hours: float | None = Field(
        None,
        description="Hours that replicas ran, summed, with loading and with the canary.",
    )
    seconds: float
    items_per_second: float
    token_steps: int = Field(0, description="Tokens × steps, summed over this run's pictures.")
    phases_s: dict[str, float] = Field(
        {}, description="Seconds by phase, summed over this run's items, parallel ones included."
    )
    busy_share: float | None = Field(
        description="Share of the replicas' time that the model worked, on a GPU if they had one. "
        "None: none ran."
    )
    memory: dict[str, int] = Field(
        {}, description="This run's pictures by what stayed on the device: resident, blocks …"
    )
    loss: Loss | None = Field(
        None, description="What a fast run lost. None: it was not fast, or made no picture."
    )
    signed: bool = Field(
        False,
        description="Whether this run signed its pictures. Pictures of rows that were done before "
        "are unchanged.",
    )
    results: str
    failures: str | None = Field(description="The failed rows, as a catalog to run again.")
    rejects: str | None = Field(description="The rows that are no valid spec, with the reason.")

    @property
    def line(self) -> str:
        """Return a sentence that says what happened."""
        failed = self.failed + self.failed_before
        parts = [f"{self.done:,} done", f"{self.done_before:,} done before"]
        parts += [f"{failed:,} failed"] if failed else []
        parts += [f"{self.rejected:,} rejected"] if self.rejected else []
        parts += [f"{self.forgotten:,} forgotten"] if self.forgotten else []
        line = f"{', '.join(parts)}, of {counted(self.rows, 'row')}"
        line += f"; {self.skipped:,} passed over" if self.skipped else ""
        return f"{line}; masks to check: {self.masks_to_check}" if self.hinted else line

    @property
    def masks_to_check(self) -> str:
        """Return the number of rows whose mask looks like a mistake, with the counts by code."""
        kinds = sorted(self.by_hint.items(), key=lambda each: (-each[1], each[0]))
        return f"{self.hinted} ({', '.join(f'{code} {rows}' for code, rows in kinds)})"

    @property
    def unsigned_before(self) -> str | None:
        """Return a warning that earlier runs' pictures stay unsigned, or None if there are none."""
        if not (self.signed and self.done_before):
            return None
        return (
            f"this run signed the pictures it made. Those that were done before ({self.done_before:,}) "
            "are unchanged: unsigned, if signing was off then. An audit counts the signed ones; to "
            "have all signed, run the catalog to another output"
        )
