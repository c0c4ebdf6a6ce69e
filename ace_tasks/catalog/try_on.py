"""The rows of a try-on batch: garments on people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from ace_tasks.catalog.files import Reject, open_catalog
from ace_tasks.catalog.pairs import Pair, Pairing, PairsFile, count_pairs, pairs
from ace_tasks.catalog.restyle import RowDefaults
from ace_tasks.catalog.sources.album import Album
from ace_tasks.catalog.sources.mask_files import MaskRule, open_masks
from ace_tasks.catalog.sources.named_so_far import NamedSoFar
from ace_tasks.catalog.sources.pictures import SourcePlace, pictures
from ace_tasks.catalog.sources.prefixes import TABLES, suffix_of
from ace_tasks.catalog.sources.source_picture import GeneratedRow, Skipped, SourcePicture, unique_id
from ace_tasks.catalog.templates import Template
from ace_tasks.errors import BadRow, SettingsError
from ace_tasks.specs import quote
from ace_tasks.store import Store
from ace_tasks.wording import counted

_COLUMNS_NAMED = 12
_SAMPLED = 16  # pairs sampled to estimate the price of all

# (how many rows, a few of them) → a text that says what all of them would take
Price = Callable[[int, list[dict[str, Any]]], str]


@dataclass(frozen=True)
class Batch:
    """People, garments, and how they are paired.

    Raises SettingsError for options that contradict each other.
    """

    people: SourcePlace
    garments: SourcePlace
    masks: str
    prompt: str
    pairing: Pairing
    pairs_table: str
    max_pairs: int
    limit: int  # 0: all
    defaults: RowDefaults
    encoding: str = ""  # of the table of pairs. Empty: UTF-8

    def __post_init__(self) -> None:
        if (self.pairing == "table") != bool(self.pairs_table):
            raise SettingsError(
                f"pairs: accepted: a table with pairing table, otherwise none; given "
                f"{quote(self.pairs_table)} with pairing {self.pairing}"
            )
        if self.pairs_table and suffix_of(self.pairs_table) not in TABLES:
            raise SettingsError(
                f"pairs: accepted: a file that ends in one of {', '.join(sorted(TABLES))}; given "
                f"{quote(self.pairs_table)}"
            )
        self.template  # noqa: B018  # a wrong template is reported before any work

    @property
    def template(self) -> Template:
        return Template.parse("prompt", self.prompt, ("person", "garment"))

    def rows(
        self, store: Store, scratch: Path, price: Price | None = None
    ) -> Iterator[GeneratedRow | Skipped | Reject]:
        """Yield the files that are not pictures and the rejects, then a row for each pair.

        Raises SettingsError before the first pair's row if there are more than `max_pairs` pairs.
        Its message quotes the estimate of `price`.
        """
        with ExitStack() as held:
            people = held.enter_context(Album.on_disk(scratch / "people.sqlite", "person"))
            garments = held.enter_context(Album.on_disk(scratch / "garments.sqlite", "garment"))
            yield from people.fill(pictures(self.people, store))
            yield from garments.fill(pictures(self.garments, store))
            self._check_columns(people, garments)
            table = (
                PairsFile(held.enter_context(open_catalog(self.pairs_table, store)), self.encoding)
                if self.pairs_table
                else None
            )
            mask = held.enter_context(
                open_masks("masks", self.masks, store, scratch, optional=False, masked=people)
            )
            wanted = pairs(people, garments, self.pairing, table)
            count = count_pairs(people, garments, self.pairing, table)
            total = min(count, self.limit or count)
            if total > self.max_pairs:
                sample = self._sample(islice(wanted, total), total, mask) if price else []
                takes = price(total, sample) if price else ""
                raise self._too_many(people, garments, count, takes)
            named = held.enter_context(NamedSoFar())
            for each in islice(wanted, self.limit or None):
                yield each if isinstance(each, Reject) else self._generated(each, mask, named)

    def _check_columns(self, people: Album, garments: Album) -> None:
        albums = {"person": people, "garment": garments}
        for field in self.template.fields:
            album = albums[field.of]
            if field.column is not None and not album.has_column(field.column):
                columns = ", ".join(album.columns(_COLUMNS_NAMED)) or "none: they have names only"
                raise SettingsError(
                    f"prompt: accepted columns of a {field.of}: {columns}; given {field}"
                )

    def _sample(
        self, wanted: Iterator[Pair | Reject], total: int, mask: MaskRule
    ) -> list[dict[str, Any]]:
        """Return the rows of a few pairs drawn at random.

        A regular step could always meet the same garment.
        """
        drawn = set(Random(0).sample(range(total), min(_SAMPLED, total)))
        found = (each for place, each in enumerate(wanted) if place in drawn)
        rows = [self._row(each, mask) for each in found if not isinstance(each, Reject)]
        return [each for each in rows if not isinstance(each, Reject)]

    def _too_many(self, people: Album, garments: Album, count: int, takes: str) -> SettingsError:
        return SettingsError(
            f"max_pairs: {counted(people.pictures, 'person', 'people')} and "
            f"{counted(garments.pictures, 'garment')}, paired by {self.pairing}, are "
            f"{counted(count, 'pair')}{f' ({takes})' if takes else ''}; accepted: at "
            f"most {self.max_pairs:,}. Raise max_pairs to make all of them, set limit for a trial, "
            "or choose who wears what with pairing order, column or table"
        )

    def _generated(
        self, pair: Pair, mask: MaskRule, named: NamedSoFar
    ) -> GeneratedRow | Skipped | Reject:
        """Return the row of a pair, or Skipped if its table has named the same pair before."""
        row = self._row(pair, mask)
        if isinstance(row, Reject) or self.pairing == "cross":
            return row if isinstance(row, Reject) else GeneratedRow(row, pair.where)
        key = (str(row["id"]), str(row["image"]), [row["reference"], row["mask"], row["prompt"]])
        if named.line_of_picture(*key) is not None:
            return Skipped(pair.where or str(row["id"]), "the same pair again")
        named.add_picture(*key, 0)
        return GeneratedRow(row, pair.where)

    def _row(self, pair: Pair, mask: MaskRule) -> dict[str, Any] | Reject:
        person, garment = pair.person, pair.garment
        row = {
            "id": unique_id(
                f"{_readable(person)}-{_readable(garment)}", person.row_id, garment.row_id
            ),
            "task": "try_on",
            "image": person.uri,
            "reference": garment.uri,
        }
        try:
            prompt = self.template.fill(
                {"person": _readable(person), "garment": _readable(garment)},
                {"person": person.columns, "garment": garment.columns},
            )
            return row | {
                "prompt": prompt,
                "mask": mask(person),
                **self.defaults.cells(masked=True),
            }
        except BadRow as error:
            where = f"{pair.where}: " if pair.where else ""
            return Reject(0, error.field, f"{where}{error}", row)


def _readable(picture: SourcePicture) -> str:
    """Return the last part of a picture's name: `anna` for `summer/anna`."""
    return picture.name.rpartition("/")[2] or picture.name
