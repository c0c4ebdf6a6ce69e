"""Rows of a table or a product feed → pictures.

own       image, and if wanted id and mask: a catalog, or any table of one's own
google    id, image_link, additional_image_link: Google Merchant, as XML, TSV or CSV
shopify   Handle, Image Src, Image Position, Variant Image: Shopify's export of products; or as
          its current template calls them: URL handle, Product image URL …

A product of a feed may name a picture any number of times: it is one picture, and has one row. A
table of one's own may mean each of its rows, as the pairs of a try-on do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from ace_tasks.catalog.files import Reject, Row, absolute_uri
from ace_tasks.catalog.sources.links import Links, is_broken_web, is_web, links_of, shown
from ace_tasks.catalog.sources.named_so_far import NamedSoFar, PendingPicture
from ace_tasks.catalog.sources.source_picture import (
    Skipped,
    SourcePicture,
    file_name,
    row_id_of,
    unique_id,
)
from ace_tasks.errors import BadRow, CatalogError
from ace_tasks.specs import MAX_URI_CHARS, check_uri, quote

_COLUMNS_NAMED = 12
_COLUMNS_KNOWN = 1000  # each row of JSON may have others
_TELLING = ("image", "link", "handle", "url", "src", "photo", "picture")
# Each becomes a row, or a reject that quotes its item. Google takes 10.
_MOST_ADDITIONAL = 100
_MASK_KEYWORDS = frozenset({"alpha", "auto"})
_HANDLES = ("handle", "url_handle")
_IMAGES = ("image_src", "product_image_url")
_VARIANTS = ("variant_image", "variant_image_url")
# Rows that name no picture by any rule, before one that does: an item of XML may leave out what it
# does not have, but a table is refused once so many have.
_ROWS_WITHOUT_KIND = 1000
_AFTER_ALL = 2**62  # the number of a variant's picture


@dataclass(frozen=True, slots=True)
class _Named:
    """A picture as a row names it. Without `row_id` it is named after its product and its file.

    `if_taken`: what to do where another picture of the table has its id.
    """

    product: str
    row_id: str
    link: str
    column: str
    mask: Any = None
    if_taken: Literal["reject", "by file"] = "reject"


Read = Iterator[SourcePicture | Skipped | Reject]
Kind = Callable[[int, dict[str, Any]], Iterator["_Named | Skipped | None"]]
"""A row → the pictures that it names; None: one that is decided about in the end."""


class TableReader:
    """The pictures of one table. `allowed_buckets`: as of a catalog (`catalog.to_specs`).

    `once`: in a table of one's own, too, the same picture with the same id is taken once.
    """

    def __init__(
        self,
        uri: str,
        links: Links | None,
        allowed_buckets: tuple[str, ...] | None,
        *,
        main_only: bool = False,
        once: bool = False,
    ):
        self._uri, self._links, self._allowed = uri, links, allowed_buckets
        self._main_only, self._once = main_only, once
        self._name = PurePosixPath(uri).name
        self._columns: dict[str, str] = {}  # a column as we know it → as the table calls it
        self._kind: Kind | None = None

    def read(self, rows: Iterable[Row | Reject]) -> Read:
        """In order; a variant's own pictures, and with `main_only` all of Shopify's, come last.

        Raises CatalogError where no row names a picture by any rule, and where no row has a
        picture or is a reject.
        """
        without = found = 0
        with NamedSoFar() as self._named:
            for each in self._read(rows):
                without += isinstance(each, Skipped)
                found += not isinstance(each, Skipped)
                yield each
        if not found:
            raise CatalogError(
                f"{self._name}: no row has a picture ({without:,} rows without); accepted: links in "
                f"the column {self._called(*_IMAGES)}"
            )

    def _read(self, rows: Iterable[Row | Reject]) -> Read:
        strange = 0
        for row in rows:
            if isinstance(row, Reject):
                yield self._with_place(row.line, row)
                continue
            cells = self._trimmed(row.cells)
            self._kind = self._kind or self._kind_of(cells)
            if self._kind is None:
                strange += 1
                if strange >= _ROWS_WITHOUT_KIND:
                    break
                yield self._with_place(row.line, Reject(row.line, None, _ACCEPTED, cells))
                continue
            try:
                yield from self._pictures(row.line, cells, self._kind)
            except BadRow as error:
                yield self._rejected(row.line, cells, error)
        if strange and self._kind is None:
            raise self._unknown()
        yield from self._main_pictures() if self._main_only else self._variants()

    def _kind_of(self, cells: dict[str, Any]) -> Kind | None:
        columns = cells.keys()
        if "image" in columns:
            return self._own
        if columns >= {"id", "image_link"}:
            return self._google
        if columns & set(_HANDLES) and columns & {*_IMAGES, *_VARIANTS}:
            return self._shopify
        return None

    def _unknown(self) -> CatalogError:
        # An export has eighty columns: those come first that may have been meant.
        names = sorted(self._columns, key=lambda name: (not any(map(name.count, _TELLING)), name))
        given = ", ".join(names[:_COLUMNS_NAMED])
        more = f" and {len(names) - _COLUMNS_NAMED} more" if len(names) > _COLUMNS_NAMED else ""
        return CatalogError(f"{self._name}: {_ACCEPTED}; the columns are {given}"[:380] + more)

    def _pictures(self, line: int, cells: dict[str, Any], kind: Kind) -> Read:
        for named in kind(line, cells):
            if isinstance(named, Skipped):
                yield named
            elif named is not None:
                yield self._picture(line, named, cells)

    def _picture(
        self, line: int, named: _Named, cells: dict[str, Any]
    ) -> SourcePicture | Skipped | Reject:
        """It, or why it is none; one that its product has already is passed over."""
        try:
            uri, mask = self._resolve(named.column, named.link), named.mask
            if (
                isinstance(mask, str)
                and mask
                and mask not in _MASK_KEYWORDS
                and mask[:1] not in {"{", "["}
            ):
                mask = self._resolve("mask", mask)
            row_id, first = self._entered(line, named, uri, mask)
        except BadRow as error:
            given = {named.column: named.link} | ({"id": named.row_id} if named.row_id else {})
            return self._rejected(line, cells | given, error)
        if first is not None:
            return Skipped(f"line {line}, as line {first}", "the same picture again")
        file = file_name(uri)
        names = (row_id, file, uri) if named.product else (file, uri)
        return SourcePicture(uri, row_id, names, mask, cells, where=f"{self._name}, line {line}")

    def _entered(self, line: int, named: _Named, uri: str, mask: Any) -> tuple[str, int | None]:
        """The picture's row id, and the line that has named it before. Raises BadRow."""
        file = file_name(uri)
        by_file = unique_id(file, uri)
        if named.product:
            by_file = unique_id(f"{named.product}-{file}", named.product, uri)
        row_id = named.row_id or by_file
        if self._kind == self._own and not self._once:
            return row_id, None
        product = named.product or row_id
        first = self._named.line_of_picture(product, uri, mask)
        if first is not None:
            return row_id, first
        taken = self._named.line_of_id(row_id)
        if taken is not None and named.if_taken == "by file":
            row_id, taken = by_file, self._named.line_of_id(by_file)
        if taken is not None:
            raise BadRow(
                "id",
                f"accepted: an id used once; {quote(row_id)} stands in line {taken} as well, with "
                "another picture",
            )
        self._named.add_picture(product, uri, mask, line)
        self._named.add_id(row_id, line)
        self._named.count_up(product)
        return row_id, None

    def _resolve(self, column: str, link: str) -> str:
        """Where it is. Raises BadRow."""
        if self._links and self._links.is_bare(link):
            link = f"//{link}"
        if is_broken_web(link):
            raise BadRow(column, f"accepted: a web link with https://; given {shown(link)}")
        if is_web(link):
            if self._links is None:
                raise BadRow(
                    column,
                    "accepted: pictures on S3; links_from and links_to say where on S3 web links "
                    f"lead to; given {shown(link)}",
                )
            uri = self._links.resolve(link, column)
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

    def _own(self, line: int, cells: dict[str, Any]) -> Iterator[_Named]:
        row_id = _text(cells.get("id"))
        yield _Named(row_id, row_id, _link(cells.get("image"), "image"), "image", cells.get("mask"))

    def _google(self, line: int, cells: dict[str, Any]) -> Iterator[_Named]:
        product = _text(cells.get("id"))
        if not product:
            raise BadRow("id", "missing")
        main = links_of(cells.get("image_link"))
        if not main:
            _link(cells.get("image_link"), "image_link")
        links = [(link, "image_link") for link in main]
        more = [] if self._main_only else links_of(cells.get(_MORE))
        if len(main) + len(more) > 1 + _MOST_ADDITIONAL:
            raise BadRow(
                _MORE if more else "image_link",
                f"accepted: at most {_MOST_ADDITIONAL} more links; given "
                f"{len(main) + len(more) - 1:,}",
            )
        links += [(link, _MORE) for link in more]
        for number, (link, column) in enumerate(links[: 1 if self._main_only else None], start=1):
            yield _Named(product, _numbered(product, number), link, column)

    def _shopify(self, line: int, cells: dict[str, Any]) -> Iterator[_Named | Skipped | None]:
        """A product's further pictures and its variants are rows as well. Product cells may stand in
        its first row only or in every one, rows in any order, positions in none.
        """
        product = _text(_first(cells, _HANDLES))
        image, variant = (_text(_first(cells, each)) for each in (_IMAGES, _VARIANTS))
        if not image and not variant:
            yield Skipped(f"line {line}", "without a picture")
            return
        if not product:
            raise BadRow(self._known(_HANDLES), "missing")
        if variant:
            column = self._known(_VARIANTS)
            held = PendingPicture(product, _AFTER_ALL, line, column, variant, not image, cells)
            self._named.hold(held)
            yield None
        if not image:
            return
        position = _text(cells.get("image_position"))
        is_number = position.isascii() and position.isdigit() and len(position) < 10
        number = int(position) if is_number else self._named.count(product) + 1
        column = self._known(_IMAGES)
        if self._main_only:
            self._named.count_up(product)
            self._named.hold(PendingPicture(product, number, line, column, image, True, cells))
            yield None
        else:
            yield _Named(product, _numbered(product, number), image, column, None, "by file")

    def _variants(self) -> Read:
        """Pictures of variants that are none of their product's gallery, which mostly has them."""
        for held in self._named.held():
            found = self._picture(held.line, self._of_held(held), held.cells)
            if held.alone or not isinstance(found, Skipped):
                yield found

    def _main_pictures(self) -> Read:
        """Of each product the picture with the lowest position, or the first one."""
        main: PendingPicture | None = None
        for held in self._named.held_by_product():
            if main is None or held.product != main.product:
                main = held
                yield self._picture(held.line, self._of_held(held), held.cells)
            elif held.alone and held.line != main.line:
                yield Skipped(f"line {held.line}", "another picture of its product")

    def _of_held(self, held: PendingPicture) -> _Named:
        if held.number != _AFTER_ALL:
            row_id = _numbered(held.product, held.number)
        else:
            row_id = "" if self._named.count(held.product) else _numbered(held.product, 1)
        return _Named(held.product, row_id, held.link, held.column, None, "by file")

    # ------------------------------------------------------------ columns and rejects

    def _trimmed(self, cells: dict[str, Any]) -> dict[str, Any]:
        """Column names as kinds and prompts know them: `Image Src`, `g:image_link` → `image_src`,
        `image_link`. Of two that become one, an empty cell gives way.
        """
        trimmed: dict[str, Any] = {}
        for given, cell in cells.items():
            name = str(given).strip().lower().removeprefix("g:").replace(" ", "_")
            if len(self._columns) < _COLUMNS_KNOWN:
                self._columns.setdefault(name, str(given).strip())
            if name not in trimmed or cell not in (None, ""):
                trimmed[name] = cell
        return trimmed

    def _known(self, names: tuple[str, ...]) -> str:
        return next((name for name in names if name in self._columns), names[0])

    def _called(self, *names: str) -> str:
        """The first of the columns that the table has, as it calls it."""
        return next((self._columns[name] for name in names if name in self._columns), names[0])

    def _with_place(self, line: int, reject: Reject) -> Reject:
        return Reject(line, reject.field, f"{self._name}, line {line}: {reject.reason}", reject.row)

    def _rejected(self, line: int, cells: dict[str, Any], error: BadRow) -> Reject:
        column = error.field and self._columns.get(error.field, error.field)
        return self._with_place(line, Reject(line, column, str(error), cells))


_MORE = "additional_image_link"
_ACCEPTED = (
    "accepted: a table with the column image; Google Merchant's with id and image_link; Shopify's "
    "with Handle and Image Src, or URL handle and Product image URL"
)


def _numbered(product: str, number: int) -> str:
    """The id of a product's picture; the first one has the product's own."""
    return row_id_of(product, number) if number != 1 else row_id_of(product)


def _first(cells: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((cells[name] for name in names if cells.get(name) not in (None, "")), None)


def _text(cell: Any) -> str:
    return "" if cell is None or isinstance(cell, bool | dict | list) else str(cell).strip()


def _link(cell: Any, column: str) -> str:
    text = _text(cell)
    if not text:
        raise BadRow(
            column, "missing" if cell in (None, "") else f"accepted: a link; given {quote(cell)}"
        )
    return text
