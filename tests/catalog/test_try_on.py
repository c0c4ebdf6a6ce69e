"""Test which person wears which garment, and the rows of that. If these break, ten thousand
pictures are paid for where ten were meant, or a garment is put on somebody else."""

from __future__ import annotations

import csv
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ace_tasks.catalog.files import Reject
from ace_tasks.catalog.restyle import RowDefaults
from ace_tasks.catalog.sources.pictures import SourcePlace
from ace_tasks.catalog.sources.source_picture import GeneratedRow, Skipped
from ace_tasks.catalog.try_on import Batch
from ace_tasks.errors import CatalogError, SettingsError
from ace_tasks.specs import TryOn, parse_spec
from ace_tasks.store import Store


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., str]:
    """Write rows as a table; return its path."""

    def write(name: str, rows: list[dict[str, Any]]) -> str:
        path = tmp_path / f"{name}.csv"
        with path.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return str(path)

    return write


@pytest.fixture
def people(table: Callable[..., str]) -> str:
    return table(
        "people",
        [
            {"id": "anna", "image": "s3://b/p/1.png", "mask": "s3://b/m/1.png", "garment": "shirt"},
            {
                "id": "eva",
                "image": "s3://b/p/2.png",
                "mask": "s3://b/m/2.png",
                "garment": "dress, 9.png",
            },
            {"id": "olga", "image": "s3://b/p/3.png", "mask": "", "garment": ""},
        ],
    )


@pytest.fixture
def garments(table: Callable[..., str]) -> str:
    return table(
        "garments",
        [
            {"id": "shirt", "image": "s3://b/g/7.png", "Colour": "red"},
            {"id": "dress", "image": "s3://b/g/8.png", "Colour": ""},
        ],
    )


def batch(people: str, garments: str, **changes: Any) -> Batch:
    settings: dict[str, Any] = {
        "masks": "auto",
        "prompt": "{person} wears {garment}",
        "pairing": "cross",
        "pairs_table": "",
        "max_pairs": 1000,
        "limit": 0,
        "defaults": RowDefaults(),
    }
    return Batch(
        SourcePlace("people", people), SourcePlace("garments", garments), **settings | changes
    )


@pytest.fixture
def rows(store: Store, tmp_path: Path) -> Callable[..., list[Any]]:
    def make(*places: str, **changes: Any) -> list[Any]:
        scratch = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
        scratch.mkdir()
        made = batch(*places, **changes).rows(store, scratch)
        return [each.cells if isinstance(each, GeneratedRow) else each for each in made]

    return make


Rows = Callable[..., list[Any]]


def worn(made: list[Any]) -> list[tuple[str, str]]:
    """Return the ends of the URIs of person and garment, for good rows."""
    good = [each for each in made if isinstance(each, dict)]
    return [(each["image"][-5], each["reference"][-5]) for each in good]


def rejects(made: list[Any]) -> list[str]:
    return [f"{each.field}: {each.reason}" for each in made if isinstance(each, Reject)]


def test_every_one_wears_every_one(rows: Rows, people: str, garments: str) -> None:
    made = rows(people, garments)
    assert worn(made) == [(p, g) for p in "123" for g in "78"]
    specs = [parse_spec(each) for each in made]
    assert all(isinstance(each, TryOn) for each in specs)
    assert specs[0].prompt == "anna wears shirt"
    assert specs[0].id.startswith("anna-shirt-")
    assert len({each.id for each in specs}) == 6
    assert rows(people, garments) == made  # ids and order are the same for ever
    assert made[:4] == rows(people, garments, limit=4)


def test_the_first_wears_the_first_and_a_reject_moves_nobody_up(
    rows: Rows, people: str, table: Callable[..., str]
) -> None:
    three = [
        {"id": "7", "image": "s3://b/g/7.png"},
        {"id": "x", "image": "https://far/x.png"},
        {"id": "9", "image": "s3://b/g/9.png"},
    ]
    made = rows(people, table("three", three), pairing="order")
    assert worn(made) == [("1", "7"), ("3", "9")]
    first, second = rejects(made)
    assert first.startswith("image: three.csv, line 3: ")
    assert second == "garment: the garment at place 2 was rejected"


