"""What a person sees before it is published."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from ace_tasks.settings import ReviewSettings
from flows.options.groups import Options

# A run that waits for an answer comes back on a worker. One that a terminal started has none.
_FORM_ONLY = Parameter(parse=False)


class ReviewOptions(Options):
    """What a person sees before it is published."""

    canary: Annotated[int, _FORM_ONLY] = Field(
        0,
        ge=0,
        le=200,
        description="Make the first N pictures, show them, and wait for an answer before the "
        "others are made. 0: make all.",
    )
    canary_wait_hours: Annotated[float, _FORM_ONLY] = Field(
        72.0, ge=0.01, le=720, description="How long to wait for that answer."
    )
    review_below: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Hold a picture back for review if its total score is lower. 0: none. A blank "
        "picture is always held back.",
    )
    keep_candidates: bool = Field(
        False, description="Also store the candidates that were not chosen, under candidates/."
    )
    strict_masks: bool = Field(
        False,
        description="Fail a row whose mask file looks like a mistake: a label map, inverted, not "
        "rotated as its picture is … Off: the picture is made, and the report names the mask.",
    )

    def settings(self) -> ReviewSettings:
        """Return what a replica holds back, refuses and keeps."""
        return ReviewSettings(
            below=self.review_below,
            keep_candidates=self.keep_candidates,
            strict_masks=self.strict_masks,
        )
