"""The lines of a text file, and a ledger that checks that none is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from ace_tasks.catalog.readers.encodings import BOM, UTF16
from ace_tasks.catalog.readers.row import MAX_ROW_BYTES
from ace_tasks.errors import BrokenRun, CatalogError
from ace_tasks.wording import counted


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line with its line end.

    A line over MAX_ROW_BYTES is not `whole`, and `data` is its beginning. `odd_quotes` tells
    whether the complete line has an odd number of quotes. `start` is the offset of its first byte.
    """

    number: int
    data: bytes
    whole: bool
    odd_quotes: bool
    start: int = 0

    @property
    def text(self) -> str:
        return self.data.decode(errors="surrogateescape")


class Lines:
    """The lines of a file. At most MAX_ROW_BYTES of a line are kept in memory.

    All lines end as the first one does: with LF or CRLF, or with CR alone. `count` is the number
    of lines read so far. Raises CatalogError for text in UTF-16.
    """

    def __init__(self, name: str, file: IO[bytes]):
        self._name, self._file, self._end = name, file, b"\n"
        self._read: Callable[[int], bytes] = file.readline
        self._start = 0
        self.count = 0

    def __iter__(self) -> Iterator[TextLine]:
        return self

    def __next__(self) -> TextLine:
        data = self._first() if self.count == 0 else self._read(MAX_ROW_BYTES + 1)
        if not data:
            raise StopIteration
        self.count += 1
        start = self._start
        self._start += len(data)
        whole = len(data) <= MAX_ROW_BYTES
        quotes = data.count(b'"')
        if not whole and not data.endswith(self._end):
            while rest := self._read(MAX_ROW_BYTES):
                self._start += len(rest)
                quotes += rest.count(b'"')
                if rest.endswith(self._end):
                    break
        return TextLine(self.count, data[:MAX_ROW_BYTES], whole, bool(quotes % 2), start)

    def _first(self) -> bytes:
        data = self._file.readline(MAX_ROW_BYTES + 1)
        if data.startswith(UTF16):
            raise CatalogError(f"{self._name}: UTF-16 text (accepted: UTF-8)")
        if data.startswith(BOM):
            data, self._start = data.removeprefix(BOM), len(BOM)
        # Programs that convert line ends twice leave CR CR LF.
        if b"\r" in data.rstrip(b"\r\n"):
            self._end, self._read = b"\r", _reader_of_returns(self._file, data)
            data = self._read(MAX_ROW_BYTES + 1)
        return data


def _reader_of_returns(file: IO[bytes], begun: bytes) -> Callable[[int], bytes]:
    """Return a `readline` for lines that end with CR alone, as old spreadsheets write them."""
    held = begun

    def readline(limit: int) -> bytes:
        nonlocal held
        while (end := held.find(b"\r", 0, limit)) < 0 and len(held) < limit:
            more = file.read(MAX_ROW_BYTES)
            if not more:
                break
            held += more
        cut = end + 1 if end >= 0 else limit
        line, held = held[:cut], held[cut:]
        return line

    return readline


class Ledger:
    """A ledger that assigns every line of a file to a header, a row, a reject or a blank line.

    Raises BrokenRun if a line is lost or counted twice, which would be a bug in this program.
    """

    def __init__(self, name: str, lines: Lines):
        self._name, self._lines, self._last = name, lines, 0

    def enter(self, first: int, count: int) -> None:
        if first != self._last + 1 or count < 1:
            raise BrokenRun(
                f"{self._name}: {counted(count, 'line')} from line {first} came after line {self._last}"
            )
        self._last += count

    def close(self) -> None:
        if self._last != self._lines.count:
            raise BrokenRun(
                f"{self._name}: read {counted(self._lines.count, 'line')}, but accounted for "
                f"{self._last}"
            )