def test_the_column_names_the_garments(rows: Rows, people: str, garments: str) -> None:
    made = rows(people, garments, pairing="column")
    assert worn(made) == [("1", "7"), ("2", "8")]
    assert rejects(made) == [
        "garment: people.csv, line 3: no garment is called '9.png'",
        "garment: people.csv, line 4: missing; name the garment to wear",
    ]


def test_a_name_that_holds_a_comma_is_one_garment(
    rows: Rows, people: str, table: Callable[..., str]
) -> None:
    garments = [
        {"id": "dress, 9.png", "image": "s3://b/g/9.png"},
        {"id": "dress", "image": "s3://b/g/8.png"},
    ]
    made = rows(people, table("garments", garments), pairing="column", max_pairs=3)
    assert worn(made) == [("2", "9")]
    assert len(rejects(made)) == 2  # the other two


def test_a_table_names_the_pairs(
    rows: Rows, people: str, garments: str, table: Callable[..., str]
) -> None:
    pairs = table(
        "pairs",
        [
            {"Person": "eva", "Garment": "7"},
            {"Person": "2", "Garment": "s3://b/g/8.png"},
            {"Person": "anna", "Garment": "hat"},
            {"Person": "", "Garment": "shirt"},
        ],
    )
    made = rows(people, garments, pairing="table", pairs_table=pairs)
    assert worn(made) == [("2", "7"), ("2", "8")]
    assert rejects(made) == [
        "garment: pairs.csv, line 4: no garment is called 'hat'",
        "person: pairs.csv, line 5: missing",
    ]


