"""The work on each row of a plan, done in the process that plans or in others that help it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ace_tasks.catalog.files import Checked, Reject, RowRules, Specs
from ace_tasks.catalog.overrides import Overrides
from ace_tasks.catalog.readers.row import Row
from ace_tasks.errors import BadRow
from ace_tasks.plan.identify import Identities, identified
from ace_tasks.plan.spool import RowsFile, SpoolEntry
from ace_tasks.provenance.tombstones import Tombstones
from ace_tasks.specs import Identified, ItemMaker, ModelIdentity, PixelSettings, Source, Sources

_FORGOTTEN = "its source or its picture was forgotten, so it is not made again"

SourceFacts = tuple[str, str | None, int, str | None, str | None]
"""URI, ETag, size, SHA-256 and problem of a source, which are quicker to send than a Source."""


class RowWork:
    """The work on the rows of one catalog: checks, then items with their ids, or rejects."""

    def __init__(
        self,
        rules: RowRules,
        model: ModelIdentity,
        pixels: PixelSettings,
        overrides: Overrides,
        forgotten: Tombstones,
    ):
        self._given = (rules, model, pixels, overrides, forgotten)
        self._rules, self._overrides, self._forgotten = rules, overrides, forgotten
        self._maker = ItemMaker(model, pixels)

    def __reduce__(self) -> tuple[Any, ...]:
        return RowWork, self._given  # the maker's hashes cannot be sent

    def here(self, specs: Specs, identities: Identities, file: RowsFile) -> Iterator[SpoolEntry]:
        """Write each row into a file and yield its entry. All is done in this process."""
        overridden = map(self._overrides.apply, specs)
        for each in identified(overridden, self._maker, identities):
            yield file.add_reject(each) if isinstance(each, Reject) else self._add(*each, file)

    def check(self, rows: list[Row | Reject]) -> CheckedChunk:
        """Check some rows."""
        checked = list(map(self._rules.check, rows))
        return CheckedChunk(checked, list(map(self._overrides.apply, checked)))

    def entries(
        self, chunk: CheckedChunk, facts: Iterable[SourceFacts], file: RowsFile
    ) -> list[SpoolEntry]:
        """Write each row of a chunk into a file, for others to read. Return their entries.

        `facts` tell all its sources.
        """
        sources = {
            uri: Source(uri=uri, etag=etag, size_bytes=size, sha256=sha256, problem=problem)
            for uri, etag, size, sha256, problem in facts
        }
        entries = [self._add_checked(each, sources.__getitem__, file) for each in chunk.rows]
        file.flush()
        return entries

    def _add_checked(
        self, each: Checked | Reject, find: Callable[[str], Source], file: RowsFile
    ) -> SpoolEntry:
        if isinstance(each, Reject):
            return file.add_reject(each)
        line, spec, cells = each
        try:
            row = self._maker.identify(line, spec, Sources.of(spec, find))
        except BadRow as error:
            return file.add_reject(Reject(line, error.field, str(error), cells))
        return self._add(row, cells, file)

    def _add(self, row: Identified, cells: dict[str, Any], file: RowsFile) -> SpoolEntry:
        if self._forgotten.covers(row):
            return file.add_reject(Reject(row.line, None, _FORGOTTEN, {}, forgotten=True))
        return file.add(row, cells)


class CheckedChunk:
    """Some rows that were checked."""

    def __init__(self, checked: list[Checked | Reject], rows: list[Checked | Reject]):
        self._checked = checked  # without the run's overrides
        self.rows = rows

    def named(self) -> list[tuple[int, list[str]]]:
        """Return the line and the URIs of each valid row, whatever the run's overrides make of it."""
        return [(e[0], Sources.uris(e[1])) for e in self._checked if not isinstance(e, Reject)]

    def sources(self) -> list[str]:
        """Return the URIs to look up, each once."""
        rows = (each for each in self.rows if not isinstance(each, Reject))
        return list({uri: None for _, spec, _ in rows for uri in Sources.uris(spec)})
