"""IPTC's DigitalSourceType, which tells whether a model made a picture or a part of it."""

from __future__ import annotations

import re
from collections.abc import Iterable

SOURCE_TYPE = "Iptc4xmpExt:DigitalSourceType"
_VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_WHOLE, _PART = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
_COMPOSITE = "composite"
_BY_A_MODEL = {each.lower(): _VOCABULARY + each for each in (_WHOLE, _PART)}
_URI = re.compile(r"[^\s\"'<>&]{1,200}")


def normalized(value: str) -> str | None:
    """Return IPTC's URI for a picture by a model, however spelt, or another URI or term as is.

    Returns None for anything else.
    """
    value = value.strip()
    term = value.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    if term.lower() in _BY_A_MODEL:
        return _BY_A_MODEL[term.lower()]
    return value if _URI.fullmatch(value) else None


def stronger(one: str | None, other: str) -> str:
    """Return the one of two source types in a file that says more about a model."""
    order = (_VOCABULARY + _WHOLE, _VOCABULARY + _PART)
    return next((each for each in order if each in (one, other)), one or other)


def by_a_model(value: str | None) -> bool:
    return value in _BY_A_MODEL.values()


def by_manifest(created: Iterable[str], anywhere: Iterable[str]) -> str | None:
    """Return the source type that a C2PA manifest states.

    `created` are the types of the actions that created the picture, `anywhere` those of all.
    """
    if _VOCABULARY + _WHOLE in map(normalized, created):
        return _VOCABULARY + _WHOLE
    return _VOCABULARY + _PART if any(by_a_model(normalized(each)) for each in anywhere) else None


def after_edit(task: str, of_source: str | None, *, ran: bool) -> str | None:
    """Return the source type of a result. `ran` tells whether our model ran.

    A part repainted in a wholly generated picture leaves it wholly generated. If no model ran, it
    is the source's own. A product that was cut out and placed on another background is a composite.
    """
    if task == "background" and not by_a_model(of_source):
        return _VOCABULARY + _COMPOSITE
    if not ran:
        return of_source
    whole = task == "reference" or of_source == _VOCABULARY + _WHOLE
    return _VOCABULARY + (_WHOLE if whole else _PART)
