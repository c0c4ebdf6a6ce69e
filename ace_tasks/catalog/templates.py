"""Prompts with names in braces: `{person} wears {garment}, {garment.colour}`.

`str.format` is not used, because its fields reach into objects (`{x.__class__}`) and pad by
billions (`{x:9999999999}`). Here a field is one of a few known names, or a column of one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ace_tasks.errors import BadRow, SettingsError
from ace_tasks.specs import quote

_PIECES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class Field:
    """A field of a template. `of` is such as garment, and `column` is None for its name."""

    of: str
    column: str | None

    def __str__(self) -> str:
        return "{" + (f"{self.of}.{self.column}" if self.column else self.of) + "}"


@dataclass(frozen=True)
class Template:
    pieces: tuple[str | Field, ...]

    @classmethod
    def parse(cls, parameter: str, text: str, known: tuple[str, ...]) -> Template:
        """Return the parsed template. Raises SettingsError for an unknown field or a lone brace."""
        pieces: list[str | Field] = []
        end = 0
        for match in _PIECES.finditer(text):
            pieces.append(text[end : match.start()])
            end = match.end()
            if match[0] in {"{{", "}}"}:
                pieces.append(match[0][0])
                continue
            of, dot, column = (match[1] or "").partition(".")
            if match[1] is None or of not in known or bool(dot) != bool(column.strip()):
                accepted = ", ".join(f"{{{each}}}, {{{each}.column}}" for each in known)
                raise SettingsError(
                    f"{parameter}: accepted in braces: {accepted}; write a literal brace "
                    f"twice; given {quote(match[0])}"
                )
            # Columns of tables are read with the same spelling.
            pieces.append(Field(of, column.strip().lower().replace(" ", "_") or None))
        pieces.append(text[end:])
        return cls(tuple(each for each in pieces if each != ""))

    @property
    def fields(self) -> tuple[Field, ...]:
        return tuple(each for each in self.pieces if isinstance(each, Field))

    def fill(self, names: Mapping[str, str], columns: Mapping[str, Mapping[str, Any]]) -> str:
        """Return the text with its fields filled in.

        Raises BadRow if a column is missing or empty.
        """
        return "".join(
            each if isinstance(each, str) else _value(each, names, columns) for each in self.pieces
        )


def _value(field: Field, names: Mapping[str, str], columns: Mapping[str, Mapping[str, Any]]) -> str:
    if field.column is None:
        return names[field.of]
    value = columns[field.of].get(field.column)
    if value is None or isinstance(value, dict | list) or not str(value).strip():
        raise BadRow("prompt", f"{field}: {field.of} {quote(names[field.of])} has no text there")
    return str(value).strip()
