"""The columns that a caller needs of a table, and the errors for a table without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ace_tasks.errors import CatalogError


@dataclass(frozen=True)
class Table:
    """A description of a table to read.

    `catalog` is true for an edit catalog, in which every row has a task. The table must have all
    `columns`. Messages call a row a `noun`. `encoding` is the text's encoding as a person names
    it. Empty means UTF-8, or UTF-16 if the file starts with its mark. With `texts`, rows of CSV and
    TSV also tell where the links of a feed are written.
    """

    catalog: bool = True
    columns: tuple[str, ...] = ()
    noun: str = "row"
    encoding: str = ""
    texts: bool = False


CATALOG = Table()


def plain_name(column: str) -> str:
    """Return a column's name as feeds are read: `Image Src` and `g:image_src` are `image_src`."""
    return column.strip().lower().removeprefix("g:").replace(" ", "_")


def check_columns(name: str, columns: Sequence[str], table: Table) -> None:
    """Raise CatalogError if the table lacks a required column."""
    known = {column.strip().lower() for column in columns}
    missing = [column for column in table.columns if column not in known]
    if missing:
        wanted = " and ".join(table.columns)
        raise CatalogError(
            f"{name}: accepted: a table with the columns {wanted}; its header is {list(columns)}"[
                :400
            ]
        )


def check_unique(name: str, columns: Sequence[str]) -> None:
    """Raise CatalogError if two columns have the same name. Several may have no name."""
    seen: set[str] = set()
    for column in columns:
        if column and column in seen:
            raise CatalogError(f"{name}: column {column!r} appears twice in the header")
        seen.add(column)
