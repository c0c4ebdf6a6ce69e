"""Find the items that are forgotten with a source or a run, and every name they are known by.

An item that was made from a forgotten picture is forgotten as well. The search therefore goes on
until it finds no more items: those of the source, those made from their pictures, and so on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property

from ace_tasks.provenance import tombstones
from ace_tasks.runs.mentions import Mentions
from ace_tasks.runs.traces import SeenObject, Trace
from ace_tasks.store import is_s3


@dataclass(frozen=True)
class Closure:
    """The items to forget, and their names.

    `generation` maps each item to the number of pictures between it and the source. `digests` are
    the tombstones to write. `terms` are the URIs, hashes and ids that nothing may contain
    afterwards, `others` the URIs that stay. `rows` maps a run to the ids of its planned rows to
    delete.
    """

    generation: Mapping[str, int]
    digests: frozenset[str]
    terms: frozenset[str]
    others: frozenset[str]
    rows: Mapping[str, Set[str]]

    @property
    def items(self) -> Set[str]:
        return self.generation.keys()

    @cached_property
    def mentions(self) -> Mentions:
        return Mentions(self.terms, self.others)


def find_closure(
    traces: Sequence[Trace], *, source: str, run: str, itself: SeenObject | None
) -> Closure:
    """Return the closure of a source (URI or SHA-256), or of a run, whichever is not empty.

    `itself` is the object that is at the source's URI now.
    """
    known = _Known()
    if source:
        (known.uris if is_s3(source) else known.hashes).add(source)
    if itself:
        known.add_content(itself)
    generation = _generations(traces, known, run)
    everything = {each for trace in traces for each in (*trace.sources, *trace.outputs)}
    if itself:
        everything.add(itself)
    terms = {*generation, *known.uris, *known.hashes, *known.other_names(everything)}
    # The sources of a forgotten run may be edited again; a forgotten source may not.
    digests = {tombstones.of_item(each) for each in generation} if run else known.digests()
    for each in filter(known.has, everything):
        digests |= set(each.tombstones())
    return Closure(
        generation=generation,
        digests=frozenset(digests),
        terms=frozenset(terms),
        others=frozenset(_going_on(terms, (each.uri for each in everything))),
        rows=_planned_rows(traces, generation.keys()),
    )


@dataclass
class _Known:
    """The names and contents of the objects to forget.

    A store without SHA-256 shows the same content under another name by ETag and size.
    """

    uris: set[str] = field(default_factory=set)
    hashes: set[str] = field(default_factory=set)
    etags: set[tuple[str, int]] = field(default_factory=set)

    @property
    def size(self) -> int:
        return len(self.uris) + len(self.hashes) + len(self.etags)

    def add_content(self, each: SeenObject) -> None:
        if each.sha256:
            self.hashes.add(each.sha256)
        if each.etag:
            self.etags.add((each.etag, each.size_bytes))

    def has(self, each: SeenObject) -> bool:
        return each.uri in self.uris or self.has_content(each)

    def has_content(self, each: SeenObject) -> bool:
        return each.sha256 in self.hashes or (each.etag, each.size_bytes) in self.etags

    def digests(self) -> set[str]:
        return {digest for each in self.hashes for digest in tombstones.of_source(each)}

    def other_names(self, everything: Collection[SeenObject]) -> set[str]:
        """Return the other URIs of the same content, unless they also held another content."""
        same = {each.uri for each in everything if self.has_content(each)}
        reused = {
            each.uri
            for each in everything
            if (each.sha256 or each.etag) and not self.has_content(each)
        }
        # The bare name of a local file, without folders, is part of many other names.
        return {uri for uri in same - reused if is_s3(uri) or uri.startswith("/")}


def _generations(traces: Sequence[Trace], known: _Known, run: str) -> dict[str, int]:
    """Return each item's generation. Adds all sources and pictures on the way to `known`."""
    generation: dict[str, int] = {}
    grows = True
    while grows:
        before = known.size + len(generation)
        for source in (each for trace in traces for each in trace.sources):
            if known.has(source):
                known.add_content(source)
        found = {
            each.item_id
            for each in traces
            if (run and each.run_id == run) or any(map(known.has, each.sources))
        }
        step = max(generation.values(), default=-1) + 1
        generation |= dict.fromkeys(found - generation.keys(), step)
        for trace in traces:
            for picture in trace.outputs if trace.item_id in generation else ():
                known.uris.add(picture.uri)
                known.add_content(picture)
        grows = known.size + len(generation) > before
    return generation


def _going_on(terms: Set[str], uris: Iterable[str]) -> Iterator[str]:
    """Yield the URIs that begin with a term but are not one."""
    lengths = {len(term) for term in terms}
    for uri in uris:
        if uri not in terms and any(uri[:length] in terms for length in lengths):
            yield uri


def _planned_rows(traces: Iterable[Trace], items: Set[str]) -> dict[str, set[str]]:
    rows: dict[str, set[str]] = {}
    for trace in traces:
        if trace.planned_by and trace.item_id in items:
            rows.setdefault(trace.planned_by, set()).add(trace.row_id)
    return rows