def test_a_pair_from_two_columns_of_one_name_is_rejected(
    rows: Rows, people: str, garments: str, table: Callable[..., str]
) -> None:
    pairs = table("pairs", [{"person": "eva", "Person": "2", "garment": "7"}])
    made = rows(people, garments, pairing="table", pairs_table=pairs)
    assert rejects(made) == [
        "person: pairs.csv, line 2: accepted: one column of this name; given 2"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "00001_00.jpg 05006_00.jpg\n00006_00.jpg 00001_00.jpg\n",
            r"pairs.txt: accepted: a table with the columns person and garment; its header is "
            r"\['00001_00.jpg 05006_00.jpg'\]",
            id="no header",
        ),
        pytest.param("person\tgarment\n", "pairs.txt: no pairs after the header", id="no pair"),
    ],
)
def test_a_table_without_pairs_is_refused_by_its_name(
    rows: Rows, people: str, garments: str, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    with pytest.raises(CatalogError, match=message):
        rows(people, garments, pairing="table", pairs_table=str(path))


def test_masks_come_from_the_people(rows: Rows, people: str, garments: str) -> None:
    made = rows(people, garments, masks="column", defaults=RowDefaults(mask_grow=8))
    good = [each for each in made if isinstance(each, dict)]
    assert {each["mask"] for each in good} == {"s3://b/m/1.png", "s3://b/m/2.png"}
    assert {each["mask_grow"] for each in good} == {8}
    assert len(rejects(made)) == 2  # olga has none


def test_a_prompt_takes_columns_and_a_row_without_is_rejected(
    rows: Rows, people: str, garments: str
) -> None:
    made = rows(people, garments, prompt="a {garment.Colour} {garment}")
    assert {each["prompt"] for each in made if isinstance(each, dict)} == {"a red shirt"}
    assert rejects(made) == [
        f"prompt: people.csv, line {line} and garments.csv, line 3: {{garment.colour}}: garment "
        "'dress' has no text there"
        for line in (2, 3, 4)
    ]


def test_a_pair_that_is_named_again_is_one(
    rows: Rows, people: str, garments: str, table: Callable[..., str]
) -> None:
    pairs = [
        {"person": "eva", "garment": "shirt"},
        {"person": "2", "garment": "7"},
        {"person": "eva", "garment": "dress"},
    ]
    made = rows(people, garments, pairing="table", pairs_table=table("pairs", pairs))
    assert worn(made) == [("2", "7"), ("2", "8")]
    assert made[1] == Skipped("pairs.csv, line 3", "the same pair again")


def numbered(table: Callable[..., str], name: str, count: int) -> str:
    return table(name, [{"image": f"s3://b/{name}/{number}.png"} for number in range(count)])


def test_too_many_pairs_are_counted_and_reported_before_any_work(
    rows: Rows, table: Callable[..., str]
) -> None:
    people, garments = numbered(table, "p", 60), numbered(table, "g", 20)
    with pytest.raises(SettingsError) as caught:
        rows(people, garments)
    assert "60 people and 20 garments, paired by cross, are 1,200 pairs" in str(caught.value)
    assert "accepted: at most 1,000. Raise max_pairs" in str(caught.value)
    assert len(rows(people, garments, limit=20)) == 20  # a trial is no more than it says
    assert len(rows(people, garments, max_pairs=1200)) == 1200


MEANINGLESS: dict[str, tuple[dict[str, Any], str]] = {  # name: (settings, the message)
    "order of unequal numbers": (
        {"pairing": "order"},
        "pairing: order needs as many people as garments; given 3 people and 2",
    ),
    "no table": ({"pairing": "table"}, "pairs: accepted: a table with pairing table"),
    "needless table": ({"pairs_table": "x.csv"}, "pairs: accepted: a table with pairing table"),
    "XML as table": (
        {"pairing": "table", "pairs_table": "x.xml"},
        "pairs: accepted: a file that ends in",
    ),
    "unknown name": ({"prompt": "{shoe}"}, "prompt: accepted in braces"),
    "unknown column": (
        {"prompt": "{garment.cut}"},
        "prompt: accepted columns of a garment: colour, id, image",
    ),
    "no mask": ({"masks": "none"}, "masks: accepted: alpha, auto, column, or s3"),
    "no column of garments": (
        {"pairing": "column", "swap": True},
        "column garment in the people's table; its columns are colour",
    ),
    "too many pairs": ({"pairing": "column", "max_pairs": 3}, "are 4 pairs"),
}


@pytest.mark.parametrize(("changes", "message"), MEANINGLESS.values(), ids=MEANINGLESS)
def test_what_cannot_be_meant_is_reported(
    rows: Rows, people: str, garments: str, changes: dict[str, Any], message: str
) -> None:
    settings = dict(changes)
    places = (garments, people) if settings.pop("swap", False) else (people, garments)
    with pytest.raises(SettingsError, match=message):
        rows(*places, **settings)


def test_prefixes_have_names_only(rows: Rows, store: Store, prefix: str) -> None:
    for key in ("p/summer/anna.jpg", "p/list.txt", "g/shirt.png", "m/summer/anna.png"):
        store.put(f"{prefix}/{key}", b"x", "image/png")
    made = rows(f"{prefix}/p", f"{prefix}/g", masks=f"{prefix}/m")
    skipped, row = made
    assert isinstance(skipped, Skipped)
    assert row["prompt"] == "anna wears shirt"
    assert row["mask"] == f"{prefix}/m/summer/anna.png"
    with pytest.raises(SettingsError, match="none: they have names only"):
        rows(f"{prefix}/p", f"{prefix}/g", prompt="{person.age}")


def test_memory_stays_flat_over_many_pairs(
    store: Store, table: Callable[..., str], tmp_path: Path
) -> None:
    many = batch(numbered(table, "p", 3000), numbered(table, "g", 3), max_pairs=9000)
    tracemalloc.start()
    count = sum(1 for _ in many.rows(store, tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 9000
    assert peak < 1_000_000  # the rows would take 4 MB, the people 2 MB
