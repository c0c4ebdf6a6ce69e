"""Pairs of people and garments: who wears what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ace_tasks.catalog.files import Reject, Row, Table, read_rows
from ace_tasks.catalog.sources.album import Album
from ace_tasks.catalog.sources.source_picture import SourcePicture
from ace_tasks.errors import BadRow, SettingsError
from ace_tasks.wording import counted

Pairing = Literal["cross", "order", "column", "table"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A person and the garment to wear.

    `where` is the place that names the pair, such as `pairs.csv, line 7`, or "" without a file.
    """

    person: SourcePicture
    garment: SourcePicture
    where: str = ""

    @classmethod
    def of(cls, person: SourcePicture, garment: SourcePicture) -> Pair:
        """Return a pair that no table names. Its `where` joins the places of the two."""
        return cls(person, garment, " and ".join(filter(None, (person.where, garment.where))))


@dataclass(frozen=True, slots=True)
class PairsFile:
    """A table with the columns person and garment. An empty `encoding` means UTF-8."""

    path: Path
    encoding: str = ""

    def read(self) -> Iterator[Row | Reject]:
        table = Table(
            catalog=False, columns=("person", "garment"), noun="pair", encoding=self.encoding
        )
        return read_rows(self.path, table)


def count_pairs(people: Album, garments: Album, pairing: Pairing, table: PairsFile | None) -> int:
    """Return how many pairs there will be, including those that become rejects.

    Raises SettingsError if the two albums cannot be paired this way.
    """
    if pairing == "cross":
        return people.pictures * garments.pictures
    if pairing == "order":
        if people.places != garments.places:
            raise SettingsError(
                f"pairing: order needs as many people as garments; given "
                f"{counted(people.places, 'person', 'people')} and "
                f"{counted(garments.places, 'garment')}"
            )
        return people.places
    if pairing == "column":
        if not people.has_column("garment"):
            raise SettingsError(
                "pairing: column needs a column garment in the people's table; its columns are "
                f"{', '.join(people.columns(12)) or 'none: it is a prefix'}"
            )
        return sum(max(1, len(_wanted(person, garments))) for person in people)
    assert table is not None
    return sum(1 for _ in table.read())


def pairs(
    people: Album, garments: Album, pairing: Pairing, table: PairsFile | None
) -> Iterator[Pair | Reject]:
    """Yield the pairs, person by person or in the order of the table."""
    if pairing == "cross":
        for person in people:
            for garment in garments:
                yield Pair.of(person, garment)
    elif pairing == "order":
        yield from _by_order(people, garments)
    elif pairing == "column":
        for person in people:
            yield from _by_column(person, garments)
    else:
        assert table is not None
        for row in table.read():
            yield _by_row(row, people, garments, f"{table.path.name}, line {row.line}")


def _by_order(people: Album, garments: Album) -> Iterator[Pair | Reject]:
    for place in range(people.places):
        person, garment = people.at(place), garments.at(place)
        if person and garment:
            yield Pair.of(person, garment)
        elif person or garment:  # if both were rejected, both are reported already
            known = person or garment
            assert known is not None
            other = garments.what if person else people.what
            reason = f"the {other} at place {place + 1} was rejected"
            yield Reject(0, other, reason, {"id": known.row_id, "image": known.uri})


def _by_column(person: SourcePicture, garments: Album) -> Iterator[Pair | Reject]:
    wanted = _wanted(person, garments)
    cells = {"id": person.row_id, "image": person.uri}
    where = f"{person.where}: " if person.where else ""
    if not wanted:
        yield Reject(0, "garment", f"{where}missing; name the garment to wear", cells)
    for name in wanted:
        try:
            yield Pair.of(person, garments.find("garment", name))
        except BadRow as error:
            yield Reject(0, error.field, f"{where}{error}", cells | {"garment": name})


def _wanted(person: SourcePicture, garments: Album) -> list[str]:
    """Return the garments that a cell names: one, several separated by commas, or a list.

    A comma separates nothing if the whole cell is the name of a garment.
    """
    cell = person.columns.get("garment")
    text = "" if cell is None else str(cell).strip()
    is_one = "," in text and garments.called(text)
    names = cell if isinstance(cell, list) else [text] if is_one else text.split(",")
    return [name for name in (str(each).strip() for each in names) if name]


def _by_row(row: Row | Reject, people: Album, garments: Album, where: str) -> Pair | Reject:
    if isinstance(row, Reject):
        return Reject(0, row.field, f"{where}: {row.reason}", row.row)
    try:
        person = people.find("person", _name(row.cells, "person"))
        return Pair(person, garments.find("garment", _name(row.cells, "garment")), where)
    except BadRow as error:
        return Reject(0, error.field, f"{where}: {error}", row.cells)


def _name(cells: dict[str, Any], column: str) -> str:
    found = [cell for name, cell in cells.items() if str(name).strip().lower() == column]
    if len(found) > 1:
        raise BadRow(column, f"accepted: one column of this name; given {len(found)}")
    if not found or found[0] is None or not str(found[0]).strip():
        raise BadRow(column, "missing")
    return str(found[0]).strip()
