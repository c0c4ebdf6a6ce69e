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
_NAME = re.compile(r"[^\W_][\w .-]{0,39}")
# A prompt may have several lines.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
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
        if _CONTROL.search(text):
            raise SettingsError(
                f"{place}: accepted: a text without control characters; given {quote(text)}"
            )
        name, settings = _read_name(place, text), _read_settings(place, text)
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


def _read_name(place: str, text: str) -> str:
    """Return the name before the colon. Without a colon, a single word is a name."""
    name, colon, _ = text.partition(":")
    name = name.strip()
    if not colon and (len(name.split()) > 1 or not _NAME.fullmatch(name)):
        # A prompt without a name would be taken for a name, and the wrong prompt paid for.
        raise SettingsError(
            f"{place}: accepted: {_FORM}, or one word as a NAME; given {quote(text)}, without a "
            f"colon; write {quote(f'name: {text.strip()}')}"
        )
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{place}: accepted: {_FORM}, with a NAME of 1 to 40 letters, digits, spaces and _ . "
            f"-, which begins with a letter or digit; given {quote(text)}"
        )
    return name


def _read_settings(place: str, text: str) -> dict[str, str]:
    """Return what follows the colon, by key."""
    settings: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in _NEXT.split(text.partition(":")[2]))):
        found = _SETTING.match(part)
        key, value = (found[1], part[found.end() :]) if found else ("prompt", part)
        if key not in KEYS:
            way_out = (
                "in a prompt, use a comma in place of the semicolon before it"
                if settings
                else f"if it is a prompt, write {quote(f'prompt={part}')}"
            )
            accepted = f"the keys {', '.join(KEYS)}"
            raise SettingsError(f"{place}: accepted: {accepted}; given {quote(part)}; {way_out}")
        if key in settings or not value:
            accepted = f"a value once for each of {', '.join(KEYS)}"
            raise SettingsError(f"{place}: accepted: {accepted}; given {quote(part)}")
        settings[key] = value
    return settings


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
