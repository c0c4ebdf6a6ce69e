"""Re-read what a run left: is every row accounted for, and does every picture have its proof?

The account, and what is there at all, is checked of every row; contents, of a sample of the items
that have a picture. Nothing is written.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ValidationError

from ace_tasks import images, signing, xmp
from ace_tasks.errors import NotFound
from ace_tasks.plan import PlannedRow, read_plan
from ace_tasks.provenance import (
    PictureKey,
    Record,
    listed_item_ids,
    read_picture,
    record_key,
    seal_of,
)
from ace_tasks.results import Result, read_results
from ace_tasks.specs import canonical_json
from ace_tasks.store import Store, join_uri, split_uri

_THREADS = 8
_FINISHED = frozenset({"done", "done_before"})

Problem = Literal[
    "not_accounted",  # a row of the plan or a reject has no result, or a result has no row
    "record_missing",
    "record_invalid",  # it does not fulfil its schema, or is another item's
    "record_edited",  # its seal, its picture's signature, the plan or the results say otherwise
    "picture_missing",
    "picture_changed",  # it is not the file that the record tells
    "signature",  # it is not as the record tells, or not valid
    "xmp",  # it is not there, or tells of another item
    "picture_without_record",
]


class Finding(BaseModel):
    """What is wrong, and where."""

    problem: Problem
    row_id: str | None = None
    item_id: str | None = None
    told: str


class Audit(BaseModel):
    """What was looked at, and all that is wrong. Written as `runs/<run id>/audit.json`."""

    run_id: str
    rows: int
    items: int  # that should have a picture
    read: int  # of them, record and picture
    signed: int  # of those read
    findings: list[Finding]

    @property
    def line(self) -> str:
        kinds = Counter(each.problem for each in self.findings)
        told = ", ".join(f"{count} {problem}" for problem, count in sorted(kinds.items()))
        looked = f"{self.rows} rows, {self.items} items with a picture, {self.read} of them read"
        return f"{looked}, {self.signed} signed: {told or 'nothing is wrong'}"


@dataclass(eq=False)
class Auditor:
    """`folder` holds the run's plan.parquet, rejects.jsonl and results.parquet."""

    store: Store
    output_uri: str
    folder: Path
    findings: list[Finding] = field(default_factory=list)

    def audit(self, run_id: str, sample: int) -> Audit:
        """`sample`: how many records and pictures are read at most; 0: all."""
        rows, finished = self._account()
        there = self._presence(finished)
        ids = sorted(there)
        if sample and len(ids) > sample:  # spread evenly, the same ones each time
            ids = [ids[n] for n in np.linspace(0, len(ids) - 1, sample).astype(int)]
        wanted = set(ids)
        planned = (
            row
            for row in read_plan(self.folder / "plan.parquet")
            if row.item_id in wanted and not row.same_as
        )
        signed = 0
        with self.store.in_parallel(_THREADS) as pool:
            for found, proved in pool.map(lambda row: self._item(row, finished), planned):
                self.findings += found
                signed += proved
        return Audit(
            run_id=run_id,
            rows=rows,
            items=len(finished),
            read=len(ids),
            signed=signed,
            findings=self.findings,
        )

    # ------------------------------------------------------------ all rows

    def _account(self) -> tuple[int, dict[str, Result]]:
        """How many rows there are, and the results of the items with a picture, by item id."""
        lines: dict[int, str | None] = {
            row.line: row.row_id for row in read_plan(self.folder / "plan.parquet")
        }
        with (self.folder / "rejects.jsonl").open(encoding="utf-8") as rejects:
            lines |= {json.loads(each)["line"]: None for each in rejects}
        rows, finished = len(lines), {}
        for result in read_results(self.folder / "results.parquet"):
            if result.line not in lines:
                self._found("not_accounted", result, f"line {result.line} was not planned")
                continue
            del lines[result.line]
            if result.status in _FINISHED and result.item_id and not result.same_as:
                finished[result.item_id] = result
        for line, row_id in lines.items():
            told = f"line {line} was planned and has no result"
            self.findings.append(Finding(problem="not_accounted", row_id=row_id, told=told))
        return rows, finished

    def _presence(self, finished: dict[str, Result]) -> set[str]:
        """The items that have a record; pictures of the run's items that no record names."""
        recorded = set(listed_item_ids(self.store, self.output_uri, "records"))
        for item_id in sorted(finished.keys() - recorded):
            self._found("record_missing", finished[item_id], record_key(item_id))
        by_start = {item_id[:16]: result for item_id, result in finished.items()}
        for each in self.store.list(join_uri(self.output_uri, "images/")):
            _, row_id, file = split_uri(each.uri)[1].rsplit("/", 2)
            result = by_start.get(file.partition(".")[0])
            if result is None or _key(each.uri) == _key(result.output_uri or ""):
                continue
            # Results of earlier versions name no picture that was done before.
            if not self._named(result.item_id, each.uri):
                self._found("picture_without_record", result, f"{row_id}/{file}")
        return recorded & finished.keys()

    def _named(self, item_id: str | None, uri: str) -> bool:
        assert item_id is not None
        try:
            body = self.store.get(join_uri(self.output_uri, record_key(item_id)))
            pictures = Record.model_validate_json(body).pictures()
            return _key(uri) in {_key(each) for each in pictures}
        except (NotFound, ValidationError):
            return False

    # ------------------------------------------------------------ one item

    def _item(self, row: PlannedRow, finished: dict[str, Result]) -> tuple[list[Finding], bool]:
        """What is wrong with one item, and whether its picture is signed."""
        result, found = finished[row.item_id], []

        def tell(problem: Problem, told: str) -> None:
            found.append(
                Finding(problem=problem, row_id=result.row_id, item_id=row.item_id, told=told)
            )

        try:
            body = self.store.get(join_uri(self.output_uri, record_key(row.item_id)))
            content = json.loads(body)
            record = Record.model_validate(content)
        except NotFound:
            tell("record_missing", record_key(row.item_id))
            return found, False
        except ValueError as error:  # pydantic's, too
            tell("record_invalid", str(error).partition("\n")[0][:200])
            return found, False
        if record.item_id != row.item_id:
            tell("record_invalid", f"it is of item {record.item_id}")
            return found, False
        for told in _contradictions(record, content, row, result):
            tell("record_edited", told)
        try:
            data = read_picture(self.store, self.output_uri, record.output.uri)
        except NotFound:
            tell("picture_missing", record.output.uri)
            return found, False
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != record.output.sha256:
            told = f"sha256 {sha256}, recorded {record.output.sha256}"
            tell("picture_changed", f"{record.output.uri}: {told}")
            return found, False
        return found, self._marks(record, data, tell)

    def _marks(self, record: Record, data: bytes, tell: Any) -> bool:
        """What the file says of itself, beside what its record does."""
        marks = record.marks
        if marks is None:  # of version 1
            return False
        if marks.xmp:
            told = xmp.read(images.xmp_of(data))
            if told.item_id != record.item_id or told.source_type != marks.digital_source_type:
                tell("xmp", f"item {told.item_id}, source type {told.source_type}")
        proof = signing.read(data, record.output.format)
        expected = marks.c2pa.manifest if marks.c2pa else None
        if proof.state == "Invalid" or proof.manifest != expected:
            tell("signature", f"{proof.state} {', '.join(proof.problems)}".strip())
        elif expected and proof.seal != record.seal:
            tell("record_edited", "the picture is signed with another seal")
        return proof.state in {"Valid", "Trusted"}

    def _found(self, problem: Problem, result: Result, told: str) -> None:
        self.findings.append(
            Finding(problem=problem, row_id=result.row_id, item_id=result.item_id, told=told)
        )


def _contradictions(
    record: Record, content: dict[str, Any], row: PlannedRow, result: Result
) -> Iterator[str]:
    if record.schema_version >= 2 and record.seal != seal_of(content):
        yield "it does not fit its seal"
    planned = row.item.resolved.model_dump(mode="json")
    if canonical_json(record.resolved) != canonical_json(planned):
        yield "its settings are not those of the plan"
    if result.output_uri and result.sha256:
        told = (_key(result.output_uri), result.sha256)
        if told != (_key(record.output.uri), record.output.sha256):
            yield "its picture is not the one of the results"


def _key(uri: str) -> str:
    """Return the part of a picture's URI that stays when its output is moved."""
    picture = PictureKey.at(uri)
    return picture.key if picture else uri
