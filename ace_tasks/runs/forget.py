"""Forget a source, or a run: every picture made of it, and all that tells of it under an output.

Look first (`Forget.look`), then delete; cut short, the same again goes on, since records go last.
Only what is proved to be ours is touched: a picture whose name holds the hash of its content, and
the files of runs by their names.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ace_tasks.errors import SettingsError
from ace_tasks.plan import plan_file
from ace_tasks.provenance.keys import failure_key, record_key
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

_THREADS = 16
# Pages show pictures in themselves; what they tell is drawn anew by nobody.
_PAGE = re.compile(r"(?:report|review)(?:-\d+)?\.html|(?:canary|ending|audit)\.json")
_TABLES = {"plan.parquet", "results.parquet"}
_RUN_FILE = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/(.+)")
_WAITING_RECORD = re.compile(r"review/[^/]+/[0-9a-f]{16}\.[0-9a-f]{8}\.json")


@dataclass
class Deletion:
    """What goes, by URI."""

    closure: Closure
    pictures: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)  # and failures
    rewritten: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)  # and all of a run that goes as a whole
    runs: set[str] = field(default_factory=set)  # that told of it
    lines: dict[str, set[int]] = field(default_factory=dict)  # run → lines of rejects that tell

    def record_generations(self) -> Iterator[list[str]]:
        """Yield `records`, those furthest from the source first."""

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
                f"{given} is not there, and nothing under {self.output_uri} tells of it: there is "
                "nothing to forget, and nothing that a later run could be kept from"
            )
        return deletion

    def write_tombstones(self, deletion: Deletion, by: str) -> None:
        """Keep the items from being made again, from before the first of them is deleted.

        Raises OutputRefused before anything is changed, where we may not delete for good.
        """
        self.store.check_purge(self.output_uri)
        write_tombstones(self.store, self.output_uri, sorted(deletion.closure.digests), by)

    def delete(self, deletion: Deletion) -> None:
        """Delete it, records last.

        By the record of a picture we find what was made of that picture again: so the record goes
        after those of its descendants. Whoever is cut short then finds all that is left.
        """
        # A list of rejects goes last: by it we find the rows of tables that are of rejects.
        for uri in reversed(deletion.rewritten):
            self._rewrite(uri, deletion)
        for uris in ((*deletion.pages, *deletion.pictures), *deletion.record_generations()):
            with self.store.in_parallel(_THREADS) as pool:
                list(pool.map(self.store.purge, uris))

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
        found = self.store.list(join_uri(self.output_uri, "runs/"))
        # Lists before tables, which name no source of a reject, and pages.
        for uri in sorted(
            (each.uri for each in found), key=lambda x: (not x.endswith(".jsonl"), x)
        ):
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

    def _run_and_name(self, uri: str) -> tuple[str, str]:
        """Return the run that a file is of, and its name there; two empty texts for a file that is
        of no run."""
        found = _RUN_FILE.fullmatch(uri.removeprefix(join_uri(self.output_uri, "runs/")))
        return (found[1], found[2]) if found else ("", "")

    def _page_tells(self, uri: str, closure: Closure) -> bool:
        """A note of a canary need not go as a whole if what is left of it tells nothing."""
        body = self._get(uri)
        if uri.endswith("/canary.json"):
            body = redact("canary.json", body, closure, set()) or body
        return closure.mentions.in_html(body.decode(errors="replace"))

    def _tells(self, uri: str, deletion: Deletion) -> bool:
        """Return whether a table or list tells of it; `lines` grows by those of a list of rejects."""
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
        """Write it without the rows that tell; older versions go."""
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
