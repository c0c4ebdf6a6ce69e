"""JSON lines → rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from ace_tasks.catalog.readers.header import Table, check_columns
from ace_tasks.catalog.readers.lines import Ledger, Lines, TextLine
from ace_tasks.catalog.readers.row import Reject, Row, too_long
from ace_tasks.errors import CatalogError
from ace_tasks.specs import unique_keys
from ace_tasks.wording import counted

# A column has three levels at most. Some hundreds are read, but no caller could write them again,
# in a list of rejects, without going deeper than Python does.
_MOST_LEVELS = 64


def read_jsonl(name: str, file: IO[bytes], table: Table) -> Iterator[Row | Reject]:
    """Yield a row or a reject for each line that is not blank.

    Raises CatalogError if all lines are blank.
    """
    lines = Lines(name, file)
    ledger = Ledger(name, lines)
    found = False
    for line in lines:
        ledger.enter(line.number, 1)
        each = _row(line, table)
        if each is None:
            continue
        if not found and isinstance(each, Row):
            check_columns(name, list(each.cells), table)
        found = True
        yield each
    ledger.close()
    if not found:
        raise CatalogError(f"{name}: no {table.noun}s, only {counted(lines.count, 'blank line')}")


def _row(line: TextLine, table: Table) -> Row | Reject | None:
    if not line.whole:
        return too_long(line.number, line.data.decode(errors="replace"))
    if not line.data.strip():
        return None
    try:
        text = line.data.decode()
    except UnicodeDecodeError:
        return not_text(line.number, line.data.decode(errors="replace").strip(), table)
    try:
        cells = _DECODER.decode(text)
        if text.count("[") + text.count("{") > _MOST_LEVELS and _levels(cells) > _MOST_LEVELS:
            raise RecursionError
        if "\\u" in text:  # half of a surrogate pair is valid JSON but cannot be encoded
            json.dumps(cells, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return Reject(
            line.number, None, f"unreadable JSON: {_error_text(error)}"[:300], text.strip()
        )
    if not isinstance(cells, dict):
        reason = f"accepted: one JSON object a line; given {type(cells).__name__}"
        return Reject(line.number, None, reason, text.strip())
    return Row(line.number, cells)


def _levels(value: Any) -> int:
    """Return how deep lists and objects are nested."""
    count, level = 0, [value]
    while level := [each for each in level if isinstance(each, list | dict)]:
        count += 1
        level = [v for each in level for v in (each.values() if isinstance(each, dict) else each)]
    return count


def not_text(number: int, row: dict[str, Any] | str, table: Table, lines: int = 1) -> Reject:
    """Return the reject of a row whose bytes are invalid in the table's encoding."""
    if table.encoding:
        reason = f"accepted: text in {table.encoding}; this row holds other bytes"
    else:
        reason = "accepted: UTF-8 text; this row is in another encoding"
        reason += "" if table.catalog else "; --encoding names it"
    return Reject(number, None, reason, row, lines=lines)


def _error_text(error: Exception) -> str:
    """Return the text of an error without its line, which counts within the row only."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON value")


# `json.loads` would make one for each row.
_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=_no_constant)
