"""A person's decisions on held-back rows: as lists of row ids, or as the file that a review saves.

    {"run": "<run id>", "promote": ["mug-1", "mug-7"], "discard": ["mug-2"]}

Everything is checked before anything is carried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ace_tasks.errors import SettingsError, StoreError, StoreUnavailable
from ace_tasks.specs import check_uri, quote
from ace_tasks.store import Store

ReviewDecision = Literal["promote", "discard"]

_BOM = b"\xef\xbb\xbf"  # which Windows' editors write
_ALL = "all"
_ROWS_NAMED = 10
_MAX_BYTES = 16 * 2**20  # a hundred thousand rows with the longest ids
_ACCEPTED = 'decisions: accepted: {"run": …, "promote": [row ids], "discard": [row ids]}'


class DecisionsFile(BaseModel):
    """The decisions that a review's page saves, on the rows of one run."""

    model_config = ConfigDict(extra="forbid")

    run: str
    promote: list[str] = []
    discard: list[str] = []


def read_decisions(given: str, store: Store) -> DecisionsFile | None:
    """Return the decisions of a pasted text, or of the file at a URI or path. None for no text.

    Raises SettingsError, which never quotes the file, and StoreUnavailable.
    """
    given = given.strip()
    if not given:
        return None
    is_pasted = given.startswith("{")
    place = "the pasted text" if is_pasted else quote(given)
    try:
        body = given.encode() if is_pasted else store.get(check_uri(given), max_bytes=_MAX_BYTES)
        return DecisionsFile.model_validate_json(body.removeprefix(_BOM))
    except StoreUnavailable:
        raise
    except StoreError as error:
        raise SettingsError(f"decisions: {error}") from None
    except ValidationError as error:
        named = [*error.errors()[0]["loc"], ""][0]
        known = DecisionsFile.model_fields
        what = f"its field {named} is another" if named in known else "it is something else"
        raise SettingsError(f"{_ACCEPTED}; given {place}: {what}") from None
    except ValueError as error:  # no URI
        raise SettingsError(f"decisions: {error}") from None


def resolve(
    rows: Mapping[str, str],
    run_id: str,
    lists: Mapping[ReviewDecision, str],
    file: DecisionsFile | None = None,
) -> dict[str, ReviewDecision]:
    """Return item id → decision.

    `rows` maps each row that run `run_id` held back to its item. `lists` has row ids as a person
    types them: comma-separated, or `all`. Raises SettingsError for another run's file, a row that
    was not held back, and two decisions on one picture.
    """
    if file and file.run != run_id:
        raise SettingsError(
            f"decisions: accepted: those on run {run_id}; given those on {quote(file.run)}"
        )
    decided: dict[str, ReviewDecision] = {}
    for decision, typed in lists.items():
        wanted = _typed_rows(decision, typed, rows)
        saved: Sequence[str] = getattr(file, decision) if file else ()
        _check_known("decisions", saved, rows)
        for row_id in (*wanted, *saved):
            if decided.setdefault(rows[row_id], decision) != decision:
                raise SettingsError(f"discard: the picture of row {row_id} is also promoted")
    return decided


def _typed_rows(parameter: str, text: str, rows: Mapping[str, str]) -> Sequence[str]:
    if text.strip() == _ALL:
        if _ALL in rows and len(rows) > 1:
            raise SettingsError(
                f"{parameter}: accepted: the rows one by one, since one of them is called 'all'; "
                f"'all,' with a comma means that row. Given {quote(text)}"
            )
        return tuple(rows)
    names = [name.strip() for name in text.split(",") if name.strip()]
    _check_known(parameter, names, rows)
    return names


def _check_known(parameter: str, names: Sequence[str], rows: Mapping[str, str]) -> None:
    unknown = [name for name in names if name not in rows]
    if unknown:
        known = ", ".join(sorted(rows)[:_ROWS_NAMED]) or "none"
        more = ", …" if len(rows) > _ROWS_NAMED else ""
        given = ", ".join(map(quote, unknown[:_ROWS_NAMED]))
        given += f" and {len(unknown) - _ROWS_NAMED} more" if len(unknown) > _ROWS_NAMED else ""
        raise SettingsError(
            f"{parameter}: accepted: rows that the run held back ({known}{more}); given {given}"
        )
