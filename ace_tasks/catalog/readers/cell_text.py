"""The place of a cell's text in its file, so that a part of it can be replaced.

A feed is read as UTF-8, whatever its encoding is. Offsets are those of bytes in that UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# The columns of product feeds whose cells are links of pictures.
FEED_LINKS = frozenset({"image_link", "additional_image_link"})  # Google Merchant
FEED_LINKS |= {"image_src", "variant_image"}  # Shopify's older export
FEED_LINKS |= {"product_image_url", "variant_image_url"}  # and its newer one


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a cell's text, and the bytes `start` to `end` that spell it.

    They are its UTF-8, or they spell it otherwise, such as `&amp;` or `""`. `escaped` tells whether
    `&` must be written as `&amp;` there.
    """

    text: str
    start: int
    end: int
    escaped: bool = False

    def part(self, begin: int, end: int) -> Piece:
        """Return the characters `begin` to `end`. A piece that is spelt otherwise stays whole."""
        before, text = self.text[:begin], self.text[begin:end]
        if _size(self.text) != self.end - self.start:
            return self
        start = self.start + _size(before)
        return Piece(text, start, start + _size(text), self.escaped)


@dataclass(frozen=True, slots=True)
class CellText:
    """The text of a cell of the column `name`, in pieces."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        return "".join(each.text for each in self.pieces)

    def spans(self, begin: int, end: int) -> list[Piece]:
        """Return the bytes that spell the characters `begin` to `end`, as few pieces as possible.

        There is more than one if something else is written between them, such as a comment.
        """
        spans: list[Piece] = []
        for each in self._parts(begin, end):
            last = spans[-1] if spans else None
            if last and last.end == each.start and last.escaped == each.escaped:
                spans[-1] = Piece(last.text + each.text, last.start, each.end, each.escaped)
            else:
                spans.append(each)
        return spans

    def _parts(self, begin: int, end: int) -> Iterator[Piece]:
        at = 0
        for each in self.pieces:
            first, last = max(begin - at, 0), min(end - at, len(each.text))
            if first < last:
                yield each.part(first, last)
            at += len(each.text)


def _size(text: str) -> int:
    return len(text.encode(errors="surrogateescape"))
