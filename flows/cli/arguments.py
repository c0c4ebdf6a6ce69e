"""How a command takes its arguments: flags in titled groups, from the models of `flows.options`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Group, Parameter
from pydantic import Field


def _flat(title: str) -> Parameter:
    """Return the mark of a group whose members are flags of their own, under a title."""
    return Parameter(name="*", group=Group(title))


FEED = _flat("Feed")
PIXELS = _flat("Pixels")
MASKING = _flat("Masks")
REVIEW = _flat("Review")
RUN = _flat("Run")
INPUTS = _flat("What it learns from")
WORK = _flat("Work")
MEASURED = _flat("What is measured")

# A prompt may begin with a hyphen, as in "-20 % brightness".
ANY_TEXT = Parameter(allow_leading_hyphen=True)

_JSON = Parameter(name="--json", negative="")
_COUNTS = "Print a JSON object with the counts, or with --look one a row, and nothing else."
Json = Annotated[
    bool, _JSON, Field(description="Print the summary as one JSON object, and nothing else.")
]
JsonCounts = Annotated[bool, _JSON, Field(description=_COUNTS)]
JsonLines = Annotated[
    bool, _JSON, Field(description="Print one JSON object a line, and nothing else.")
]
