"""Check a finished run: does every row have a result, and every picture a record that fits?

Every row is checked for its result and for the existence of record and picture. A sample of the
items with a picture is read: the record is compared with itself, with the plan of the run that
made it, with the run's results, and with the picture (`ace_tasks.runs.proof`). Nothing is written.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from ace_tasks.errors import NotFound, StoreError, StoreUnavailable
from ace_tasks.plan.plan_file import PlannedRow, made_for, read_ids, read_plan
from ace_tasks.provenance import c2pa_marks
from ace_tasks.provenance.keys import plan_key, record_key
from ace_tasks.provenance.listing import listed_item_ids
from ace_tasks.provenance.ownership import NamedPictures, PictureKey, read_picture
from ace_tasks.provenance.record import Record
from ace_tasks.runs import proof
from ace_tasks.runs.history import find_summary
from ace_tasks.runs.proof import RunPlan
from ace_tasks.runs.results import Result, read_results
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import ModelIdentity, quote
from ace_tasks.store import Store, is_s3, join_uri
from ace_tasks.wording import counted

_THREADS = 8
_AT_ONCE = 1000  # rows handed to the threads together
_FINISHED = frozenset({"done", "done_before"})
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

Problem = Literal[
    "not_accounted",  # a planned row or a reject has no result, or a result has no row
    "record_missing",
    "record_invalid",  # it does not match its schema, or belongs to another item
    "record_edited",  # its seals, its plan, the results, its picture or its signature contradict it
    "picture_missing",
    "picture_changed",  # it is not the recorded file
    "signature",  # it is not as recorded, or not valid
    "xmp",  # it is missing, or names another item
    "picture_without_record",
]


class AuditFinding(BaseModel):
    """A problem and the row and item that have it."""

    problem: Problem
    row_id: str | None = None
    item_id: str | None = None
    detail: str


class Audit(BaseModel):
    """The result of an audit, written as `runs/<run id>/audit.json`."""

    run_id: str
    rows: int
    items: int  # items that should have a picture
    read: int  # items whose record and picture were read
    signed: int  # read items with a valid signature
    findings: list[AuditFinding]

    @property
    def line(self) -> str:
        kinds = Counter(each.problem for each in self.findings)
        problems = ", ".join(f"{count:,} {problem}" for problem, count in sorted(kinds.items()))
        looked = f"{counted(self.rows, 'row')}, {counted(self.items, 'item')} with a picture"
        return f"{looked}, {self.read:,} of them read, {self.signed:,} signed: {problems or 'nothing is wrong'}"


@dataclass(eq=False)
class Auditor:
    """An auditor of one run.

    `folder` holds the run's plan.parquet, rejects.jsonl and results.parquet.
    """

    store: Store
    output_uri: str
    folder: Path
    limits: ImageLimits = field(default_factory=ImageLimits)
    findings: list[AuditFinding] = field(default_factory=list)

    def audit(self, run_id: str, sample: int) -> Audit:
        """Check the run and return the findings.

        At most `sample` records and pictures are read; 0 means all. Raises ValueError for a plan
        that cannot be read.
        """
        results = {}
        rows = 0
        for result in self._account():
            rows += 1
            if result is not None and result.item_id and not result.same_as:
                results[result.item_id] = result
        finished = {i: each for i, each in results.items() if each.status in _FINISHED}
        ids = sorted(self._recorded(finished))
        self._look_for_strays(results)
        if sample and len(ids) > sample:  # evenly spread, and the same ones each time
            ids = [ids[n] for n in np.linspace(0, len(ids) - 1, sample).astype(int)]
        wanted = set(ids)
        planned = (
            row
            for row in read_plan(self.folder / "plan.parquet")
            if row.item_id in wanted and not row.same_as
        )
        signed = self._read_all(run_id, planned, finished)
        return Audit(
            run_id=run_id,
            rows=rows,
            items=len(finished),
            read=len(ids),
            signed=signed,
            findings=self.findings,
        )

    def _account(self) -> Iterator[Result | None]:
        """Yield the result of every planned or rejected row, or None for a row without one."""
        lines: dict[int, str | None] = {
            row.line: row.row_id for row in read_plan(self.folder / "plan.parquet")
        }
        with (self.folder / "rejects.jsonl").open(encoding="utf-8") as rejects:
            lines |= {json.loads(each)["line"]: None for each in rejects}
        for result in read_results(self.folder / "results.parquet"):
            if result.line not in lines:
                self._found("not_accounted", f"line {result.line} was not planned", result)
                continue
            del lines[result.line]
            yield result
        for line, row_id in lines.items():
            detail = f"line {line} was planned and has no result"
            self._found("not_accounted", detail, row_id=row_id)
            yield None

    def _recorded(self, finished: dict[str, Result]) -> set[str]:
        """Return the finished items that have a record."""
        recorded = set(listed_item_ids(self.store, self.output_uri, "records"))
        for item_id in sorted(finished.keys() - recorded):
            self._found("record_missing", record_key(item_id), finished[item_id])
        return recorded & finished.keys()

    def _look_for_strays(self, results: dict[str, Result]) -> None:
        """Find pictures of planned items, finished or failed, that no record names."""
        starts = {item_id[:16]: item_id for item_id in read_ids(self.folder / "plan.parquet")}
        base, strays = join_uri(self.output_uri, ""), []
        for kind in ("images/", "candidates/"):
            for each in self.store.list(base + kind):
                picture = PictureKey.parse(each.uri.removeprefix(base))
                if picture is None or picture.start not in starts:
                    continue
                result = results.get(starts[picture.start])
                if result is None or picture.key != _key(result.output_uri or ""):
                    strays.append(picture)
        # Results of earlier versions do not name pictures that were done before, and no results
        # name stored candidates or pictures made since. Only their records do.
        named = NamedPictures(self.store, self.output_uri)
        with self.store.in_parallel(_THREADS) as pool:
            for picture, is_named in zip(strays, pool.map(named.has, strays), strict=True):
                if not is_named:
                    item_id = starts[picture.start]
                    result = results.get(item_id)
                    self._found("picture_without_record", picture.key, result, item_id=item_id)

    # ------------------------------------------------------------ a sample

    def _read_all(
        self, run_id: str, planned: Iterable[PlannedRow], finished: dict[str, Result]
    ) -> int:
        """Read records and pictures; return the number of signed ones."""
        run = self._plan_of(run_id, self.folder / "plan.parquet")
        signed, decoding, rows = 0, Lock(), iter(planned)
        with (
            closing(_OtherRuns(self.folder / "others.sqlite")) as others,
            self.store.in_parallel(_THREADS) as pool,
        ):
            while batch := list(islice(rows, _AT_ONCE)):
                looks = [
                    _Look(
                        self.store,
                        self.output_uri,
                        run,
                        row,
                        finished[row.item_id],
                        self.limits,
                        decoding,
                    )
                    for row in batch
                ]
                for look, body in zip(looks, pool.map(_Look.look, looks), strict=True):
                    self.findings += look.findings
                    signed += look.signed
                    if body is not None:
                        others.add(look.made_by, look.row.item_id, body)
            for other in others.run_ids():
                self._by_other_plan(other, others, finished)
        return signed

    def _by_other_plan(self, run_id: str, others: _OtherRuns, finished: dict[str, Result]) -> None:
        """Compare the records that another run made with its plan, if that still exists."""
        left = others.item_ids(run_id)
        for row, run in self._rows_of(run_id):
            if row.item_id in left and not row.same_as:
                try:
                    item = row.item
                except ValueError:  # the planned row is no valid item
                    continue
                left.remove(row.item_id)
                record = Record.model_validate_json(others.body(run_id, row.item_id))
                for contradiction in proof.by_plan(record, item, run):
                    self._found("record_edited", contradiction, finished[row.item_id])
        for item_id in sorted(left):
            # The plan of an earlier run may have been deleted, but this run's own plan is here.
            if finished[item_id].status == "done":
                detail = f"run.run_id: {quote(run_id)}, which did not plan it; this run made it"
                self._found("record_edited", detail, finished[item_id])

    def _rows_of(self, run_id: str) -> Iterator[tuple[PlannedRow, RunPlan]]:
        """Yield the rows of another run's plan, or nothing if it has none that can be read."""
        path = self.folder / "other.parquet"
        if not _RUN_ID.fullmatch(run_id):
            return
        try:
            self.store.download(join_uri(self.output_uri, plan_key(run_id)), path)
            run = self._plan_of(run_id, path)
            for row in read_plan(path):
                yield row, run
        except StoreUnavailable:
            raise
        except (StoreError, ValueError, OSError):
            return

    def _plan_of(self, run_id: str, path: Path) -> RunPlan:
        content = made_for(path)
        summary = find_summary(self.store, self.output_uri, run_id)
        return RunPlan(
            run_id=run_id,
            model=ModelIdentity.model_validate(content["model"]),
            pixels_version=content["pixels_version"],
            variant=summary.variant if summary else None,
            flow=summary.flow if summary else None,
        )

    def _found(
        self, problem: Problem, detail: str, result: Result | None = None, **known: str | None
    ) -> None:
        if result is not None:
            known = {"row_id": result.row_id, "item_id": result.item_id}
        self.findings.append(AuditFinding(problem=problem, detail=detail, **known))


