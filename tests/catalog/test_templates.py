"""Test prompts with names in braces. If these break, a table's text reaches into objects, or a
prompt asks the model for `{garment.colour}`."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ace_tasks.catalog.templates import Template
from ace_tasks.errors import BadRow, SettingsError

KNOWN = ("person", "garment")
NAMES = {"person": "anna", "garment": "shirt"}
COLUMNS = {"person": {}, "garment": {"colour": " red ", "size_eu": 38, "empty": " ", "list": [1]}}


def fill(text: str) -> str:
    return Template.parse("prompt", text, KNOWN).fill(NAMES, COLUMNS)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("a plain one", "a plain one"),
        ("{person} wears {garment}", "anna wears shirt"),
        ("{garment.colour}{garment.Size EU}", "red38"),
        ("{{person}} {{}}", "{person} {}"),
        ("{{{person}}}", "{anna}"),
    ],
)
def test_fields_are_filled_in(text: str, prompt: str) -> None:
    assert fill(text) == prompt


@pytest.mark.parametrize(
    "text",
    [
        "{shoe}",
        "{}",
        "{0}",
        "{person!r}",
        "{person:>9999999999}",
        "{person.}",
        "{",
        "}",
        "{person",
        "{person.__class__.__init__.__globals__} {x}",
        "{{person}",
        "{per{son}}",
        "{Person}",
    ],
)
def test_a_field_about_nothing_known_is_reported_at_once(text: str) -> None:
    with pytest.raises(SettingsError, match=r"prompt: accepted in braces: \{person\}, "):
        fill(text)


@pytest.mark.parametrize(
    "column", ["cut", "empty", "list", "__class__", "colour.__class__", "colour!r", "colour:>9"]
)
def test_a_column_that_is_missing_or_no_text_is_that_rows_error(column: str) -> None:
    with pytest.raises(BadRow, match=r"garment 'shirt' has no text there"):
        fill(f"x {{garment.{column}}}")


@given(st.text().filter(str.strip))
@example("{person} {garment.a} %s")
def test_text_of_a_table_is_no_template(text: str) -> None:
    template = Template.parse("prompt", "{garment.a}", KNOWN)
    assert template.fill(NAMES, {"garment": {"a": text}}) == text.strip()
