"""Forget a source, or a run: every picture made of it, and all that tells of it under an output.

What is made of a forgotten picture is forgotten, too. Look first (`Forget.look`), then delete; cut
short, the same again goes on, since records go last. Only what is proved to be ours is touched: a
picture whose name holds the hash of its content, and the files of runs by their names.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ace_tasks.errors import NotFound, SettingsError
from ace_tasks.plan import plan_file
from ace_tasks.provenance import tombstones
from ace_tasks.provenance.keys import failure_key, record_key
from ace_tasks.provenance.ownership import PictureKey, check_is_output
from ace_tasks.provenance.record import Failure, Record
from ace_tasks.runs.mentions import Mentions
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, is_s3, join_uri

_THREADS = 16
_FORGOTTEN = "forgotten"
# Pages show pictures in themselves; what they tell is drawn anew by nobody.
_PAGE = re.compile(r"(?:report|review)(?:-\d+)?\.html|(?:canary|ending|audit)\.json")
_RUN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WAITING_RECORD = re.compile(r"review/[^/]+/[0-9a-f]{16}\.[0-9a-f]{8}\.json")


@dataclass(frozen=True)
class Bytes:
    """One source as something remembers it."""

    uri: str
    sha256: str | None = None
    etag: str | None = None
    size_bytes: int = 0


@dataclass(frozen=True)
class Trace:
    """What one object tells of an item. `planned_by`: the run whose plan it is."""

    item_id: str
    row_id: str
    run_id: str | None
    sources: tuple[Bytes, ...]
    outputs: tuple[Bytes, ...] = ()
    planned_by: str | None = None


@dataclass
class _Known:
    """What tells a source that is to be forgotten from others.

    A store that keeps no SHA-256 knows the same content under another name by ETag and size.
    """

    uris: set[str]
    hashes: set[str] = field(default_factory=set)
    etags: set[tuple[str, int]] = field(default_factory=set)

    @property
    def size(self) -> int:
        return len(self.uris) + len(self.hashes) + len(self.etags)

    def add_content(self, each: Bytes) -> None:
        if each.sha256:
            self.hashes.add(each.sha256)
        if each.etag:
            self.etags.add((each.etag, each.size_bytes))

    def has(self, each: Bytes) -> bool:
        return each.uri in self.uris or self.has_content(each)

    def has_content(self, each: Bytes) -> bool:
        return each.sha256 in self.hashes or (each.etag, each.size_bytes) in self.etags

    def other_names(self, everything: Collection[Bytes]) -> set[str]:
        """Return the further places of the same content, unless they also held another one."""
        same = {each.uri for each in everything if self.has_content(each)}
        reused = {
            each.uri
            for each in everything
            if (each.sha256 or each.etag) and not self.has_content(each)
        }
        # The name of a local file without its folders stands in many other names.
        return {uri for uri in same - reused if is_s3(uri) or uri.startswith("/")}


@dataclass
class Deletion:
    """What goes. `names`: the words that nothing may hold afterwards; `others`: URIs that stay.

    `generation`: of each item, how many pictures lie between it and the source.
    """

    generation: dict[str, int] = field(default_factory=dict)
    digests: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    pictures: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)  # and failures
    rewritten: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)  # and all of a run that goes as a whole
    runs: set[str] = field(default_factory=set)  # that told of it
    rows: dict[str, set[str]] = field(default_factory=dict)  # run → ids of its rows that go
    lines: dict[str, set[int]] = field(default_factory=dict)  # run → lines of rejects that tell

    @property
    def items(self) -> Set[str]:
        return self.generation.keys()

    @cached_property
    def mentions(self) -> Mentions:
        return Mentions(frozenset(self.names), frozenset(self.others))

    def record_generations(self) -> Iterator[list[str]]:
        """Yield `records`, those furthest from the source first."""

        def generation(uri: str) -> int:
            return -self.generation[uri.rpartition("/")[2].removesuffix(".json")]

        for _, each in itertools.groupby(sorted(self.records, key=generation), generation):
            yield list(each)

    def counts(self) -> dict[str, int]:
        return {
            "items": len(self.items),
            "pictures": len(self.pictures),
            "records and failures": len(self.records),
            "tables and lists rewritten": len(self.rewritten),
            "pages and notes of runs": len(self.pages),
            "tombstones": len(self.digests),
        }


@dataclass(frozen=True, eq=False)
class Forget:
    """Under one output. `source`: its URI, or its SHA-256 in hex; or `run`: a run's id.

    `sources`: the store in which the source itself lies.
    """

    store: Store
    sources: Store
    output_uri: str
    source: str = ""
    run: str = ""

    def look(self) -> Deletion:
        """Return what would go; change nothing.

        Raises OutputRefused where no run has ever written; SettingsError where there is nothing to
        forget: the source is nowhere, or no such run; StoreUnavailable.
        """
        check_is_output(self.store, self.output_uri)
        traces = [*self._recorded(), *self._planned()]
        doomed = self._closure(traces, self._source_itself())
        rows = {(each.item_id, each.row_id) for each in traces if each.item_id in doomed.items}
        doomed.pictures = sorted(set(self._pictures(rows)))
        doomed.records = sorted(self._records(doomed.items))
        self._look_at_runs(doomed)
        if not (doomed.digests or any(doomed.counts().values())):
            given = f"run: {self.run}" if self.run else f"source: {self.source}"
            raise SettingsError(
                f"{given} is not there, and nothing under {self.output_uri} tells of it: there is "
                "nothing to forget, and nothing that a later run could be kept from"
            )
        return doomed

    def bury(self, doomed: Deletion, by: str) -> None:
        """Write the tombstones, so that nobody makes it again meanwhile.

        Raises OutputRefused before anything is changed, where we may not delete for good.
        """
        self.store.check_purge(self.output_uri)
        tombstones.bury(self.store, self.output_uri, sorted(doomed.digests), by)

    def delete(self, doomed: Deletion) -> None:
        """Delete it, records last.

        By the record of a picture we find what was made of that picture again: so the record goes
        after those of its descendants. Whoever is cut short then finds all that is left.
        """
        for uri in doomed.rewritten:
            self._rewrite(uri, doomed)
        with self.store.in_parallel(_THREADS) as pool:
            list(pool.map(self.store.purge, (*doomed.pages, *doomed.pictures)))
        for records in doomed.record_generations():
            with self.store.in_parallel(_THREADS) as pool:
                list(pool.map(self.store.purge, records))

    # ------------------------------------------------------------ which items

    def _source_itself(self) -> Bytes | None:
        """What lies at the source's URI now, whether or not anything was made of it."""
        if not is_s3(self.source):
            return None
        try:
            found = self.sources.head(self.source)
            sha256 = found.sha256
            if sha256 is None:  # as of an upload in parts: a copy may come in others
                with _Local(self.sources, self.source) as path, path.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except NotFound:
            return None
        return Bytes(self.source, sha256, found.etag, found.size_bytes)

    def _closure(self, traces: list[Trace], itself: Bytes | None) -> Deletion:
        is_uri = is_s3(self.source)
        known = _Known({self.source} if is_uri else set())
        if self.source and not is_uri:
            known.hashes.add(self.source)
        doomed = Deletion()
        if itself:
            known.add_content(itself)
            doomed.digests |= set(_tombstones(itself))
        before = -1
        while before < known.size + len(doomed.generation):
            before = known.size + len(doomed.generation)
            for each in (each for trace in traces for each in trace.sources if known.has(each)):
                known.add_content(each)
            found = {each.item_id for each in traces if self._matches(each, known)}
            step = max(doomed.generation.values(), default=-1) + 1
            doomed.generation |= dict.fromkeys(found - doomed.items, step)
            for each in (each for trace in traces if trace.item_id in doomed.items
                         for each in trace.outputs):  # fmt: skip
                known.uris.add(each.uri)
                known.add_content(each)
        # Of a run that goes, the sources may be edited again; of a source, nothing may.
        if self.run:
            doomed.digests = set(map(tombstones.of_item, doomed.items))
        else:
            doomed.digests |= {d for each in known.hashes for d in tombstones.of_source(each)}
        everything = {each for trace in traces for each in (*trace.sources, *trace.outputs)}
        for each in filter(known.has, everything):
            doomed.digests |= set(_tombstones(each))
        doomed.names = {*doomed.items, *known.uris, *known.hashes, *known.other_names(everything)}
        lengths = {len(name) for name in doomed.names}
        doomed.others = {
            each.uri
            for each in everything
            if each.uri not in doomed.names
            and any(each.uri[:length] in doomed.names for length in lengths)
        }
        for trace in traces:
            if trace.planned_by and trace.item_id in doomed.items:
                doomed.rows.setdefault(trace.planned_by, set()).add(trace.row_id)
        return doomed

    def _matches(self, trace: Trace, known: _Known) -> bool:
        return bool(self.run and trace.run_id == self.run) or any(map(known.has, trace.sources))

    def _recorded(self) -> Iterator[Trace]:
        """Of every record, what waits for a person, and every failure."""
        with self.store.in_parallel(_THREADS) as pool:
            for kind in ("records/", "review/", "failures/"):
                found = self.store.list(join_uri(self.output_uri, kind))
                uris = [each.uri for each in found if each.uri.endswith(".json")]
                read = _failure if kind == "failures/" else _record
                yield from filter(None, pool.map(lambda uri, read=read: read(self._get(uri)), uris))

    def _planned(self) -> Iterator[Trace]:
        base = join_uri(self.output_uri, "runs/")
        for each in self.store.list(base):
            run_id, _, name = each.uri.removeprefix(base).partition("/")
            if name == "plan.parquet" and _RUN_ID.fullmatch(run_id):
                with self._local(each.uri) as path:
                    for row in plan_file.read_plan(path):
                        yield _of_item(row.item, run_id)

    def _get(self, uri: str) -> bytes:
        try:
            return self.store.get(uri)
        except NotFound:  # gone since it was listed
            return b""

    # ------------------------------------------------------------ which objects

    def _pictures(self, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
        base = join_uri(self.output_uri, "")
        prefixes = [
            f"{base}{kind}/{row_id}/{item_id[:16]}."
            for item_id, row_id in sorted(rows)
            for kind in ("images", "candidates", "review")
        ]
        with self.store.in_parallel(_THREADS) as pool:
            for found in pool.map(lambda prefix: list(self.store.list(prefix)), prefixes):
                yield from (each.uri for each in found if self._is_ours(each.uri, base))

    def _is_ours(self, uri: str, base: str) -> bool:
        key = uri.removeprefix(base)
        if _WAITING_RECORD.fullmatch(key):
            return _record(self._get(uri)) is not None
        picture = PictureKey.parse(key)
        return picture is not None and picture.holds(self._get(uri))

    def _records(self, items: Iterable[str]) -> Iterator[str]:
        for item_id in items:
            for key in (record_key(item_id), failure_key(item_id)):
                uri = join_uri(self.output_uri, key)
                if any(each.uri == uri for each in self.store.list(uri)):
                    yield uri

    def _look_at_runs(self, doomed: Deletion) -> None:
        base = join_uri(self.output_uri, "runs/")
        found = (each.uri for each in self.store.list(base))
        for run_id, uris in itertools.groupby(found, lambda uri: _run_of(uri, base)):
            if not _RUN_ID.fullmatch(run_id):
                continue
            # Lists before tables, which name no source of a reject, and pages.
            for uri in sorted(uris, key=lambda uri: (not uri.endswith(".jsonl"), uri)):
                name = uri.removeprefix(f"{base}{run_id}/")
                if name not in _MATCHERS and not _PAGE.fullmatch(name) and name != "summary.json":
                    continue  # somebody else's
                if run_id == self.run or (
                    _PAGE.fullmatch(name) and doomed.mentions.in_html(self._left(uri, doomed))
                ):
                    doomed.pages.append(uri)
                elif name in _MATCHERS and _MATCHERS[name](self, uri, run_id, doomed):
                    doomed.rewritten.append(uri)
                else:
                    continue
                doomed.runs.add(run_id)

    def _text(self, uri: str) -> str:
        return self._get(uri).decode(errors="replace")

    def _left(self, uri: str, doomed: Deletion) -> str:
        """The text that stays of a page or note, if it is not deleted as a whole."""
        if uri.endswith("/canary.json") and (left := _trial_without(self._get(uri), doomed.items)):
            return left.decode()
        return self._text(uri)

    def _rows_match(self, uri: str, run_id: str, doomed: Deletion) -> bool:
        """A list of rows, or of rejects with their lines."""
        rows = [json.loads(each) for each in self._text(uri).split("\n") if each]
        if not uri.endswith("/rejects.jsonl"):
            return any(_list_row_matches(row, doomed.mentions) for row in rows)
        lines = {each["line"] for each in rows if _reject_matches(each, doomed.mentions)}
        doomed.lines[run_id] = lines
        return bool(lines)

    def _table_matches(self, uri: str, run_id: str, doomed: Deletion) -> bool:
        lines = doomed.lines.get(run_id, set())
        with self._local(uri) as path:
            return any(
                item_id in doomed.items or (item_id is None and line in lines)
                for item_id, line in plan_file.read_lines(path)
            )

    def _trial_matches(self, uri: str, run_id: str, doomed: Deletion) -> bool:
        """What a run notes of the pictures that it made first."""
        body = self._get(uri)
        left = _trial_without(body, doomed.items)
        return left is not None and left != _trial_without(body, set())

    def _csv_matches(self, uri: str, run_id: str, doomed: Deletion) -> bool:
        lines = doomed.lines.get(run_id, set())
        rows = csv.DictReader(io.StringIO(self._text(uri), newline=""))
        return any(_csv_row_matches(row, doomed.items, lines) for row in rows)

    # ------------------------------------------------------------ rewriting

    def _rewrite(self, uri: str, doomed: Deletion) -> None:
        """Without the rows that tell of it; older versions go."""
        run_id = _run_of(uri, join_uri(self.output_uri, "runs/"))
        lines = doomed.lines.get(run_id, set())
        name = uri.rpartition("/")[2]
        if name.endswith(".parquet"):
            with self._local(uri) as path:
                plan_file.drop_items(path, doomed.items, lines)
                self.store.upload(path, uri, "application/vnd.apache.parquet")
        elif name == "canary.json":
            left = _trial_without(self.store.get(uri), doomed.items)
            if left is None:
                self.store.purge(uri)
                return
            self.store.put(uri, left, "application/json")
        elif name.endswith(".csv"):
            body = _csv_without(self.store.get(uri), doomed.items, lines)
            self.store.put(uri, body, "text/csv")
        else:
            text = self.store.get(uri).decode()
            kept = [_kept(name, each, lines, doomed.mentions) for each in text.split("\n")[:-1]]
            self.store.put(uri, "".join(kept).encode(), "application/x-ndjson")
        self.store.purge_older(uri)

    def _local(self, uri: str) -> _Local:
        return _Local(self.store, uri)


class _Local:
    """An object as a file, for as long as it is looked at."""

    def __init__(self, store: Store, uri: str):
        self._store, self._uri = store, uri
        self._folder = tempfile.TemporaryDirectory(prefix="ace-forget-")

    def __enter__(self) -> Path:
        path = Path(self._folder.name) / "file"
        self._store.download(self._uri, path)
        return path

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def _record(body: bytes) -> Trace | None:
    try:
        record = Record.model_validate_json(body)
    except ValidationError:
        return None
    recorded = record.sources
    sources = [each for each in (recorded.image, recorded.mask, *recorded.reference) if each]
    output = record.output
    return Trace(
        record.item_id,
        record.row_id,
        record.run.run_id,
        tuple(Bytes(each.uri, each.sha256, each.etag, each.size_bytes) for each in sources),
        (Bytes(output.uri, output.sha256, output.etag, output.size_bytes),),
    )


def _failure(body: bytes) -> Trace | None:
    try:
        failure = Failure.model_validate_json(body)
    except ValidationError:
        return None
    row = failure.row
    uris = [row.get("image"), row.get("mask"), *_listed(row.get("reference"))]
    sources = tuple(Bytes(uri) for uri in uris if isinstance(uri, str))
    return Trace(failure.item_id, failure.row_id, failure.run_id, sources)


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _of_item(item: WorkItem, run_id: str) -> Trace:
    """Of a plan, which says what a run meant to make, not what it made."""
    sources = (
        Bytes(each.uri, each.sha256, each.etag, each.size_bytes) for each in item.sources.each()
    )
    return Trace(item.item_id, item.row_id, None, tuple(sources), planned_by=run_id)


_MATCHERS = {
    "plan.parquet": Forget._table_matches,
    "results.parquet": Forget._table_matches,
    "results.csv": Forget._csv_matches,
    "canary.json": Forget._trial_matches,
    "catalog.jsonl": Forget._rows_match,
    "rejects.jsonl": Forget._rows_match,
    "failures.jsonl": Forget._rows_match,
}


def _tombstones(source: Bytes) -> Iterator[str]:
    return tombstones.of_source(source.sha256, source.etag, source.size_bytes)


def _run_of(uri: str, base: str) -> str:
    return uri.removeprefix(base).partition("/")[0]


def _list_row_matches(row: dict[str, Any], mentions: Mentions) -> bool:
    """A row of a catalog; one that a run made may hold the reject of what became none."""
    rejected = row.get("rejected")
    if isinstance(rejected, dict):
        return _reject_matches(rejected, mentions)
    return mentions.is_one(row)


def _reject_matches(reject: dict[str, Any], mentions: Mentions) -> bool:
    """A reject quotes its row as it was given, such as a list of names in one cell."""
    return any(mentions.in_quoted(each) for each in (str(reject["reason"]), *_cells(reject["row"])))


def _cells(row: Any) -> Iterator[str]:
    """Every string of a row as it was given."""
    if isinstance(row, dict):
        for each in row.values():
            yield from _cells(each)
    elif isinstance(row, list):
        for each in row:
            yield from _cells(each)
    elif isinstance(row, str):
        yield row


def _kept(name: str, line: str, lines: set[int], mentions: Mentions) -> str:
    """The line; what stands in its place where it tells: a row of a catalog, or a reject, counts."""
    row = json.loads(line) if line else {}
    if name == "rejects.jsonl":
        if row["line"] not in lines:
            return line + "\n"
        replacement = {"line": row["line"], "field": None, "reason": _FORGOTTEN, "row": {}}
        return json.dumps(replacement) + "\n"
    if not _list_row_matches(row, mentions):
        return line + "\n"
    return "\n" if name == "catalog.jsonl" else ""


def _csv_row_matches(row: dict[str, str], items: Set[str], lines: set[int]) -> bool:
    return row["item_id"] in items or (not row["item_id"] and int(row["line"]) in lines)


def _trial_without(body: bytes, items: Set[str]) -> bytes | None:
    """`canary.json` without these items, so that what a person said of the others still counts.

    None where nothing is left to say it of, or the file is none of ours.
    """
    try:
        trial = json.loads(body)
        left = {row_id: each for row_id, each in trial["items"].items() if each not in items}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not left and not trial.get("decision"):
        return None
    return json.dumps(trial | {"items": left}, indent=1, ensure_ascii=False).encode()


def _csv_without(body: bytes, items: Set[str], lines: set[int]) -> bytes:
    out = io.StringIO(newline="")
    rows = csv.DictReader(io.StringIO(body.decode(), newline=""))
    writer = csv.DictWriter(out, rows.fieldnames or ())
    writer.writeheader()
    for row in rows:
        if row["item_id"] in items:
            continue
        if _csv_row_matches(row, items, lines):
            row = row | {"row_id": "", "task": "", "error": _FORGOTTEN}
        writer.writerow(row)
    return out.getvalue().encode()
