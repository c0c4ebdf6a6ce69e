"""A row of CSV or TSV between its lines and its cells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ace_tasks.catalog.readers.cell_text import CellText, Piece
from ace_tasks.catalog.readers.lines import TextLine

_QUOTED = re.compile(rb'"([^"]*(?:""[^"]*)*)"')
_LITERAL_OR_QUOTE = re.compile(rb'[^"]+|""')


@dataclass(frozen=True, slots=True)
class Record:
    """The cells of a row and the lines it spans. Without `cells`, `reason` says what is wrong.

    `quoted` tells whether quotes in `source` were read as quotes, not as text.
    """

    first: int
    lines: int
    cells: list[str] | None
    reason: str = ""
    text: str = ""
    too_long: bool = False
    source: tuple[TextLine, ...] = ()
    quoted: bool = False

    def texts(self, delimiter: str, columns: Mapping[int, str]) -> tuple[CellText, ...]:
        """Return where the cells of some columns are written. `columns` maps numbers to names."""
        if not columns:
            return ()
        data = b"".join(each.data for each in self.source)
        spans = _spans(data.rstrip(b"\r\n"), delimiter.encode(), quoted=self.quoted)
        start = self.source[0].start
        return tuple(
            CellText(columns[n], tuple(_pieces(data, *span, start)))
            for n, span in enumerate(spans)
            if n in columns
        )


def _spans(data: bytes, delimiter: bytes, *, quoted: bool) -> Iterator[tuple[int, int, bool]]:
    """Yield begin, end and whether it is quoted of each cell of a row, without its quotes."""
    at = 0
    while True:
        found = _QUOTED.match(data, at) if quoted else None
        after = found.end() if found else at
        end = data.find(delimiter, after)
        end = len(data) if end < 0 else end
        yield (*found.span(1), True) if found else (at, end, False)
        if end == len(data):
            return
        at = end + len(delimiter)


def _pieces(data: bytes, begin: int, end: int, quoted: bool, start: int) -> Iterator[Piece]:
    if not quoted:
        yield Piece(_text(data[begin:end]), start + begin, start + end)
        return
    for each in _LITERAL_OR_QUOTE.finditer(data, begin, end):
        text = '"' if each[0] == b'""' else _text(each[0])
        yield Piece(text, start + each.start(), start + each.end())


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def readable(text: str) -> str:
    """Return a text with replacement characters for bytes that are not UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
