"""The candidates of one item: each is finished and scored in turn, and the best is kept.

Only one candidate's pixels are held beside the best one's, however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ace_tasks.errors import BadOutput
from ace_tasks.images import codec, scores
from ace_tasks.images.codec import Pictures
from ace_tasks.images.scores import ClipScore, Sight
from ace_tasks.provenance.record import CandidateRecord, CandidatesRecord, Scores
from ace_tasks.replica.edit import FinishedPicture, Prepared
from ace_tasks.specs import Resolved


@dataclass(frozen=True, eq=False)
class Candidate:
    """The best candidate so far."""

    number: int
    finished: FinishedPicture
    scores: Scores


@dataclass(eq=False)
class BestOf:
    """Takes candidates in the order of their numbers; `best` is the first of the highest total."""

    seeds: Sequence[int]
    best: Candidate | None = None
    records: list[CandidateRecord] = field(default_factory=list)
    _refused: BadOutput | None = None

    def enter(self, finished: FinishedPicture, measured: Scores) -> None:
        number = len(self.records)
        self.records.append(CandidateRecord(seed=self.seeds[number], scores=measured))
        if self.best is None or measured.total > self.best.scores.total:
            self.best = Candidate(number, finished, measured)

    def refuse(self, error: BadOutput) -> None:
        """A candidate that is no picture is out, and its neighbours stay in."""
        self.records.append(CandidateRecord(seed=self.seeds[len(self.records)], error=str(error)))
        self._refused = error

    def winner(self) -> Candidate:
        """Raises BadOutput when none of them is a picture."""
        if self.best is None:
            assert self._refused is not None
            raise self._refused
        return self.best

    def record(self, uris: dict[int, str]) -> CandidatesRecord | None:
        """None where there was no choice. `uris`: where candidates are stored, by number."""
        if len(self.seeds) == 1:
            return None
        records = [
            each.model_copy(update={"uri": uris.get(n)}) for n, each in enumerate(self.records)
        ]
        return CandidatesRecord(
            count=len(records), chosen=self.winner().number, candidates=tuple(records)
        )


def judge(
    resolved: Resolved,
    pictures: Pictures,
    prepared: Prepared,
    finished: FinishedPicture,
    clip: ClipScore | None = None,
) -> Scores:
    """The scores of a finished picture; of another size than its source, those it has alone.

    Of a product on another ground there is nothing to judge: its pixels are the source's.
    """
    if resolved.background is not None:
        return Scores(total=1.0)
    made = _seen(finished)
    original, mask = pictures.image, prepared.mask
    if original is None or original.rgb.shape != made.shape:
        original = mask = None
    sight = Sight(
        made=made,
        original=original.rgb if original else None,
        mask=mask,
        references=[each.rgb for each in pictures.references],
        feather_px=prepared.feather_px,
        erased=resolved.repainting_scale >= 1,
    )
    outside = finished.difference.model_outside_mean if finished.difference else None
    return scores.score(sight, outside, resolved.prompt, clip)


def _seen(finished: FinishedPicture) -> np.ndarray:
    if finished.alpha is None:
        return finished.rgb
    return codec.on_white(finished.rgb, finished.alpha)
