"""Remove forgotten items from a file of a run: from its rows, its rejects and its notes.

A file that does not mention them comes back as the same bytes. A removed row of a catalog leaves
an empty line, and a removed reject its line number, because lines are counted.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Set
from typing import Any

from ace_tasks.runs.closure import Closure
from ace_tasks.runs.mentions import Mentions

_FORGOTTEN = "forgotten"
MEDIA_TYPES = {
    "canary.json": "application/json",
    "catalog.jsonl": "application/x-ndjson",
    "failures.jsonl": "application/x-ndjson",
    "rejects.jsonl": "application/x-ndjson",
    "results.csv": "text/csv",
}


def redact(name: str, body: bytes, closure: Closure, lines: Set[int]) -> bytes | None:
    """Return the file without the forgotten items, or None if nothing is left of it.

    `lines` are the lines of the run's rejects to redact, as found by `telling_lines`.
    """
    if name == "canary.json":
        return _redact_trial(body, closure.items)
    if name == "results.csv":
        return _redact_table(body, closure.items, lines)
    return _redact_list(name, body, closure.mentions, lines)


def telling_lines(rejects: bytes, mentions: Mentions) -> set[int]:
    """Return the line numbers of the rejects that mention a forgotten name."""
    rows = (json.loads(each) for each in _text(rejects).split("\n") if each)
    return {each["line"] for each in rows if _reject_tells(each, mentions)}


def _redact_trial(body: bytes, items: Set[str]) -> bytes | None:
    """Return the note of a canary without the forgotten items.

    A person's decision about the other pictures still counts. Without items and decision, nothing
    is left.
    """
    try:
        trial = json.loads(body)
        left = {row_id: each for row_id, each in trial["items"].items() if each not in items}
    except (ValueError, KeyError, TypeError, AttributeError):
        return body  # no file of ours
    if len(left) == len(trial["items"]):
        return body
    if not left and not trial.get("decision"):
        return None
    return json.dumps(trial | {"items": left}, indent=1, ensure_ascii=False).encode()


def _redact_table(body: bytes, items: Set[str], lines: Set[int]) -> bytes:
    out = io.StringIO(newline="")
    rows = csv.DictReader(io.StringIO(_text(body), newline=""))
    writer = csv.DictWriter(out, rows.fieldnames or ())
    writer.writeheader()
    tells = False
    for row in rows:
        is_reject = not row["item_id"] and int(row["line"]) in lines
        tells |= is_reject or row["item_id"] in items
        if is_reject:
            row |= {"row_id": "", "task": "", "error": _FORGOTTEN}
        if row["item_id"] not in items:
            writer.writerow(row)
    return out.getvalue().encode() if tells else body


def _redact_list(name: str, body: bytes, mentions: Mentions, lines: Set[int]) -> bytes:
    before = _text(body).split("\n")
    after = [_redact_line(name, each, mentions, lines) for each in before]
    return body if after == before else "\n".join(x for x in after if x is not None).encode()


def _redact_line(name: str, line: str, mentions: Mentions, lines: Set[int]) -> str | None:
    """Return the line or its replacement, or None if the line is removed."""
    row = json.loads(line) if line else {}
    if name == "rejects.jsonl":
        if row.get("line") not in lines:
            return line
        return json.dumps({"line": row["line"], "field": None, "reason": _FORGOTTEN, "row": {}})
    if not _row_tells(row, mentions):
        return line
    return "" if name == "catalog.jsonl" else None


def _row_tells(row: dict[str, Any], mentions: Mentions) -> bool:
    """Return whether a row mentions a forgotten name.

    In a generated catalog, the row may be the reject of something that became no row.
    """
    rejected = row.get("rejected")
    return _reject_tells(rejected, mentions) if isinstance(rejected, dict) else mentions.is_one(row)


def _reject_tells(reject: dict[str, Any], mentions: Mentions) -> bool:
    """Return whether a reject mentions a forgotten name.

    It quotes its row as it was given, possibly with a list of names in one cell.
    """
    return any(mentions.in_quoted(each) for each in (str(reject["reason"]), *_cells(reject["row"])))


def _cells(row: Any) -> Iterator[str]:
    """Yield every string of a row as it was given."""
    if isinstance(row, str):
        yield row
    elif isinstance(row, dict | list):
        for each in row.values() if isinstance(row, dict) else row:
            yield from _cells(each)


def _text(body: bytes) -> str:
    return body.decode(errors="replace")
