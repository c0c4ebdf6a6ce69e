"""The loss of a fast run: some of its pictures beside the same items made exact."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, Field

from ace_tasks.provenance.record import LossRecord, Scores
from ace_tasks.wording import counted


class MeanScore(BaseModel):
    """The mean of one score over the pictures that were made twice."""

    fast: float
    exact: float


class Loss(BaseModel):
    """The loss of a run, measured on pictures that it made twice."""

    items: int
    psnr_db: float | None = Field(
        description="Median over the pictures, each in its repainted part. None: half of them "
        "are equal."
    )
    least_psnr_db: float | None = Field(description="That of the worst. None: all are equal.")
    scores: dict[str, MeanScore] = Field(
        description="Mean scores; `total` is the one that candidates are chosen by."
    )

    @classmethod
    def of(cls, measured: Sequence[LossRecord]) -> Loss | None:
        """Sum up what was measured; None if nothing was."""
        if not measured:
            return None
        ratios = sorted(math.inf if each.psnr_db is None else each.psnr_db for each in measured)
        pairs = {
            name: [
                (fast, exact)
                for each in measured
                if (fast := getattr(each.fast, name)) is not None
                and (exact := getattr(each.exact, name)) is not None
            ]
            for name in Scores.model_fields
        }
        return cls(
            items=len(measured),
            psnr_db=_finite(statistics.median(ratios)),
            least_psnr_db=_finite(ratios[0]),
            scores={name: _mean(each) for name, each in pairs.items() if each},
        )

    @property
    def line(self) -> str:
        """Return the loss in words."""
        total = self.scores["total"]
        count = counted(self.items, "picture")
        scores = f"score {total.fast:.2f}, exact {total.exact:.2f}"
        if self.least_psnr_db is None:
            return f"{count} made again, exact: no pixel differs; {scores}"
        middle = (
            "half are equal" if self.psnr_db is None else f"{self.psnr_db:.1f} dB in the middle"
        )
        return (
            f"{count} made again, exact: PSNR {middle}, {self.least_psnr_db:.1f} dB at worst; "
            f"{scores}"
        )


def _finite(ratio: float) -> float | None:
    return round(ratio, 2) if math.isfinite(ratio) else None


def _mean(pairs: Sequence[tuple[float, float]]) -> MeanScore:
    fast, exact = (round(statistics.fmean(each), 4) for each in zip(*pairs, strict=True))
    return MeanScore(fast=fast, exact=exact)
