"""Forget a source or a run: delete every picture made from it, and all mentions under an output.

Look first (`Forget.look`), then delete. After an interruption the same call continues, because
records are deleted last. Only objects that are proved to be ours are touched: pictures whose name
holds the hash of their content, and the files of runs by their names.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ace_tasks.errors import SettingsError
from ace_tasks.plan import plan_file
from ace_tasks.provenance.keys import PARTS, failure_key, part_run_id, record_key
from ace_tasks.provenance.ownership import PictureKey, check_is_output
from ace_tasks.provenance.tombstones import write_tombstones
from ace_tasks.runs.closure import Closure, find_closure
from ace_tasks.runs.redaction import MEDIA_TYPES, redact, telling_lines
from ace_tasks.runs.traces import (
    Trace,
    get_or_empty,
    local_copy,
    read_source,
    read_traces,
    trace_of_record,
)
from ace_tasks.store import Store, join_uri
from ace_tasks.store_check import check_purge

_THREADS = 16
# Pages embed pictures, and cannot be made again, so a page that mentions a forgotten item goes.
_PAGE = re.compile(r"(?:report|review)(?:-\d+)?\.html|(?:canary|ending|audit|feed)\.json")
_TABLES = {"plan.parquet", "results.parquet"}
_RUN_FILE = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/(.+)")
_WAITING_RECORD = re.compile(r"review/[^/]+/[0-9a-f]{16}\.[0-9a-f]{8}\.json")


@dataclass
class Deletion:
    """The objects to delete or rewrite, by URI."""

    closure: Closure
    pictures: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)  # and failures
    rewritten: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)  # and all files of a run to forget
    older: list[str] = field(default_factory=list)  # pages that stay without their older versions
    runs: set[str] = field(default_factory=set)  # the runs that mention a forgotten item
    lines: dict[str, set[int]] = field(default_factory=dict)  # run → lines of rejects to redact

    def record_generations(self) -> Iterator[list[str]]:
        """Yield `records` in groups, those furthest from the source first."""

        def generation(uri: str) -> int:
            return -self.closure.generation[uri.rpartition("/")[2].removesuffix(".json")]

        for _, each in itertools.groupby(sorted(self.records, key=generation), generation):
            yield list(each)

    def counts(self) -> dict[str, int]:
        return {
            "items": len(self.closure.items),
            "pictures": len(self.pictures),
            "records and failures": len(self.records),
            "tables and lists rewritten": len(self.rewritten),
            "pages and notes of runs": len(self.pages),
            "tombstones": len(self.closure.digests),
        }


@dataclass(frozen=True, eq=False)
class Forget:
    """A source or a run to forget under one output.

    `source` is its URI or its SHA-256 in hex; or `run` is a run's id. `sources` is the store that
    holds the source itself.
    """

    store: Store
    sources: Store
    output_uri: str
    source: str = ""
    run: str = ""

    def look(self) -> Deletion:
        """Return what would be deleted, and change nothing.

        Raises OutputRefused if no run has ever written to the output, SettingsError if there is
        nothing to forget because the source or the run does not exist, and StoreUnavailable.
        """
        check_is_output(self.store, self.output_uri)
        traces = list(read_traces(self.store, self.output_uri))
        itself = read_source(self.sources, self.source)
        closure = find_closure(traces, source=self.source, run=self.run, itself=itself)
        deletion = Deletion(
            closure,
            pictures=sorted(set(self._pictures(traces, closure))),
            records=sorted(self._records(closure.items)),
        )
        self._look_at_runs(deletion)
        if not any(deletion.counts().values()):
            given = f"run: {self.run}" if self.run else f"source: {self.source}"
            raise SettingsError(
                f"{given} does not exist, and nothing under {self.output_uri} mentions it, so "
                "there is nothing to forget; check how it is spelt"
            )
        return deletion

    def write_tombstones(self, deletion: Deletion, by: str) -> None:
        """Write the tombstones, which keep the items from being made again, before any deletion.

        Raises OutputRefused, with nothing changed, if we may not delete old versions.
        """
        check_purge(self.store, self.output_uri)
        write_tombstones(self.store, self.output_uri, sorted(deletion.closure.digests), by)

    def delete(self, deletion: Deletion) -> None:
        """Delete and rewrite the objects, records last.

        The record of a picture leads to the items made from that picture, so it is deleted after
        their records. After an interruption the next call then finds all that is left.
        """
        # First, because the files that are rewritten next tell which runs' pages to look at.
        self._at_once(self.store.purge_older, deletion.older)
        # A list of rejects is rewritten last, because the rejects' rows in tables are found by it.
        for uri in reversed(deletion.rewritten):
            self._rewrite(uri, deletion)
        for uris in ((*deletion.pages, *deletion.pictures), *deletion.record_generations()):
            self._at_once(self.store.purge, uris)

    def _at_once(self, delete: Callable[[str], None], uris: Iterable[str]) -> None:
        with self.store.in_parallel(_THREADS) as pool:
            list(pool.map(delete, uris))

    # ------------------------------------------------------------ pictures and records

    def _pictures(self, traces: Iterable[Trace], closure: Closure) -> Iterator[str]:
        base = join_uri(self.output_uri, "")
        rows = {(each.item_id, each.row_id) for each in traces if each.item_id in closure.items}
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
            return trace_of_record(self._get(uri)) is not None
        picture = PictureKey.parse(key)
        return picture is not None and picture.holds(self._get(uri))

    def _records(self, items: Iterable[str]) -> Iterator[str]:
        for item_id in items:
            for key in (record_key(item_id), failure_key(item_id)):
                uri = join_uri(self.output_uri, key)
                if any(each.uri == uri for each in self.store.list(uri)):
                    yield uri

    # ------------------------------------------------------------ files of runs

    def _look_at_runs(self, deletion: Deletion) -> None:
        found = [each.uri for each in self.store.list(join_uri(self.output_uri, "runs/"))]
        # Lists come first: tables name no source of a reject, and are searched by lines from lists.
        for uri in sorted(found, key=lambda x: (not x.endswith(".jsonl"), x)):
            run_id, name = self._run_and_name(uri)
            is_page = bool(_PAGE.fullmatch(name))
            if not is_page and name not in {*MEDIA_TYPES, *_TABLES, "summary.json"}:
                continue  # somebody else's
            if run_id == self.run or (is_page and self._page_tells(uri, deletion.closure)):
                deletion.pages.append(uri)
            elif self._tells(uri, deletion):
                deletion.rewritten.append(uri)
            else:
                continue
            deletion.runs.add(run_id)
        deletion.older += [uri for uri in found if self._had_other_rows(uri, deletion)]

    def _had_other_rows(self, uri: str, deletion: Deletion) -> bool:
        """Return whether a page that stays may have shown a forgotten item before.

        While a run works its contact sheet is written over again and again, with the newest rows.
        The page of a comparison shows the rows of its parts.
        """
        run_id, name = self._run_and_name(uri)
        shown = {run_id, *(part_run_id(run_id, each) for each in PARTS)}
        is_sheet = name.endswith(".html") and _PAGE.fullmatch(name)
        return bool(is_sheet) and not shown.isdisjoint(deletion.runs) and uri not in deletion.pages

    def _run_and_name(self, uri: str) -> tuple[str, str]:
        """Return the run of a file and its name there, or two empty texts if it has no run."""
        found = _RUN_FILE.fullmatch(uri.removeprefix(join_uri(self.output_uri, "runs/")))
        return (found[1], found[2]) if found else ("", "")

    def _page_tells(self, uri: str, closure: Closure) -> bool:
        """Return whether a page mentions a forgotten item. A canary's note is redacted first."""
        body = self._get(uri)
        if uri.endswith("/canary.json"):
            body = redact("canary.json", body, closure, set()) or body
        return closure.mentions.in_html(body.decode(errors="replace"))

    def _tells(self, uri: str, deletion: Deletion) -> bool:
        """Return whether a table or list mentions a forgotten item.

        The lines to redact in a list of rejects are added to `deletion.lines`.
        """
        run_id, name = self._run_and_name(uri)
        closure = deletion.closure
        if name in _TABLES:
            lines = deletion.lines.get(run_id, set())
            with local_copy(self.store, uri) as path:
                return any(
                    item_id in closure.items or (item_id is None and line in lines)
                    for item_id, line in plan_file.read_lines(path)
                )
        if name not in MEDIA_TYPES:
            return False
        body = self._get(uri)
        if name == "rejects.jsonl":
            deletion.lines[run_id] = telling_lines(body, closure.mentions)
        return redact(name, body, closure, deletion.lines.get(run_id, set())) != body

    def _rewrite(self, uri: str, deletion: Deletion) -> None:
        """Write a table or list without the forgotten rows, and delete its older versions."""
        run_id, name = self._run_and_name(uri)
        lines = deletion.lines.get(run_id, set())
        if name in _TABLES:
            with local_copy(self.store, uri) as path:
                plan_file.drop_items(path, deletion.closure.items, lines)
                self.store.upload(path, uri, "application/vnd.apache.parquet")
        else:
            body = redact(name, self.store.get(uri), deletion.closure, lines)
            if body is None:
                self.store.purge(uri)
                return
            self.store.put(uri, body, MEDIA_TYPES[name])
        self.store.purge_older(uri)

    def _get(self, uri: str) -> bytes:
        return get_or_empty(self.store, uri)
