"""Google Merchant's product feed in XML, RSS 2.0 or Atom: one row an item.

A feed may be as large as a shop and as hostile as the web. Expat streams it, one item held at a
time. A document type is refused outright: only there can entities be declared that grow without
end or name files; a feed has no use for one. (defusedxml refuses the same, but builds trees of
whatever size; nothing is left of it beyond these lines.) What is too long, or too deep, ends it.
"""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from xml.parsers import expat

from ace_tasks.catalog import MAX_ROW_BYTES, Reject, Row
from ace_tasks.errors import BrokenRun, CatalogError

_GOOGLE = "http://base.google.com/ns/1.0"
_ITEMS = frozenset({"item", "entry"})  # RSS, Atom
_MANY = "additional_image_link"
_CHUNK_BYTES = 65_536
_MAX_DEPTH = 64
_ELEMENT_BYTES = 64  # what an empty one takes here, about
# The beginning of an item, in text: a CDATA section or a comment before it was not closed.
_HIDDEN = re.compile(r"<(?:\w{1,20}:)?(?:item|entry)(?=[\s>])")
_LONGEST_HIDDEN = len("<") + 20 + len(":entry>")
_SHOWN_CHARS = 1000
_MOST_INNER = 1000  # that are held until the end of the item around them


def read_feed(path: Path) -> Iterator[Row | Reject]:
    """Every item of a feed, in order: local name → text. `line` is where it begins.

    Raises CatalogError for the file as a whole.
    """
    reader = _Reader(path.name)
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield from reader.feed(chunk, last=False)
        yield from reader.feed(b"", last=True)
    except LookupError as error:
        raise CatalogError(f"{path.name}: no XML: {error}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CatalogError(f"{path.name}: damaged gzip ({error})") from None
    if not reader.items:
        raise CatalogError(f"{path.name}: no <item> and no <entry>: no product feed")
    if reader.items != reader.answered:
        raise BrokenRun(
            f"{path.name}: {reader.items} items were read but {reader.answered} are accounted for"
        )


class _Reader:
    def __init__(self, name: str):
        self._name = name
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.EntityDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.CommentHandler = self._comment
        self._parser.DefaultHandler = self._other
        self._fed = self._fed_at_event = 0  # a piece of markup is held until it is whole
        self._depth = 0
        self._item_depth = 0  # 0: outside
        self._line = 0
        self._size = 0
        self._cells: dict[tuple[bool, str], list[str]] = {}  # (Google's own?, name) → texts
        self._into: list[str] | None = None
        self._inner: list[tuple[int, str]] = []  # line and text of the items within this one
        self._text_end = ""  # of the text before, since the beginning of an item may be cut in two
        self._ready: list[Row | Reject] = []
        self.items = self.answered = 0

    def feed(self, chunk: bytes, *, last: bool) -> Iterator[Row | Reject]:
        self._fed += len(chunk)
        try:
            self._parser.Parse(chunk, last)
        except expat.ExpatError as error:
            raise CatalogError(f"{self._name}: no XML: {error}") from None
        if self._fed - self._fed_at_event > MAX_ROW_BYTES:
            raise CatalogError(
                f"{self._name}: accepted: tags and comments of at most {MAX_ROW_BYTES} bytes; one "
                f"after line {self._parser.CurrentLineNumber} is longer"
            )
        self.answered += len(self._ready)
        yield from self._ready
        self._ready.clear()

    def _refuse(self, *_: Any) -> NoReturn:
        raise CatalogError(
            f"{self._name}: accepted: XML without a document type (<!DOCTYPE …>), whose entities "
            "may grow without end"
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
            self._size, self._cells, self._inner = 0, {}, []
            self.items += 1
        elif self._item_depth and local in _ITEMS:
            self._inside(self._parser.CurrentLineNumber, "")
        elif self._item_depth and self._depth == self._item_depth + 1:
            self._size += len(local) + _ELEMENT_BYTES
            if self._size <= MAX_ROW_BYTES:
                self._into = []
                self._cells.setdefault((space == _GOOGLE, local), []).append("")

    def _comment(self, text: str) -> None:
        """One between items may leave out some on purpose."""
        self._fed_at_event = self._fed
        if self._item_depth:
            self._find_hidden(text, self._parser.CurrentLineNumber)

    def _find_hidden(self, text: str, first_line: int) -> None:
        """Account for the items whose markup stands in a text."""
        starts = [found.start() for found in _HIDDEN.finditer(text)]
        for start, end in itertools.pairwise([*starts, len(text)]):
            line = first_line + text.count("\n", 0, start)
            self._inside(line, text[start : min(end, start + _SHOWN_CHARS)])

    def _inside(self, line: int, text: str) -> None:
        """An item that is none of its own: it is told behind the one that holds it."""
        self.items += 1
        if self._item_depth and len(self._inner) < _MOST_INNER:
            self._inner.append((line, text))
        else:
            self._ready.append(Reject(line, None, self._lies_in(), text))

    def _lies_in(self) -> str:
        where = f"the item of line {self._line}" if self._item_depth else "a text before it"
        return f"accepted: items side by side; this one lies in {where}"

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
        # Google's own last: <g:id> is the product's, Atom's <id> the entry's.
        for (_, name), texts in sorted(self._cells.items()):
            cells[name] = texts if name == _MANY else texts[0]
        if self._size > MAX_ROW_BYTES:
            reason = f"accepted: items of at most {MAX_ROW_BYTES} bytes; this one is longer"
            shown = {name: str(value)[:1000] for name, value in list(cells.items())[:100]}
            return Reject(self._line, None, reason, shown)
        if self._inner:
            reason = (
                f"accepted: items side by side; this one holds the item of line {self._inner[0][0]}"
            )
            return Reject(self._line, None, reason, cells)
        ids = sorted(set(self._cells.get((True, "id"), ())))
        if len(ids) > 1:
            reason = f"accepted: one id in an item; this one has {len(ids)}: {', '.join(ids)}"
            return Reject(self._line, "id", reason[:400], cells)
        return Row(self._line, cells)
