"""CSV and TSV → rows. A quoted cell may hold line breaks, but never whole rows of the table.

A quote that is never closed, or that a later row happens to close, would turn many rows into one
cell and give a row the picture of another. So a row whose quoted cell would hold other rows is
rejected, and reading goes on right after it. In TSV a quote is often just an inch mark or a
quotation, so text that makes no sense as a quoted cell is read as plain text.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from itertools import zip_longest
from typing import IO, Any, NoReturn

from ace_tasks.catalog.readers.cell_text import FEED_LINKS
from ace_tasks.catalog.readers.header import Table, check_columns, check_unique, plain_name
from ace_tasks.catalog.readers.jsonl import not_text
from ace_tasks.catalog.readers.lines import Ledger, Lines, TextLine
from ace_tasks.catalog.readers.record import Record, readable
from ace_tasks.catalog.readers.row import MAX_ROW_BYTES, Reject, Row, too_long
from ace_tasks.errors import CatalogError
from ace_tasks.wording import counted

_NAMES = {",": "CSV", "\t": "TSV"}
_SEPARATORS = {",": "commas", "\t": "tabs"}
# Columns of catalogs and feeds whose cells are links or file names.
_LINK_COLUMNS = {"image", "reference"} | FEED_LINKS - {"additional_image_link"}
# Columns whose cells never contain a line break.
_ONE_LINE = _LINK_COLUMNS - {"reference"}
_ONE_LINE |= {"id", "handle", "url_handle", "task", "person", "garment"}
_LINE_END = re.compile(r"[\r\n]+")
# A link or a file name may contain spaces, but prose has a space after each comma.
_LINK = re.compile(
    r'"?(?:(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^"<>]+'
    r'|[^\s"<>][^"<>]*\.(?:jpe?g?|jfif|pjpe?g?|png|webp|avif|gif|tiff?|bmp|heic|svg))"?',
    re.IGNORECASE,
)
# The part of a line that belongs to a quoted cell opened by an earlier line.
_INSIDE = re.compile(r'[^"]*(?:""[^"]*)*')
# Lines after a broken row are read again. Only a hostile file needs this many times.
_MAX_REREADS = 8
# Marks bytes that are not UTF-8 in text decoded with errors="surrogateescape".
_ESCAPED = re.compile("[\udc80-\udcff]")


class _Swallowed(Exception):
    """The quoted cell being read contains the beginning of another row."""


class _TooLong(Exception):
    """The row being read exceeds MAX_ROW_BYTES."""


def read_delimited(
    name: str, file: IO[bytes], delimiter: str, table: Table
) -> Iterator[Row | Reject]:
    """Yield every row, in order. Raises CatalogError for a bad header or a table without rows."""
    csv.field_size_limit(MAX_ROW_BYTES)
    yield from _DelimitedReader(name, Lines(name, file), delimiter, table).rows()


class _DelimitedReader:
    def __init__(self, name: str, lines: Lines, delimiter: str, table: Table):
        self._name, self._lines, self._delimiter, self._table = name, lines, delimiter, table
        self._kind = _NAMES[delimiter]
        self._ledger = Ledger(name, lines)
        self._again: deque[TextLine] = deque()  # lines to read again, as rows of their own
        self._bytes = self._bytes_again = 0
        self._header: list[str] = []  # empty until it is read. A column may have no name
        self._named = 0  # columns up to the last one with a name
        self._links: list[int] = []
        self._one_line: list[int] = []
        self._texts: dict[int, str] = {}  # number → name of a column whose texts are asked for

    def rows(self) -> Iterator[Row | Reject]:
        found = False
        while (line := self._next()) is not None:
            record = self._record(line)
            self._ledger.enter(record.first, record.lines)
            if record.cells is not None and not any(record.cells):
                continue
            if not self._header:
                self._begin(record)
                continue
            found = True
            yield self._row(record)
        self._ledger.close()
        if not found:
            self._refuse(
                f"no {self._table.noun}s after the header; the header is {self._header}"
                if self._header
                else f"no {self._table.noun}s, only {counted(self._lines.count, 'blank line')}"
            )

    def _refuse(self, message: str) -> NoReturn:
        raise CatalogError(f"{self._name}: {message}"[:400])

    # ------------------------------------------------------------ header

    def _begin(self, record: Record) -> None:
        if record.cells is None:
            self._refuse(f"the header cannot be read as a row: {record.reason or 'it is too long'}")
        if any("\n" in cell and self._delimiter in cell for cell in record.cells):
            self._refuse("the header opens a quote that it does not close")
        header = [cell.strip() for cell in record.cells]
        if not any(header):
            self._refuse("the header names no column; it is blank")
        if any(map(_ESCAPED.search, header)):
            encoding = self._table.encoding or "UTF-8"
            hint = "" if self._table.catalog else "; --encoding names another encoding"
            self._refuse(f"the header is not {encoding} text{hint}; it is {header}")
        others = ",;\t".replace(self._delimiter, "")
        if len(header) == 1 and any(other in header[0] for other in others):
            wanted = _SEPARATORS[self._delimiter]
            self._refuse(f"columns must be separated by {wanted}; the header is {header}")
        check_unique(self._name, header)
        if self._table.catalog and "task" not in header:
            self._refuse(f"the header has no 'task' column; it is {header}")
        check_columns(self._name, header, self._table)
        self._header = header
        self._named = max(n for n, column in enumerate(header, start=1) if column)
        known = list(map(plain_name, header))
        self._links = [n for n, column in enumerate(known) if column in _LINK_COLUMNS]
        self._one_line = [n for n, column in enumerate(known) if column in _ONE_LINE]
        if self._table.texts:
            self._texts = {n: each for n, each in enumerate(header) if known[n] in FEED_LINKS}

    # ------------------------------------------------------------ rows

    def _row(self, record: Record) -> Row | Reject:
        first, lines, cells = record.first, record.lines, record.cells
        if cells is None:
            if record.too_long:
                return too_long(first, record.text, lines)
            text = record.text[:MAX_ROW_BYTES]
            return Reject(first, None, record.reason + _where(first, lines), text, lines=lines)
        row = self._named_cells(cells)
        if any(map(_ESCAPED.search, cells)):
            shown = {name: readable(cell) for name, cell in row.items()}
            return not_text(first, shown, self._table, lines)
        if not self._fits(cells) and not self._may_be_short(cells, lines):
            reason = f"accepted: {counted(len(self._header), 'cell')}, like the header; given {len(cells)}"
            reason += _where(first, lines)
            return Reject(first, None, reason, row, lines=lines)
        if self._may_be_short(cells, lines):
            row |= dict.fromkeys(filter(None, self._header[len(cells) :]), "")
        return Row(first, row, lines, record.texts(self._delimiter, self._texts))

    def _named_cells(self, cells: list[str]) -> dict[str, Any]:
        """Return column → cell. Cells without a column name are joined under the key ""."""
        row: dict[str, Any] = {}
        nameless = []
        for name, cell in zip_longest(self._header, cells):
            if name and cell is not None:
                row[name] = cell
            elif not name and cell:
                nameless.append(cell)
        return row | ({"": ", ".join(nameless)} if nameless else {})

    def _fits(self, cells: list[str]) -> bool:
        """Return whether the row fits the header.

        Spreadsheets omit or add empty cells after the last named column.
        """
        return self._named <= len(cells) and not any(cells[len(self._header) :])

    def _may_be_short(self, cells: list[str], lines: int) -> bool:
        """Return whether a row may end early, with its other columns empty.

        A feed's row may. A row of several lines may not, because a stray quote makes such rows.
        """
        return not self._table.catalog and lines == 1 and 1 < len(cells) < self._named

    # ------------------------------------------------------------ records

    def _next(self) -> TextLine | None:
        if self._again:
            return self._again.popleft()
        line = next(self._lines, None)
        if line is not None:
            self._bytes += len(line.data)
        return line

    def _record(self, line: TextLine) -> Record:
        if not line.whole:
            return self._oversized([line])
        if b'"' not in line.data and not _breaks(line):
            return Record(line.number, 1, self._plain_cells(line), source=(line,))
        lines = [line]
        try:
            cells = self._parse(lines)
        except _TooLong:
            if any(line.whole and self._may_be_row(line) for line in lines[1:]):
                return self._broken(lines, self._swallows(lines))
            return self._oversized(lines)
        except _Swallowed:
            return self._broken(lines, self._swallows(lines))
        except csv.Error as error:
            return self._broken(lines, f"unreadable {self._kind}: {self._quote_error(error)}")
        if len(lines) > 1 and self._holds_rows(cells, lines):
            return self._broken(lines, self._swallows(lines))
        text = self._as_text(line) if len(lines) == 1 else None
        quoted = self._likelier(cells, text) is cells
        cells = cells if quoted or text is None else text
        return Record(line.number, len(lines), cells, source=tuple(lines), quoted=quoted)

    def _quote_error(self, error: csv.Error) -> str:
        """Return what is wrong with a quote, in words that help to fix the table."""
        if "expected after" in str(error):
            wanted = "comma" if self._delimiter == "," else "tab"
            return (
                f"accepted: a {wanted} or the end of the row after the quote that closes a cell, "
                'and "" for a quote in a quoted cell; given another character'
            )
        if "unexpected end" in str(error):
            return "a quoted cell that begins in this row is never closed"
        return str(error)

    def _plain_cells(self, line: TextLine) -> list[str]:
        return line.text.rstrip("\r\n").split(self._delimiter)

    def _parse(self, lines: list[TextLine]) -> list[str]:
        """Return the cells of the row that begins with the one line given.

        Appends the other lines of the row to `lines`.
        """

        def following() -> Iterator[str]:
            yield lines[0].text
            if self._header and self._opener_holds_row(lines[0]):
                raise _Swallowed
            size = len(lines[0].data)
            while (line := self._next()) is not None:
                lines.append(line)
                size += len(line.data)
                if not line.whole or size > MAX_ROW_BYTES:
                    raise _TooLong
                if self._header and self._holds_row(line):
                    raise _Swallowed
                yield line.text

        return next(csv.reader(following(), delimiter=self._delimiter, strict=True))

    def _oversized(self, lines: list[TextLine]) -> Record:
        """Return the record of a row over MAX_ROW_BYTES that begins with these lines.

        Reads on to the line that closes its quoted cell, or to the next row.
        """
        first, count = lines[0], len(lines)
        is_open = (count > 1) != lines[-1].odd_quotes
        while is_open and (line := self._next()) is not None:
            if self._header and line.whole and self._holds_row(line):
                self._again.appendleft(line)
                break
            count += 1
            is_open = is_open != line.odd_quotes
        return Record(first.number, count, None, text=readable(first.text), too_long=True)

    def _broken(self, lines: list[TextLine], reason: str) -> Record:
        """Return the record of a broken row: as plain text if it is TSV, else as a reject.

        The lines from the next possible beginning of a row are read again.
        """
        first = lines[0]
        cells = self._as_text(first)
        end = 1
        while not cells and end < len(lines) and not self._may_begin_row(lines[end]):
            end += 1
        size = sum(len(line.data) for line in lines[end:])
        if self._bytes_again + size > MAX_ROW_BYTES + _MAX_REREADS * self._bytes:
            cells, end = None, len(lines)
            reason = f"unreadable {self._kind}: too many quotes that open and close"
        else:
            self._bytes_again += size
            self._again.extendleft(reversed(lines[end:]))
        text = readable("".join(line.text for line in lines[:end]))
        return Record(first.number, end, cells, reason, text, source=tuple(lines[:end]))

    def _as_text(self, line: TextLine) -> list[str] | None:
        """Return the cells of a line with quotes read as text, or None if they cannot be."""
        cells = self._plain_cells(line)
        if self._delimiter != "\t" or _breaks(line):
            return None
        fits = not self._header or self._fits(cells) or self._may_be_short(cells, 1)
        return cells if fits else None

    def _likelier(self, cells: list[str], text: list[str] | None) -> list[str]:
        """Return the likelier reading of a line of TSV: quotes as quotes, or quotes as text."""
        if text is None or not self._header:
            return cells
        if not self._fits(cells) and not self._may_be_short(cells, 1):
            return text
        quotes_tabs = any("\t" in cell for cell in cells)
        return text if quotes_tabs and self._linked(text) >= self._linked(cells) else cells

    def _linked(self, cells: list[str]) -> int:
        """Return how many of the link columns contain a link."""
        return sum(n < len(cells) and bool(_LINK.fullmatch(cells[n])) for n in self._links)

    # ------------------------------------------------------------ rows in quoted cells

    def _swallows(self, lines: list[TextLine]) -> str:
        """Return the reason to reject a row whose quoted cell holds other rows."""
        reason = (
            f"unreadable {self._kind}: a quoted cell that begins in this row would hold whole rows"
        )
        inner = [line for line in lines[1:] if line.whole and self._may_begin_row(line)]
        if inner:
            first = readable(self._plain_cells(inner[0])[0])[:80]
            reason += f"; line {inner[0].number} is read as a row of its own ({first})"
        return reason

    def _may_begin_row(self, line: TextLine) -> bool:
        return len(self._header) == 1 or self._delimiter.encode() in line.data

    @property
    def _holds_prose(self) -> bool:
        """Return whether a quoted cell may be prose, with line breaks and delimiters.

        In CSV with link columns it may, since descriptions contain commas. In TSV, or without link
        columns, a line break and a delimiter in one cell mean that it holds rows.
        """
        return self._delimiter == "," and bool(self._links) and len(self._header) > 1

    def _opener_holds_row(self, line: TextLine) -> bool:
        """Return whether the open quoted cell at the end of a line already holds more cells."""
        cells = next(csv.reader([line.text], delimiter=self._delimiter))
        behind = cells[-1].rstrip("\r\n").split(self._delimiter)[1:]
        if self._holds_prose:
            return self._holds_link(cells[-1])
        return bool(behind)

    def _holds_row(self, line: TextLine) -> bool:
        """Return whether a line within a quoted cell looks like a row of its own."""
        if len(self._header) == 1:
            return bool(line.data.strip())
        begun = _INSIDE.match(line.text)
        inside = begun[0] if begun else ""
        if self._delimiter not in inside:
            return False
        if not self._holds_prose:
            return True
        begins_with_link = 0 in self._links and _LINK.fullmatch(inside.partition(",")[0])
        if begins_with_link or self._holds_link(inside):
            return True
        # After the quote that closes a description come the links of its own row.
        return inside == line.text and self._is_row(inside.rstrip("\r\n").split(","))

    def _may_be_row(self, line: TextLine) -> bool:
        return bool(self._header) and self._fits(self._plain_cells(line))

    def _is_row(self, cells: list[str]) -> bool:
        """Return whether these are the cells of a row, with links or nothing in link columns."""
        return self._fits(cells) and bool(cells[0].strip()) and not self._has_bare_name(cells)

    def _has_bare_name(self, cells: list[str]) -> bool:
        """Return whether a link column holds a plain name or a list."""
        links = [cells[n] for n in self._links if n < len(cells) and cells[n].strip()]
        return not all(map(_LINK.fullmatch, links))

    def _holds_rows(self, cells: list[str], lines: list[TextLine]) -> bool:
        """Return whether a row of several lines that ended well still holds other rows."""
        if not self._header:
            return False
        too_many = any(cells[len(self._header) :])
        if too_many or (not self._fits(cells) and any(map(self._may_be_row, lines))):
            return True
        if any(_LINE_END.search(cells[n].strip()) for n in self._one_line if n < len(cells)):
            return True
        if self._holds_prose:
            # If the links of this row are plain names, those of rows inside it may be as well, so
            # cells are counted. Else they are not, since prose has commas of its own.
            plain = self._has_bare_name(cells) and any(
                len(self._plain_cells(line)) >= self._named for line in lines
            )
            return plain or any(map(self._holds_link, cells))
        return any(self._delimiter in cell for cell in cells)

    def _holds_link(self, cell: str) -> bool:
        """Return whether a link follows a comma in a cell that is not a list of links."""
        pieces = _LINE_END.sub(",", cell).split(",")
        listed = all(not each or _LINK.fullmatch(each) for each in pieces)
        return not (listed and pieces[0]) and any(
            _LINK.fullmatch(each) for line in cell.splitlines() for each in line.split(",")[1:]
        )


def _where(first: int, lines: int) -> str:
    return f" (lines {first} to {first + lines - 1})" if lines > 1 else ""


def _breaks(line: TextLine) -> bool:
    """Return whether the line contains a line break of another kind."""
    body = line.data.rstrip(b"\r\n")
    return b"\r" in body or b"\n" in body
