"""The arguments of commands: flags in titled groups, from the models of `flows.options`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Group, Parameter
from pydantic import Field


def _flat(title: str) -> Parameter:
    """Return the marker of a group whose members become flags under a title."""
    return Parameter(name="*", group=Group(title))


ALTERNATIVES = _flat("Alternatives")
FEED = _flat("Feed")
PIXELS = _flat("Pixels")
MASKING = _flat("Masks")
REVIEW = _flat("Review")
RUN = _flat("Run")
INPUTS = _flat("Training data")
WORK = _flat("Work")
MEASURED = _flat("Measurement")

# A prompt may begin with a hyphen, as in "-20 % brightness".
ANY_TEXT = Parameter(allow_leading_hyphen=True)

_JSON = Parameter(name="--json", negative="")
_COUNTS = "Print only JSON: one object with the counts, or with --look one object per row."
Json = Annotated[bool, _JSON, Field(description="Print only the summary, as one JSON object.")]
JsonCounts = Annotated[bool, _JSON, Field(description=_COUNTS)]
JsonLines = Annotated[bool, _JSON, Field(description="Print only JSON: one object per line.")]
