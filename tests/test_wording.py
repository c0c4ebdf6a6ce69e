"""Words that messages share. If these break, a person reads "1 rows" in every report."""

from __future__ import annotations

import pytest

from ace_tasks.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, ["row"], "0 rows"), (1, ["row"], "1 row"), (2000, ["row"], "2,000 rows"),
     (1, ["person", "people"], "1 person"), (2, ["person", "people"], "2 people")],
    ids=str,
)  # fmt: skip
def test_a_noun_agrees_with_its_number(number: int, noun: list[str], text: str) -> None:
    assert counted(number, *noun) == text