@dataclass(eq=False)
class _Look:
    """A check of one item, which reads and compares its record and its picture.

    `decoding` lets one picture at a time be decoded, because its pixels may take a gigabyte.
    """

    store: Store
    output_uri: str
    run: RunPlan
    row: PlannedRow
    result: Result
    limits: ImageLimits
    decoding: Lock
    findings: list[AuditFinding] = field(default_factory=list)
    signed: bool = False
    made_by: str = ""

    def look(self) -> bytes | None:
        """Check the item. Return the record's JSON if another run made it, to check its plan."""
        item_id = self.row.item_id
        try:
            body = self.store.get(join_uri(self.output_uri, record_key(item_id)))
            record = Record.model_validate_json(body)
            content: dict[str, Any] = json.loads(body)
            contradictions = list(proof.by_itself(record, content))
        except NotFound:
            self._report("record_missing", record_key(item_id))
            return None
        except (ValueError, TypeError) as error:  # pydantic's ValidationError is a ValueError
            reason = str(error).partition("\n")[0][:200]
            self._report("record_invalid", f"{record_key(item_id)}: {reason}")
            return None
        if record.item_id != item_id:
            detail = f"{record_key(item_id)}: it belongs to item {quote(record.item_id)}"
            self._report("record_invalid", detail)
            return None
        self.made_by = record.run.run_id
        ours = self.made_by == self.run.run_id
        item = self.row.item
        if ours:
            contradictions += proof.by_plan(record, item, self.run)
        else:
            contradictions += proof.by_request(record, item, self.run.model)
        contradictions += self._by_results(record, ours=ours)
        for contradiction in contradictions:
            self._report("record_edited", contradiction)
        self._look_at_pictures(record)
        return None if ours else body

    def _by_results(self, record: Record, *, ours: bool) -> Iterator[str]:
        result = self.result
        if result.output_uri and result.sha256:
            picture = (_key(result.output_uri), result.sha256)
            if picture != (_key(record.output.uri), record.output.sha256):
                yield "output: its picture is not the one in the results"
        total = record.scores.total if record.scores else None
        if ours and result.score is not None and total != result.score:
            yield f"scores.total: {total}, but the results have {result.score}"

    def _look_at_pictures(self, record: Record) -> None:
        data = self._picture(record.output.uri)
        if data is None:
            return
        problems = [*proof.by_file(record, data)]
        if not any(kind == "picture_changed" for kind, _ in problems):
            found = c2pa_marks.read(data, record.output.format)
            self.signed = found.state in {"Valid", "Trusted"}
            problems += proof.by_signature(record, found)
            if proof.has_its_pixels(record):
                with self.decoding:
                    problems += proof.by_pixels(record, data, self.limits)
        for uri in list(record.pictures())[1:]:
            kept = self._picture(uri)
            problems += proof.by_candidate(uri, kept) if kept is not None else ()
        for problem, detail in problems:
            self._report(problem, detail)

    def _picture(self, uri: str) -> bytes | None:
        """Return the content of a recorded picture, or report it as missing and return None.

        A record may name any URI, so local files are never read.
        """
        try:
            if is_s3(uri):
                return read_picture(self.store, self.output_uri, uri)
        except StoreUnavailable:
            raise
        except StoreError:
            pass
        self._report("picture_missing", quote(uri))
        return None

    def _report(self, problem: Problem, detail: str) -> None:
        row_id, item_id = self.result.row_id, self.row.item_id
        found = AuditFinding(problem=problem, row_id=row_id, item_id=item_id, detail=detail)
        self.findings.append(found)


class _OtherRuns:
    """The records that other runs made, kept on disk until those runs' plans are read."""

    def __init__(self, path: Path):
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            CREATE TABLE records
                (run_id TEXT, item_id TEXT, body BLOB, PRIMARY KEY (run_id, item_id));
            BEGIN;
            """
        )

    def close(self) -> None:
        self._db.close()

    def add(self, run_id: str, item_id: str, body: bytes) -> None:
        self._db.execute("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", (run_id, item_id, body))

    def run_ids(self) -> list[str]:
        return [each for (each,) in self._db.execute("SELECT DISTINCT run_id FROM records")]

    def item_ids(self, run_id: str) -> set[str]:
        found = self._db.execute("SELECT item_id FROM records WHERE run_id = ?", (run_id,))
        return {each for (each,) in found}

    def body(self, run_id: str, item_id: str) -> bytes:
        found = self._db.execute(
            "SELECT body FROM records WHERE run_id = ? AND item_id = ?", (run_id, item_id)
        )
        return bytes(found.fetchone()[0])


def _key(uri: str) -> str:
    """Return the part of a picture's URI that stays when its output is moved."""
    picture = PictureKey.at(uri)
    return picture.key if picture else uri
