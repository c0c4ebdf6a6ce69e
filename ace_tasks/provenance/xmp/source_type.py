"""IPTC's DigitalSourceType: whether a model made a picture, all of it or a part."""

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
    """IPTC's URI for a picture by a model, however it is spelt; another URI or term as it is.

    None: neither.
    """
    value = value.strip()
    term = value.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    if term.lower() in _BY_A_MODEL:
        return _BY_A_MODEL[term.lower()]
    return value if _URI.fullmatch(value) else None


def stronger(one: str | None, other: str) -> str:
    """Of two source types that one file states, the one that says more about a model."""
    order = (_VOCABULARY + _WHOLE, _VOCABULARY + _PART)
    return next((each for each in order if each in (one, other)), one or other)


def by_a_model(value: str | None) -> bool:
    return value in _BY_A_MODEL.values()


def by_manifest(created: Iterable[str], anywhere: Iterable[str]) -> str | None:
    """The source type by a C2PA manifest: of the actions that created a picture, and of all."""
    if _VOCABULARY + _WHOLE in map(normalized, created):
        return _VOCABULARY + _WHOLE
    return _VOCABULARY + _PART if any(by_a_model(normalized(each)) for each in anywhere) else None


def after_edit(task: str, of_source: str | None, *, ran: bool) -> str | None:
    """The source type of a result. `ran`: whether our model did.

    A part repainted in a wholly generated picture leaves it wholly generated. Where no model ran,
    it is the source's own; a product that was cut out and laid on another ground is a composite.
    """
    if task == "background" and not by_a_model(of_source):
        return _VOCABULARY + _COMPOSITE
    if not ran:
        return of_source
    whole = task == "reference" or of_source == _VOCABULARY + _WHOLE
    return _VOCABULARY + (_WHOLE if whole else _PART)
