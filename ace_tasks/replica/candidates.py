"""The candidates of one item: each is finished and scored in turn, and the best is kept.

Only one candidate's pixels are held beside the best one's, however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ace_tasks.errors import BadOutput
from ace_tasks.images import codec, scores
from ace_tasks.images.scores import ClipScore, ScoreInputs
from ace_tasks.provenance.record import CandidateRecord, CandidatesRecord, Scores
from ace_tasks.replica.edit import EditedPixels, PictureEdit


@dataclass(frozen=True, eq=False)
class Candidate:
    """The best candidate so far."""

    number: int
    pixels: EditedPixels  # before any preset
    scores: Scores


@dataclass(eq=False)
class BestOf:
    """Candidates in the order of their numbers; `best` is the first of the highest total."""

    seeds: Sequence[int]
    best: Candidate | None = None
    records: list[CandidateRecord] = field(default_factory=list)
    _refused: BadOutput | None = None

    def enter(self, pixels: EditedPixels, measured: Scores) -> None:
        number = len(self.records)
        self.records.append(CandidateRecord(seed=self.seeds[number], scores=measured))
        if self.best is None or measured.total > self.best.scores.total:
            self.best = Candidate(number, pixels, measured)

    def refuse(self, error: BadOutput) -> None:
        """Leave out a candidate that is not a picture. The others stay in."""
        self.records.append(CandidateRecord(seed=self.seeds[len(self.records)], error=str(error)))
        self._refused = error

    def winner(self) -> Candidate:
        """Return the best candidate. Raises BadOutput if none of them is a picture."""
        if self.best is None:
            assert self._refused is not None
            raise self._refused
        return self.best

    def record(self, uris: dict[int, str]) -> CandidatesRecord | None:
        """Return the record of all candidates, or None if there was only one.

        `uris` maps the number of each stored candidate to its URI.
        """
        if len(self.seeds) == 1:
            return None
        records = [
            each.model_copy(update={"uri": uris.get(n)}) for n, each in enumerate(self.records)
        ]
        return CandidatesRecord(
            count=len(records), chosen=self.winner().number, candidates=tuple(records)
        )


def judge(edit: PictureEdit, made: EditedPixels, clip: ClipScore | None = None) -> Scores:
    """Return the scores of a picture before any preset.

    A picture of another size than its source gets only those scores that need no source. A product
    on another background is not judged, because its pixels are the source's.
    """
    resolved = edit.resolved
    if resolved.background is not None:
        return Scores(total=1.0)
    rgb = made.rgb if made.alpha is None else codec.on_white(made.rgb, made.alpha)
    original, mask = edit.pictures.image, edit.mask
    if original is None or original.rgb.shape != rgb.shape:
        original = mask = None
    inputs = ScoreInputs(
        made=rgb,
        original=original.rgb if original else None,
        mask=mask,
        references=[each.rgb for each in edit.pictures.references],
        feather_px=edit.feather_px,
        erased=resolved.repainting_scale >= 1,
    )
    outside = made.difference.model_outside_mean if made.difference else None
    return scores.score(inputs, outside, resolved.prompt, clip)
