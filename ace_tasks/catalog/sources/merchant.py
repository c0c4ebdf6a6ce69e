"""Google Merchant's product feed in XML, RSS 2.0 or Atom: one row an item.

A feed may be as large as a shop and as hostile as the web. Expat streams it, and one item at a time
is in memory. A document type is refused, because only it can declare entities that grow without
limit or name files, and a feed does not need one. (defusedxml refuses the same, but builds trees of
any size.) Tags, comments and nesting have limits, and a feed beyond them is refused. Expat knows
few encodings, so text in others is converted to UTF-8 first.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NoReturn
from xml.parsers import expat

from ace_tasks.catalog.files import Reject, Row
from ace_tasks.catalog.readers.cell_text import FEED_LINKS, CellText, Piece
from ace_tasks.catalog.readers.encodings import HEAD_BYTES, as_utf8, xml_codec
from ace_tasks.catalog.readers.packed import open_file, readable
from ace_tasks.catalog.readers.row import MAX_ROW_BYTES
from ace_tasks.errors import BrokenRun, CatalogError
from ace_tasks.specs import quote
from ace_tasks.wording import counted

_GOOGLE = "http://base.google.com/ns/1.0"
_ITEMS = frozenset({"item", "entry"})  # RSS, Atom
_REPEATED = frozenset({"image_link", "additional_image_link"})  # may occur several times
# Elements that contain only text. Others, such as <g:shipping>, contain elements.
_TEXT_ONLY = frozenset({"id", "image", "mask"}) | _REPEATED
_CHUNK_BYTES = 65_536
_MAX_DEPTH = 64
_ELEMENT_BYTES = 64  # the approximate size of an empty element in memory
# The beginning of an item within text. It means that a CDATA section or a comment was not closed.
_HIDDEN = re.compile(r"<(?:\w{1,20}:)?(?:item|entry)(?=[\s>])")
_LONGEST_HIDDEN = len("<") + 20 + len(":entry>")
_SHOWN_CHARS = 1000
_MOST_INNER = 1000  # inner items kept until the end of the item around them
# Expat's errors, in words that help to fix the feed.
_EXPLANATIONS = {
    expat.errors.XML_ERROR_SYNTAX: "the file begins with something that is not a tag",
    expat.errors.XML_ERROR_NO_ELEMENTS: "the file ends before its first tag is closed, or has none",
    expat.errors.XML_ERROR_INVALID_TOKEN: "a character that is not allowed there. In text, "
    "& is written &amp; and < is written &lt;. Text that is not UTF-8 needs its encoding in the "
    "first line: <?xml … encoding=…?>",
    expat.errors.XML_ERROR_UNCLOSED_TOKEN: "a tag or a comment begins there and never ends",
    expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION: "a <![CDATA[ is not closed by ]]>",
    expat.errors.XML_ERROR_TAG_MISMATCH: "a tag is closed that is not the last one opened",
    expat.errors.XML_ERROR_DUPLICATE_ATTRIBUTE: "a tag has the same attribute twice",
    expat.errors.XML_ERROR_JUNK_AFTER_DOC_ELEMENT: "the file goes on after its first tag is closed",
    expat.errors.XML_ERROR_UNDEFINED_ENTITY: "a name between & and ; that XML does not know. It "
    "knows &amp; &lt; &gt; &quot; &apos;, and any character by its number, such as &#160;",
    expat.errors.XML_ERROR_BAD_CHAR_REF: "a character number that XML does not allow",
    expat.errors.XML_ERROR_MISPLACED_XML_PI: "<?xml …?> is allowed only at the very beginning, "
    "with no space or blank line before it",
    expat.errors.XML_ERROR_UNBOUND_PREFIX: "a prefix that is not declared. Google's needs "
    f'xmlns:g="{_GOOGLE}" in the first tag',
}


def read_feed(path: Path, encoding: str = "", *, texts: bool = False) -> Iterator[Row | Reject]:
    """Yield every item of a feed, in order, as cells of local name → text.

    `line` is the line where an item begins. `encoding` is used if the feed declares none. Empty
    means UTF-8. With `texts`, rows tell where their links are written. Raises CatalogError if the
    file cannot be read.
    """
    with readable(path.name), ExitStack() as held:
        opened = held.enter_context(open_file(path))
        file = _as_utf8(path.name, opened, encoding)
        reader = _TextsReader(path.name) if texts else _FeedReader(path.name)
        try:
            while chunk := file.read(_CHUNK_BYTES):
                yield from reader.feed(chunk, last=False)
        except UnicodeDecodeError as error:
            reason = f"bytes that are not {error.encoding} text, after line {reader.line}"
            raise CatalogError(f"{path.name}: unreadable XML: {reason}") from None
        yield from reader.feed(b"", last=True)
    if not reader.items:
        raise CatalogError(f"{path.name}: not a product feed: no <item> and no <entry>")
    if reader.items != reader.answered:
        raise BrokenRun(
            f"{path.name}: read {counted(reader.items, 'item')}, but accounted for {reader.answered}"
        )


def _as_utf8(name: str, file: IO[bytes], encoding: str) -> IO[bytes]:
    """Return the feed as UTF-8."""
    head = file.read(HEAD_BYTES)
    file.seek(0)
    try:
        codec = xml_codec(head, encoding)
    except ValueError as error:
        raise CatalogError(f"{name}: unreadable XML: {error}") from None
    return file if codec == "utf-8" else as_utf8(file, codec, strict=True)


class _FeedReader:
    def __init__(self, name: str):
        self._name = name
        # The text is UTF-8 already, whatever encoding the feed declares.
        self._parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.EntityDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.CommentHandler = self._comment
        self._parser.DefaultHandler = self._other
        self._fed = self._fed_at_event = 0  # Expat buffers markup until it is complete
        self._depth = 0
        self._item_depth = 0  # 0 outside items
        self._line = 0
        self._size = 0
        self._cells: dict[tuple[bool, str], list[str]] = {}  # (in Google's namespace, name) → texts
        self._into: list[str] | None = None
        self._cell = ""
        self._nested: tuple[str, str] | None = None  # an element within one of _TEXT_ONLY
        self._inner: list[tuple[int, str]] = []  # line and text of the items within this one
        self._text_end = ""  # of the previous text, since the beginning of an item may be split
        self._ready: list[Row | Reject] = []
        self.items = self.answered = 0

    def feed(self, chunk: bytes, *, last: bool) -> Iterator[Row | Reject]:
        self._fed += len(chunk)
        try:
            self._parser.Parse(chunk, last)
        except expat.ExpatError as error:
            wrong = _EXPLANATIONS.get(expat.errors.messages[error.code], str(error))
            where = f"line {error.lineno}, character {error.offset + 1}"
            raise CatalogError(f"{self._name}: unreadable XML: {where}: {wrong}") from None
        except ValueError as error:  # unknown encodings, and NUL in names
            raise CatalogError(f"{self._name}: unreadable XML: {error}") from None
        if self._fed - self._fed_at_event > MAX_ROW_BYTES:
            raise CatalogError(
                f"{self._name}: accepted: tags and comments of at most {MAX_ROW_BYTES} bytes; one "
                f"after line {self._parser.CurrentLineNumber} is longer"
            )
        self.answered += len(self._ready)
        yield from self._ready
        self._ready.clear()

    @property
    def line(self) -> int:
        return self._parser.CurrentLineNumber

    def _refuse(self, *_: Any) -> NoReturn:
        raise CatalogError(
            f"{self._name}: accepted: XML without a document type (<!DOCTYPE …>), because its "
            "entities can grow without limit"
        )

    def _other(self, _: str) -> None:
        self._fed_at_event = self._fed

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._fed_at_event = self._fed
        self._depth += 1
        self._text_end = ""
        if self._depth > _MAX_DEPTH:
            raise CatalogError(f"{self._name}: accepted: at most {_MAX_DEPTH} elements deep")
        space, _, local = name.rpartition(" ")
        if not self._item_depth and local in _ITEMS:
            self._item_depth, self._line = self._depth, self._parser.CurrentLineNumber
            self._size, self._cells, self._inner, self._nested = 0, {}, [], None
            self.items += 1
        elif self._item_depth and local in _ITEMS:
            self._inside(self._parser.CurrentLineNumber, "")
        elif self._item_depth and self._depth == self._item_depth + 1:
            self._size += len(local) + _ELEMENT_BYTES
            if self._size <= MAX_ROW_BYTES:
                self._into, self._cell = [], local
                self._cells.setdefault((space == _GOOGLE, local), []).append("")
        elif self._into is not None and self._cell in _TEXT_ONLY and self._nested is None:
            self._nested = self._cell, local[:80]

    def _comment(self, text: str) -> None:
        """Look for hidden items in a comment within an item.

        A comment between items may leave out some on purpose.
        """
        self._fed_at_event = self._fed
        if self._item_depth:
            self._find_hidden(text, self._parser.CurrentLineNumber)

    def _find_hidden(self, text: str, first_line: int) -> None:
        """Account for the items whose markup is part of a text."""
        starts = [found.start() for found in _HIDDEN.finditer(text)]
        for start, end in itertools.pairwise([*starts, len(text)]):
            line = first_line + text.count("\n", 0, start)
            self._inside(line, text[start : min(end, start + _SHOWN_CHARS)])

    def _inside(self, line: int, text: str) -> None:
        """Reject an item within another one. Its reject follows that of the outer item."""
        self.items += 1
        if self._item_depth and len(self._inner) < _MOST_INNER:
            self._inner.append((line, text))
        else:
            self._ready.append(Reject(line, None, self._lies_in(), text))

    def _lies_in(self) -> str:
        where = f"the item of line {self._line}" if self._item_depth else "a text before it"
        return f"accepted: items side by side; this one is inside {where}"

    def _text(self, text: str) -> None:
        self._fed_at_event = self._fed
        if "<" in text or self._text_end:
            whole = self._text_end + text
            self._find_hidden(whole, self._parser.CurrentLineNumber - whole.count("\n"))
            end = whole[max(whole.rfind("<"), 0) :]
            is_begun = end.startswith("<") and len(end) < _LONGEST_HIDDEN
            self._text_end = end if is_begun and not _HIDDEN.match(end) else ""
        if self._into is None or self._depth != self._item_depth + 1:
            return
        self._size += len(text.encode())
        if self._size <= MAX_ROW_BYTES:
            self._into.append(text)

    def _end(self, name: str) -> None:
        self._fed_at_event = self._fed
        self._text_end = ""
        if self._item_depth and self._depth == self._item_depth + 1 and self._into is not None:
            space, _, local = name.rpartition(" ")
            self._cells[space == _GOOGLE, local][-1] = "".join(self._into).strip()
            self._into = None
        if self._depth == self._item_depth:
            lies_in = self._lies_in()
            self._item_depth = 0
            self._ready.append(self._row())
            self._ready += [Reject(line, None, lies_in, text) for line, text in self._inner]
        self._depth -= 1

    def _row(self) -> Row | Reject:
        cells: dict[str, Any] = {}
        # Google's columns come last and win: <g:id> is the product's id, Atom's <id> the entry's.
        for (_, name), texts in sorted(self._cells.items()):
            cells[name] = texts if name in _REPEATED and len(texts) > 1 else texts[0]
        if self._size > MAX_ROW_BYTES:
            reason = f"accepted: items of at most {MAX_ROW_BYTES} bytes; this one is longer"
            shown = {name: str(value)[:1000] for name, value in list(cells.items())[:100]}
            return Reject(self._line, None, reason, shown)
        if self._inner:
            reason = (
                f"accepted: items side by side; this one holds the item of line {self._inner[0][0]}"
            )
            return Reject(self._line, None, reason, cells)
        if self._nested:
            column, child = self._nested
            reason = f"accepted: only text; this one contains an element {quote(child)}"
            return Reject(self._line, column, reason, cells)
        ids = sorted(set(self._cells.get((True, "id"), ())))
        if len(ids) > 1:
            reason = f"accepted: one id in an item; this one has {len(ids)}: {', '.join(ids)}"
            return Reject(self._line, "id", reason[:400], cells)
        return Row(self._line, cells)


class _TextsReader(_FeedReader):
    """A reader whose rows also tell where the texts of their links are written.

    Expat names the first byte of each event, so a piece of text ends where the next event begins.
    """

    def __init__(self, name: str):
        super().__init__(name)
        self._parser.buffer_text = False
        self._parser.StartCdataSectionHandler = self._cdata_begins
        self._parser.EndCdataSectionHandler = self._cdata_ends
        self._is_cdata = False
        self._texts: list[CellText] = []
        self._pieces: list[Piece] | None = None  # of the link that is being read
        self._begun: tuple[str, int, bool] | None = None  # a piece whose end is not known yet

    def _end_piece(self) -> None:
        if self._begun and self._pieces is not None:
            text, start, escaped = self._begun
            self._pieces.append(Piece(text, start, self._parser.CurrentByteIndex, escaped))
        self._begun = None

    def _cdata_begins(self) -> None:
        self._end_piece()
        self._is_cdata = True

    def _cdata_ends(self) -> None:
        self._end_piece()
        self._is_cdata = False

    def _other(self, text: str) -> None:
        self._end_piece()
        super()._other(text)

    def _comment(self, text: str) -> None:
        self._end_piece()
        super()._comment(text)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._end_piece()
        super()._start(name, attributes)
        if self._item_depth and self._depth == self._item_depth + 1:
            is_link = self._into is not None and self._cell in FEED_LINKS
            self._pieces = [] if is_link else None

    def _text(self, text: str) -> None:
        self._end_piece()
        super()._text(text)
        if self._depth == self._item_depth + 1 and self._size <= MAX_ROW_BYTES:
            self._begun = text, self._parser.CurrentByteIndex, not self._is_cdata

    def _end(self, name: str) -> None:
        self._end_piece()
        if self._pieces is not None and self._depth == self._item_depth + 1:
            self._texts.append(CellText(self._cell, tuple(self._pieces)))
            self._pieces = None
        super()._end(name)

    def _row(self) -> Row | Reject:
        row, texts = super()._row(), tuple(self._texts)
        self._texts.clear()
        return replace(row, texts=texts) if isinstance(row, Row) else row
