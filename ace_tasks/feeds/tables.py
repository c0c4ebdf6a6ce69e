"""Rows of a table or a product feed → pictures.

own       image, and if wanted id and mask: a catalog, or any table of one's own
google    id, image_link, additional_image_link: Google Merchant, as XML, TSV or CSV
shopify   Handle, Image Src, Image Position: Shopify's export of products
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from ace_tasks.catalog import Reject, Row, absolute_uri
from ace_tasks.errors import BadRow, CatalogError
from ace_tasks.feeds.links import Links, is_web, shown
from ace_tasks.feeds.picture import Picture, Skipped, file_name, row_id_of, unique_id
from ace_tasks.specs import MAX_URI_CHARS, check_uri, quote

_COLUMNS_NAMED = 12
# Each becomes a row, or a reject that quotes its item. Google takes 10.
_MOST_ADDITIONAL = 100
_WORDS = frozenset({"alpha", "auto"})
# Google's comma-separated list; a comma may be part of a link.
_BETWEEN_LINKS = re.compile(r"\s*,\s*(?=https?://|s3://)", re.IGNORECASE)

Named = tuple[str, str, Any]
"""Row id, link, mask."""
Kind = Callable[[dict[str, Any]], Iterator[Named]]


class TableReader:
    """The pictures of one table. `allowed_buckets`: as of a catalog (`catalog.to_specs`)."""

    def __init__(
        self,
        uri: str,
        links: Links | None,
        allowed_buckets: tuple[str, ...] | None,
        *,
        main_only: bool = False,
    ):
        self._uri, self._links, self._allowed = uri, links, allowed_buckets
        self._main_only = main_only
        self._name = PurePosixPath(uri).name
        self._product: tuple[str, int] = ("", 0)  # Shopify's, and how many pictures it has so far

    def read(self, rows: Iterable[Row | Reject]) -> Iterator[Picture | Skipped | Reject]:
        """In order. Raises CatalogError where the first row names no picture by any rule, and
        where no row has a picture or is a reject.
        """
        without = found = 0
        for each in self._read(rows):
            without += isinstance(each, Skipped)
            found += not isinstance(each, Skipped)
            yield each
        if not found:
            raise CatalogError(
                f"{self._name}: no row has a picture ({without:,} rows without); accepted: links in "
                "the column Image Src"
            )

    def _read(self, rows: Iterable[Row | Reject]) -> Iterator[Picture | Skipped | Reject]:
        iterator = iter(rows)
        before: list[Reject] = []
        for first in iterator:
            if isinstance(first, Row):
                kind = self._kind(first.cells)
                iterator = chain(before, [first], iterator)
                break
            before.append(first)
        else:
            yield from (self._told(each.line, each) for each in before)
            return
        for row in iterator:
            if isinstance(row, Reject):
                yield self._told(row.line, row)
                continue
            cells = _trimmed(row.cells)
            try:
                yield from self._pictures(row.line, cells, kind)
            except BadRow as error:
                yield self._rejected(row.line, cells, error)

    def _kind(self, cells: dict[str, Any]) -> Kind:
        columns = set(_trimmed(cells))
        if "image" in columns:
            return self._own
        if columns >= {"id", "image_link"}:
            return self._google
        if columns >= {"handle", "image_src"}:
            return self._shopify
        given = ", ".join(sorted(columns)[:_COLUMNS_NAMED])
        raise CatalogError(
            f"{self._name}: accepted: a table with the column image; Google Merchant's with id and "
            f"image_link; Shopify's with Handle and Image Src; the columns are {given}"[:400]
        )

    def _pictures(
        self, line: int, cells: dict[str, Any], kind: Kind
    ) -> Iterator[Picture | Skipped | Reject]:
        found = False
        for row_id, link, mask in kind(cells):
            found = True
            try:
                yield self._picture(row_id, link, mask, cells)
            except BadRow as error:
                yield self._rejected(line, {"id": row_id, "image": link} | cells, error)
        if not found:
            yield Skipped(f"line {line}")

    def _picture(self, row_id: str, link: str, mask: Any, cells: dict[str, Any]) -> Picture:
        uri = self._resolve("image", link)
        if isinstance(mask, str) and mask and mask not in _WORDS and mask[:1] not in {"{", "["}:
            mask = self._resolve("mask", mask)
        file = file_name(uri)
        names = (row_id, file, uri) if row_id else (file, uri)
        return Picture(uri, row_id or unique_id(file, uri), names, mask, cells)

    def _resolve(self, column: str, link: str) -> str:
        """Where it is. Raises BadRow."""
        if is_web(link):
            if self._links is None:
                raise BadRow(
                    column,
                    "accepted: pictures on S3; links_from and links_to say where on S3 web links "
                    f"lead to; given {shown(link)}",
                )
            uri = self._links.resolve(link)
        else:
            uri = link
        if len(uri) > MAX_URI_CHARS:
            raise BadRow(column, f"accepted: URIs of at most {MAX_URI_CHARS} characters")
        try:
            check_uri(uri)
        except ValueError as error:
            raise BadRow(column, str(error)) from None
        # Where links lead to is said by whoever starts the run, not by the feed.
        return uri if is_web(link) else absolute_uri(column, uri, self._uri, self._allowed)

    # ------------------------------------------------------------ kinds

    def _own(self, cells: dict[str, Any]) -> Iterator[Named]:
        yield _text(cells.get("id")), _link(cells.get("image"), "image"), cells.get("mask")

    def _google(self, cells: dict[str, Any]) -> Iterator[Named]:
        product = _text(cells.get("id"))
        if not product:
            raise BadRow("id", "missing")
        links = [_link(cells.get("image_link"), "image_link")]
        if not self._main_only:
            additional = _list(cells.get("additional_image_link"))
            if len(additional) > _MOST_ADDITIONAL:
                raise BadRow(
                    "additional_image_link",
                    f"accepted: at most {_MOST_ADDITIONAL} links; given {len(additional):,}",
                )
            links += additional
        for number, link in enumerate(links, start=1):
            yield row_id_of(product, number) if number > 1 else row_id_of(product), link, None

    def _shopify(self, cells: dict[str, Any]) -> Iterator[Named]:
        """Its further pictures and its variants are rows, too: those without a picture are no
        rows here."""
        product, link = _text(cells.get("handle")), _text(cells.get("image_src"))
        if not link:
            return
        if not product:
            raise BadRow("handle", "missing")
        count = self._product[1] + 1 if product == self._product[0] else 1
        self._product = (product, count)
        position = _text(cells.get("image_position"))
        number = int(position) if position.isascii() and position.isdigit() else count
        if number == 1 or not self._main_only:
            yield row_id_of(product, number) if number != 1 else row_id_of(product), link, None

    # ------------------------------------------------------------ rejects

    def _told(self, line: int, reject: Reject) -> Reject:
        return Reject(line, reject.field, f"{self._name}, line {line}: {reject.reason}", reject.row)

    def _rejected(self, line: int, cells: dict[str, Any], error: BadRow) -> Reject:
        return self._told(line, Reject(line, error.field, str(error), cells))


def _trimmed(cells: dict[str, Any]) -> dict[str, Any]:
    """Column names as kinds and prompts know them: `Image Src`, `g:image_link` → `image_src`,
    `image_link`."""
    return {
        str(name).strip().lower().removeprefix("g:").replace(" ", "_"): value
        for name, value in cells.items()
    }


def _text(cell: Any) -> str:
    return "" if cell is None or isinstance(cell, bool | dict | list) else str(cell).strip()


def _link(cell: Any, column: str) -> str:
    text = _text(cell)
    if not text:
        raise BadRow(
            column, "missing" if cell in (None, "") else f"accepted: a link; given {quote(cell)}"
        )
    return text


def _list(cell: Any) -> list[str]:
    if isinstance(cell, list):
        return [each for each in map(_text, cell) if each]
    return [each for each in map(str.strip, _BETWEEN_LINKS.split(_text(cell))) if each]
