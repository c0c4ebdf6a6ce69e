"""A row of a file as read, or the reject that says what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ace_tasks.catalog.readers.cell_text import CellText
from ace_tasks.specs import MAX_URI_CHARS
from ace_tasks.wording import counted

MAX_ROW_BYTES = 2**20
# A reject should help to find and fix its row. A small file can hold a thousand rows of a megabyte
# each, which must not become a gigabyte of rejects.
SHOWN_ROW_CHARS = 10_000
_SHOWN_NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class Row:
    """A row as read, before it is checked.

    `line` is the row's first line, or its number in a Parquet file, counted from 1. `lines` is the
    number of lines that it spans. `texts` tells where links of a feed are written, if the caller
    asked for it.
    """

    line: int
    cells: dict[str, Any]
    lines: int = 1
    texts: tuple[CellText, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is not a valid spec.

    `row` holds the original cells or text. A row over MAX_ROW_BYTES is cut. A `forgotten` row is
    valid, but its picture must not be made again.
    """

    line: int
    field: str | None
    reason: str
    row: dict[str, Any] | str
    forgotten: bool = False
    lines: int = 1

    def to_json(self) -> str:
        """Return one line of JSON. A row longer than SHOWN_ROW_CHARS is cut."""
        row = _shown(self.row)
        content = {"line": self.line, "field": self.field, "reason": self.reason, "row": row}
        if self.forgotten:
            content["forgotten"] = True
        try:
            return json.dumps(content, ensure_ascii=False, default=str, allow_nan=False)
        except ValueError:  # Parquet and 1e999 give numbers that JSON cannot express
            assert isinstance(row, dict)
            row = {k: v if isinstance(v, str | int | None) else str(v) for k, v in row.items()}
            return json.dumps(content | {"row": row}, ensure_ascii=False)


def too_long(line: int, row: dict[str, Any] | str, lines: int = 1) -> Reject:
    """Return the reject of a row over MAX_ROW_BYTES."""
    here = "this one" if lines == 1 else f"this one, lines {line} to {line + lines - 1},"
    reason = f"accepted: rows of at most {MAX_ROW_BYTES} bytes; {here} is longer"
    return Reject(line, None, reason, row, lines=lines)


def _shown(row: dict[str, Any] | str) -> dict[str, Any] | str:
    """Return the row as a list of rejects shows it.

    A URI of accepted length is never cut, because forgetting a source searches for it here.
    """
    if isinstance(row, str):
        return row[:SHOWN_ROW_CHARS]
    left = SHOWN_ROW_CHARS
    cells: dict[str, Any] = {}
    for name, cell in row.items():
        text = cell if isinstance(cell, str) else str(cell)
        if left <= 0:
            cells["…"] = counted(len(row) - len(cells), "more cell")
            break
        if len(name) + len(text) <= left:
            cells[name] = cell
        else:
            name, text = name[:_SHOWN_NAME_CHARS], _cut(text)
            cells[name] = text
        left -= len(name) + len(text)
    return cells


def _cut(text: str) -> str:
    if len(text) <= MAX_URI_CHARS:
        return text
    return f"{text[:MAX_URI_CHARS]}… ({len(text):,} characters)"
