"""Options for comparing a few ways to edit the same pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ace_tasks.errors import SettingsError
from ace_tasks.provenance.keys import PARTS
from ace_tasks.specs import MAX_SEED, AutoMethod, quote
from flows.options.groups import Options

WholeRunName = Annotated[
    Literal["restyle", "edit"],
    Field(
        description="The run that is decided on. restyle: one prompt for every picture of a "
        "source. edit: the rows of an edit catalog, each with a prompt of its own."
    ),
]

_AT_LEAST = 2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,39}")
_SETTING = re.compile(r"\s*([A-Za-z_]+)\s*=\s*")
# A semicolon ends a value only if another setting follows, so a prompt may hold one.
_NEXT = re.compile(r"\s*;(?=\s*[A-Za-z_]+\s*=)")
_FORM = "NAME: PROMPT; KEY=VALUE; …"


class Alternative(Options):
    """One way to edit the pictures. What is None is as in the other parameters."""

    name: str
    prompt: str | None = None
    variant: str | None = None
    steps: int | None = Field(None, ge=1, le=200)
    speed: Literal["auto", "exact", "compiled", "fast"] | None = None
    auto_mask: AutoMethod | None = None
    seed: int | None = Field(None, ge=0, le=MAX_SEED)

    @classmethod
    def parse(cls, place: str, text: str) -> Alternative:
        """Read an alternative as a person writes it: `oak: on an oak table; steps=8`.

        Without a key, the first value is the prompt. Raises SettingsError, which names `place`.
        """
        name, _, rest = text.partition(":")
        if not _NAME.fullmatch(name := name.strip()):
            raise SettingsError(
                f"{place}: accepted: {_FORM}, with a name of at most 40 letters, digits and "
                f"spaces; given {quote(text)}"
            )
        settings: dict[str, str] = {}
        for part in filter(None, (each.strip() for each in _NEXT.split(rest))):
            found = _SETTING.match(part)
            key, value = (found[1], part[found.end() :]) if found else ("prompt", part)
            if key in settings or key not in KEYS or not value:
                known = "a value once for each of" if key in KEYS else "the keys"
                accepted = f"{known} {', '.join(KEYS)}"
                raise SettingsError(f"{place}: accepted: {accepted}; given {quote(part)}")
            settings[key] = value
        try:
            return cls.model_validate({"name": name, **settings})
        except ValidationError as error:
            wrong = error.errors()[0]
            raise SettingsError(
                f"{place}: {wrong['loc'][0]}: {wrong['msg']}; given {quote(wrong['input'])}"
            ) from None

    @property
    def text(self) -> str:
        """The settings as a person writes them; "as given" if there are none."""
        given = self.model_dump(exclude={"name"}, exclude_none=True)
        return "; ".join(f"{key}={value}" for key, value in given.items()) or "as given"


KEYS = tuple(each for each in Alternative.model_fields if each != "name")


def _field(number: str, example: str = "") -> str:
    return Field(
        "",
        description=f"The {number} alternative, as NAME: PROMPT; KEY=VALUE; … Keys: "
        f"{', '.join(KEYS)}. What is not named is as in the other parameters. Empty = "
        + (f"none.{example}" if example else "none."),
    )


class ComparisonOptions(Options):
    """Two to six ways to edit a few of the pictures."""

    rows: int = Field(
        8, ge=1, le=50, description="Number of pictures, spread over the tasks and the catalog."
    )
    first: str = _field("first", " Example: oak: on an oak table; steps=8")
    second: str = _field("second")
    third: str = _field("third")
    fourth: str = _field("fourth")
    fifth: str = _field("fifth")
    sixth: str = _field("sixth")

    def alternatives(self) -> dict[str, Alternative]:
        """Return the alternatives by their place, such as `first`.

        Raises SettingsError for fewer than two, or for two of one name.
        """
        found = dict(self._parsed())
        if len(found) < _AT_LEAST:
            raise SettingsError(
                f"alternatives: accepted: {_AT_LEAST} to {len(PARTS)}; given {len(found)}"
            )
        names: dict[str, str] = {}
        for place, each in found.items():
            key = each.name.casefold()
            if key in names:
                raise SettingsError(
                    f"{place}: accepted: a name of its own; given {quote(each.name)}, which "
                    f"{names[key]} has"
                )
            names[key] = place
        return found

    def _parsed(self) -> Iterator[tuple[str, Alternative]]:
        for place in PARTS:
            if text := getattr(self, place).strip():
                yield place, Alternative.parse(place, text)
