"""What a caller wants of a table's columns, and the refusal of a table without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ace_tasks.errors import CatalogError


@dataclass(frozen=True)
class Table:
    """`catalog`: whether it is an edit catalog, in which every row has a task.

    `columns`: the columns that it needs. `noun`: what its rows are called in a message.
    `encoding`: of its text, as a person names it; empty: UTF-8, or UTF-16 where the file says so.
    """

    catalog: bool = True
    columns: tuple[str, ...] = ()
    noun: str = "row"
    encoding: str = ""


CATALOG = Table()


def check_columns(name: str, columns: Sequence[str], table: Table) -> None:
    """Raises CatalogError where the table lacks a column that every row needs."""
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
    """Raises CatalogError where two columns have one name. Columns without a name may be many."""
    seen: set[str] = set()
    for column in columns:
        if column and column in seen:
            raise CatalogError(f"{name}: column {column!r} stands twice in the header")
        seen.add(column)
