"""Options for what a person checks before it is published."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from ace_tasks.settings import ReviewSettings
from flows.options.groups import Options

# A run that waits for an answer is resumed by a worker. A run from a terminal has none.
_FORM_ONLY = Parameter(parse=False)


class ReviewOptions(Options):
    """The pictures and masks that a person checks before anything is published."""

    canary: Annotated[int, _FORM_ONLY] = Field(
        0,
        ge=0,
        le=200,
        description="Make N pictures first, spread over the tasks and the catalog. Show them, and "
        "wait for an answer before making the others. 0 = make all without asking.",
    )
    canary_wait_hours: Annotated[float, _FORM_ONLY] = Field(
        72.0,
        ge=0.01,
        le=720,
        description="Hours to wait for that answer. The run fails if none is given in time.",
    )
    review_below: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Hold a picture back for review if its total score, from 0 to 1, is lower. 0 "
        "= hold back blank pictures only.",
    )
    keep_candidates: bool = Field(
        False, description="Also store the candidates that were not chosen, under candidates/."
    )
    strict_masks: bool = Field(
        False,
        description="Fail a row whose mask file looks like a mistake, such as a label map or an "
        "inverted mask. Off = make the picture, and name the mask in the report.",
    )

    def settings(self) -> ReviewSettings:
        """Return the settings by which a replica holds back, refuses and keeps pictures."""
        return ReviewSettings(
            below=self.review_below,
            keep_candidates=self.keep_candidates,
            strict_masks=self.strict_masks,
        )
