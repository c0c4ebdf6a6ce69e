"""Forget a source, or a run: every picture made of it, and all that tells of it under an output.

What is made of a forgotten picture is forgotten, too. Look first (`Forget.look`), then delete; cut
short, the same again goes on, since records go last.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from ace_tasks import plan, provenance, tombstones
from ace_tasks.errors import NotFound
from ace_tasks.provenance import Failure, Record
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri

_THREADS = 16
# Pages show pictures in themselves; what they tell is drawn anew by nobody.
_WHOLE = (".html", "canary.json", "audit.json")
_FORGOTTEN = "forgotten"
_TABLES = {"plan.parquet", "results.parquet"}


@dataclass(frozen=True)
class Bytes:
    """One source as something remembers it."""

    uri: str
    sha256: str | None = None
    etag: str | None = None
    size_bytes: int = 0


@dataclass(frozen=True)
class Trace:
    """What one object tells of an item."""

    item_id: str
    row_id: str
    run_id: str | None
    sources: tuple[Bytes, ...]
    outputs: tuple[Bytes, ...] = ()


@dataclass
class Doomed:
    """What goes. `needles`: the words that nothing may hold afterwards."""

    items: set[str] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    needles: set[str] = field(default_factory=set)
    pictures: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)  # and failures
    rewritten: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)  # and all of a run that goes as a whole
    runs: set[str] = field(default_factory=set)  # that told of it

    @cached_property
    def _words(self) -> re.Pattern[str]:
        """A URI is no needle where it is only the beginning of another one."""
        ordered = sorted(self.needles, key=len, reverse=True)
        return re.compile(f"(?:{'|'.join(map(re.escape, ordered))})(?![\\w-]|[./][\\w-])")

    def told_in(self, text: str) -> bool:
        return bool(self.needles) and self._words.search(text) is not None

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
    """Under one output. `source`: its URI, or its SHA-256 in hex; or `run`: a run's id."""

    store: Store
    output_uri: str
    source: str = ""
    run: str = ""

    def look(self) -> Doomed:
        """What would go. Raises StoreUnavailable. Changes nothing."""
        traces = [*self._recorded(), *self._planned()]
        doomed = self._closure(traces)
        rows = {(each.item_id, each.row_id) for each in traces if each.item_id in doomed.items}
        doomed.pictures = sorted(set(self._pictures(rows)))
        doomed.records = sorted(self._records(doomed.items))
        self._look_at_runs(doomed)
        return doomed

    def delete(self, doomed: Doomed, by: str) -> None:
        """Tombstones first, so that nobody makes it again meanwhile; records last."""
        tombstones.bury(self.store, self.output_uri, sorted(doomed.digests), by)
        for uri in doomed.rewritten:
            self._rewrite(uri, doomed)
        with self.store.in_parallel(_THREADS) as pool:
            list(pool.map(self.store.purge, (*doomed.pages, *doomed.pictures)))
        with self.store.in_parallel(_THREADS) as pool:
            list(pool.map(self.store.purge, doomed.records))

    # ------------------------------------------------------------ which items

    def _closure(self, traces: list[Trace]) -> Doomed:
        uris = {self.source} if self.source.startswith("s3://") else set()
        hashes = {self.source} if self.source and not uris else set()
        doomed = Doomed()
        hashes |= {
            each.sha256
            for trace in traces
            for each in trace.sources
            if each.uri in uris and each.sha256
        }
        grown = True
        while grown:
            grown = False
            for trace in traces:
                if not self._matches(trace, uris, hashes, doomed.items):
                    continue
                before = len(doomed.items) + len(uris) + len(hashes)
                doomed.items.add(trace.item_id)
                uris |= {each.uri for each in trace.outputs}
                hashes |= {each.sha256 for each in trace.outputs if each.sha256}
                grown |= len(doomed.items) + len(uris) + len(hashes) > before
        # Of a run that goes, the sources may be edited again; of a source, nothing may.
        if self.run:
            doomed.digests = {tombstones.of_item(item_id) for item_id in doomed.items}
        sources = {
            each
            for trace in traces
            for each in (*trace.sources, *trace.outputs)
            if each.uri in uris or each.sha256 in hashes
        }
        for each in sources:
            doomed.digests |= set(tombstones.of_source(each.sha256, each.etag, each.size_bytes))
        if hashes and not self.run:
            doomed.digests |= {d for each in hashes for d in tombstones.of_source(each)}
        doomed.needles = doomed.items | uris | hashes
        return doomed

    def _matches(self, trace: Trace, uris: set[str], hashes: set[str], items: set[str]) -> bool:
        if trace.item_id in items or (self.run and trace.run_id == self.run):
            return True
        return any(each.uri in uris or each.sha256 in hashes for each in trace.sources)

    def _recorded(self) -> Iterator[Trace]:
        """Of every record, what waits for a person, and every failure."""
        with self.store.in_parallel(_THREADS) as pool:
            for kind in ("records/", "review/", "failures/"):
                found = self.store.list(join_uri(self.output_uri, kind))
                uris = [each.uri for each in found if each.uri.endswith(".json")]
                read = _failure if kind == "failures/" else _record
                yield from filter(None, pool.map(lambda uri, read=read: read(self._get(uri)), uris))

    def _planned(self) -> Iterator[Trace]:
        for each in self.store.list(join_uri(self.output_uri, "runs/")):
            if each.uri.endswith("/plan.parquet"):
                with self._local(each.uri) as path:
                    for row in plan.read_plan(path):
                        yield _of_item(row.item)

    def _get(self, uri: str) -> bytes:
        try:
            return self.store.get(uri)
        except NotFound:  # gone since it was listed
            return b""

    # ------------------------------------------------------------ which objects

    def _pictures(self, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
        for item_id, row_id in sorted(rows):
            for kind in ("images", "candidates", "review"):
                prefix = join_uri(self.output_uri, f"{kind}/{row_id}/{item_id[:16]}.")
                yield from (each.uri for each in self.store.list(prefix))

    def _records(self, items: Iterable[str]) -> Iterator[str]:
        for item_id in items:
            for key in (provenance.record_key(item_id), provenance.failure_key(item_id)):
                uri = join_uri(self.output_uri, key)
                if any(each.uri == uri for each in self.store.list(uri)):
                    yield uri

    def _look_at_runs(self, doomed: Doomed) -> None:
        for each in self.store.list(join_uri(self.output_uri, "runs/")):
            run_id, _, name = each.uri.removeprefix(join_uri(self.output_uri, "runs/")).partition(
                "/"
            )
            if run_id == self.run:
                doomed.pages.append(each.uri)
                doomed.runs.add(run_id)
            elif self._tells(each.uri, name, doomed):
                whole = name.endswith(_WHOLE)
                (doomed.pages if whole else doomed.rewritten).append(each.uri)
                doomed.runs.add(run_id)

    def _tells(self, uri: str, name: str, doomed: Doomed) -> bool:
        if name in _TABLES:
            with self._local(uri) as path:
                return any(
                    item_id in doomed.items or doomed.told_in(error)
                    for item_id, error in plan.read_told(path)
                )
        return doomed.told_in(self._get(uri).decode(errors="replace"))

    # ------------------------------------------------------------ rewriting

    def _rewrite(self, uri: str, doomed: Doomed) -> None:
        """Without the rows that tell of it; older versions go."""
        name = uri.rpartition("/")[2]
        if name in _TABLES:
            with self._local(uri) as path:
                plan.drop_items(path, doomed.items, doomed.told_in)
                self.store.upload(path, uri, "application/vnd.apache.parquet")
        elif name.endswith(".csv"):
            self.store.put(uri, _csv_without(self.store.get(uri), doomed), "text/csv")
        else:
            lines = [each for each in self.store.get(uri).decode().split("\n") if each]
            kept = [_instead(name, each) if doomed.told_in(each) else each + "\n" for each in lines]
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
    told = record.sources
    sources = [each for each in (told.image, told.mask, *told.reference) if each]
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


def _of_item(item: WorkItem) -> Trace:
    """Of a plan, which says what a run meant to make, not what it made."""
    sources = (
        Bytes(each.uri, each.sha256, each.etag, each.size_bytes) for each in item.sources.each()
    )
    return Trace(item.item_id, item.row_id, None, tuple(sources))


def _instead(name: str, line: str) -> str:
    """What stands in the place of a line that tells: a row of a catalog, or a reject, counts on."""
    if name == "catalog.jsonl":
        return "\n"
    if name == "rejects.jsonl":
        told = {"line": json.loads(line)["line"], "field": None, "reason": _FORGOTTEN, "row": {}}
        return json.dumps(told) + "\n"
    return ""


def _csv_without(body: bytes, doomed: Doomed) -> bytes:
    out = io.StringIO(newline="")
    rows = csv.DictReader(io.StringIO(body.decode(), newline=""))
    writer = csv.DictWriter(out, rows.fieldnames or ())
    writer.writeheader()
    for row in rows:
        if row["item_id"] not in doomed.items:
            writer.writerow({k: _FORGOTTEN if doomed.told_in(v) else v for k, v in row.items()})
    return out.getvalue().encode()
