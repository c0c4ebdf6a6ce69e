"""Test the rows of a restyle. If these break, a million pictures fill the memory, or a default is
lost."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ace_tasks.catalog.files import Reject
from ace_tasks.catalog.generated import read_made, write_made
from ace_tasks.catalog.restyle import Instruction, RowDefaults, restyle_rows
from ace_tasks.catalog.sources.source_picture import GeneratedRow, Skipped, SourcePicture
from ace_tasks.errors import BadRow, SettingsError
from ace_tasks.specs import Edit, Fill, OnBackground, TryOn, parse_spec

A = SourcePicture("s3://b/a.png", "a", ("a",))
B = SourcePicture("s3://b/b.png", "b", ("b",))


def instruction(
    task: Any = "edit", references: tuple[str, ...] = (), **defaults: Any
) -> Instruction:
    return Instruction("make it blue", task, references, RowDefaults(**defaults))


def test_what_is_not_given_is_in_no_row() -> None:
    row = instruction().row(A, None)
    assert row == {"id": "a", "task": "edit", "prompt": "make it blue", "image": "s3://b/a.png"}
    assert isinstance(parse_spec(row), Edit)


def test_every_wish_is_in_the_row() -> None:
    defaults = {
        "mask_invert": True,
        "mask_grow": -3,
        "mask_label": "shirt",
        "format": "webp",
        "steps": 4,
        "seed": 0,
        "adapter": "portrait",
    }
    spec = parse_spec(instruction("fill", **defaults).row(A, "auto"))
    assert isinstance(spec, Fill)
    assert {name: getattr(spec, name) for name in defaults} == defaults
    spec = parse_spec(instruction("edit", ("s3://b/r.png",), **defaults).row(A, "alpha"))
    assert isinstance(spec, TryOn)
    assert spec.reference == ("s3://b/r.png",)


def test_a_background_asks_nothing_of_a_model() -> None:
    defaults = RowDefaults(format="webp", shadow=True)
    spec = parse_spec(Instruction("", "background", (), defaults).row(A, None))
    assert isinstance(spec, OnBackground)
    assert (spec.format, spec.shadow, spec.background) == ("webp", True, None)
    Instruction("", "background", (), defaults).check("none")


MEANINGLESS = {  # name: (instruction, mask, the message)
    "fill without a mask": (instruction("fill"), "none", "mask: task fill needs one"),
    "reference without a mask": (
        instruction("edit", ("s3://b/r.png",)),
        "none",
        "mask: reference needs one",
    ),
    "steps of no mask": (
        instruction(mask_invert=True),
        "none",
        "mask_invert, mask_grow and mask_label need one",
    ),
    "a prompt for a background": (
        Instruction("red", "background", (), RowDefaults()),
        "none",
        "prompt: accepted: none with task background",
    ),
    "a mask for a background": (
        Instruction("", "background", (), RowDefaults()),
        "auto",
        "mask: accepted: none with task background",
    ),
    "a shadow of an edit": (instruction(shadow=True), "none", "shadow: accepted only with task"),
    "blank prompt": (Instruction(" ", "edit", (), RowDefaults()), "auto", "prompt: accepted"),
}


@pytest.mark.parametrize(("wrong", "mask", "message"), MEANINGLESS.values(), ids=MEANINGLESS)
def test_what_no_picture_could_be_made_by_is_reported_at_once(
    wrong: Instruction, mask: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        wrong.check(mask)
    instruction().check("none")


def test_a_trial_takes_the_first_pictures_and_what_comes_between() -> None:
    def mask(picture: SourcePicture) -> Any:
        if picture is B:
            raise BadRow("mask", "no mask is called 'b'")

    source = [Skipped("x"), A, Reject(3, "image", "far", ""), B, A]
    rows = list(restyle_rows(iter(source), instruction(), mask, limit=2))
    assert [type(each) for each in rows] == [Skipped, GeneratedRow, Reject, Reject]
    assert rows[3] == Reject(
        0, "mask", "no mask is called 'b'", {"id": "b", "image": "s3://b/b.png"}
    )
    assert len(list(restyle_rows(source, instruction(), lambda _: None))) == 5


def test_memory_stays_flat_over_a_large_prefix(tmp_path: Path) -> None:
    def many() -> Iterator[SourcePicture]:
        for number in range(10_000):
            yield SourcePicture(f"s3://b/{number}.png", f"{number}.png", (str(number),))

    path = tmp_path / "catalog.jsonl"
    tracemalloc.start()
    made = write_made(restyle_rows(many(), instruction(), lambda _: None), path)
    count = sum(1 for _ in read_made(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.rows == count == 10_000
    assert peak < 1_000_000
