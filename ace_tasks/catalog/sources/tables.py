"""Rows of a table or a product feed → pictures.

own       image, and optionally id and mask: a catalog, or any table written for this program
google    id, image_link, additional_image_link: Google Merchant, as XML, TSV or CSV
shopify   Handle, Image Src, Image Position, Variant Image: Shopify's export of products. Its
          current template names them URL handle, Product image URL …

A product of a feed may name a picture any number of times, but the picture gets one row. In a table
of kind own every row may count, as in the pairs of a try-on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from ace_tasks.catalog.files import Reject, Row, absolute_uri
from ace_tasks.catalog.readers.header import plain_name
from ace_tasks.catalog.sources.links import (
    Links,
    is_broken_web,
    is_web,
    link_spans,
    links_of,
    shown,
)
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
from ace_tasks.wording import counted

_COLUMNS_NAMED = 12
_COLUMNS_KNOWN = 1000  # every row of JSON may have different columns
_LIKELY = ("image", "link", "handle", "url", "src", "photo", "picture")
# Each link becomes a row, or a reject that quotes its item. Google accepts 10.
_MOST_ADDITIONAL = 100
_MASK_KEYWORDS = frozenset({"alpha", "auto"})
_HANDLES = ("handle", "url_handle")
_IMAGES = ("image_src", "product_image_url")
_VARIANTS = ("variant_image", "variant_image_url")
# The number of leading rows that match no kind of table before the table is refused. A few may not,
# since an item of XML may omit elements.
_ROWS_WITHOUT_KIND = 1000
_AFTER_ALL = 2**62  # the number of a variant's picture, which comes last


@dataclass(frozen=True, slots=True)
class _Named:
    """A picture as a row names it.

    Without `row_id`, its id is made of its product and its file. `if_taken` decides what happens if
    another picture of the table has the same id.
    """

    product: str
    row_id: str
    link: str
    column: str
    mask: Any = None
    if_taken: Literal["reject", "by file"] = "reject"


Read = Iterator[SourcePicture | Skipped | Reject]
Kind = Callable[[int, dict[str, Any]], Iterator["_Named | Skipped | None"]]
"""A row → the pictures that it names. None stands for one that is decided at the end."""


class TableReader:
    """The pictures of one table.

    `allowed_buckets` is applied as in `files.to_specs`. With `once`, a repeated picture with the
    same id is skipped in a table of kind own as well.
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
        self._columns: dict[str, str] = {}  # normalized column → its name in the table
        self._kind: Kind | None = None

    def read(self, rows: Iterable[Row | Reject]) -> Read:
        """Yield the pictures in order.

        A variant's own pictures come last. With `main_only`, so do all pictures of Shopify.
        Raises CatalogError if the rows match no kind of table, or if none has a picture and none is
        a reject.
        """
        without = found = 0
        with NamedSoFar() as self._named:
            for each in self._read(rows):
                without += isinstance(each, Skipped)
                found += not isinstance(each, Skipped)
                yield each
        if not found:
            raise CatalogError(
                f"{self._name}: no row has a picture ({counted(without, 'row')} without); accepted: "
                f"links in the column {self._called(*_IMAGES)}"
            )

    def _read(self, rows: Iterable[Row | Reject]) -> Read:
        strange = 0
        for row in rows:
            if isinstance(row, Reject):
                yield self._with_place(row.line, row)
                continue
            cells = self.trimmed(row.cells)
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

    @property
    def is_feed(self) -> bool:
        """True if the rows read so far are those of a shop's product feed."""
        return self._kind in (self._google, self._shopify)

    def product(self, cells: Mapping[str, Any]) -> str:
        """Return the id of a feed's product, from the cells of a row or of its picture."""
        return _text(cells.get("id") if self._kind == self._google else _first(cells, _HANDLES))

    def links_in(self, text: str) -> list[tuple[int, int]]:
        """Return where the links of a feed's cell begin and end. Shopify's cells hold one."""
        begin = len(text) - len(text.lstrip())
        spans = link_spans(text.strip()) if self._kind == self._google else [(0, len(text.strip()))]
        return [(begin + first, begin + end) for first, end in spans if first < end]

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
        # An export has eighty columns, so the likely ones come first.
        names = sorted(self._columns, key=lambda name: (not any(map(name.count, _LIKELY)), name))
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
        """Return the picture, its reject, or Skipped if its product has it already."""
        try:
            uri, mask = self.resolve(named.column, named.link), named.mask
            if (
                isinstance(mask, str)
                and mask
                and mask not in _MASK_KEYWORDS
                and mask[:1] not in {"{", "["}
            ):
                mask = self.resolve("mask", mask)
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
        """Return the picture's row id, and the line that named it before, or None.

        Remembers a new picture, except in a table of kind own without `once`. Raises BadRow if its
        id is taken.
        """
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
                f"accepted: an id used once; {quote(row_id)} is used in line {taken} as well, with "
                "another picture",
            )
        self._named.add_picture(product, uri, mask, line)
        self._named.add_id(row_id, line)
        self._named.count_up(product)
        return row_id, None

    def resolve(self, column: str, link: str) -> str:
        """Return the URI of the picture that a link names. Raises BadRow."""
        if self._links and self._links.is_bare(link):
            link = f"//{link}"
        if is_broken_web(link):
            raise BadRow(column, f"accepted: a web link with https://; given {shown(link)}")
        if is_web(link):
            if self._links is None:
                raise BadRow(
                    column,
                    "accepted: pictures on S3; links_from and links_to map web links to S3; "
                    f"given {shown(link)}",
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
        # The person who starts the run sets the target of links, not the feed, so its bucket needs
        # no check.
        return uri if is_web(link) else absolute_uri(column, uri, self._uri, self._allowed)

    def _own(self, line: int, cells: dict[str, Any]) -> Iterator[_Named]:
        row_id = _text(cells.get("id"))
        yield _Named(row_id, row_id, _link(cells.get("image"), "image"), "image", cells.get("mask"))

    def _google(self, line: int, cells: dict[str, Any]) -> Iterator[_Named]:
        product = self.product(cells)
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
        """Yield the pictures that a row of Shopify names.

        A product's other pictures and its variants have rows of their own. Product cells may be
        filled in the first row only or in all, rows may come in any order, and positions may be
        missing.
        """
        product = self.product(cells)
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
        """Yield the pictures of variants that are missing from their product's gallery."""
        for held in self._named.held():
            found = self._picture(held.line, self._of_held(held), held.cells)
            if held.alone or not isinstance(found, Skipped):
                yield found

    def _main_pictures(self) -> Read:
        """Yield each product's picture with the lowest position, or its first one."""
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

    def trimmed(self, cells: dict[str, Any]) -> dict[str, Any]:
        """Return the row with normalized column names.

        `Image Src` becomes `image_src`, and `g:image_link` becomes `image_link`. If two columns get
        the same name, a filled cell wins over an empty one.
        """
        trimmed: dict[str, Any] = {}
        for given, cell in cells.items():
            name = plain_name(str(given))
            if len(self._columns) < _COLUMNS_KNOWN:
                self._columns.setdefault(name, str(given).strip())
            if name not in trimmed or cell not in (None, ""):
                trimmed[name] = cell
        return trimmed

    def _known(self, names: tuple[str, ...]) -> str:
        return next((name for name in names if name in self._columns), names[0])

    def _called(self, *names: str) -> str:
        """Return the first of these columns that the table has, by the table's name for it."""
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
    """Return the row id of a product's picture. The first picture has the product's id."""
    return row_id_of(product, number) if number != 1 else row_id_of(product)


def _first(cells: Mapping[str, Any], names: tuple[str, ...]) -> Any:
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
