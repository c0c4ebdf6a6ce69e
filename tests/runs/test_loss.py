"""How a run sums up what speed fast lost. If these break, a person trusts a figure of no picture."""

from __future__ import annotations

from ace_tasks.provenance.record import LossRecord, Scores
from ace_tasks.runs.loss import Loss


def measured(psnr_db: float | None, fast: Scores, exact: Scores) -> LossRecord:
    return LossRecord(psnr_db=psnr_db, largest_difference=9, fast=fast, exact=exact)


def test_the_middle_the_worst_and_the_means_of_both_are_told() -> None:
    found = Loss.of(
        [
            measured(40.0, Scores(total=0.5, change=3.0), Scores(total=0.75, change=4.0)),
            measured(20.0, Scores(total=0.25, change=1.0), Scores(total=0.75)),
            measured(None, Scores(total=0.75), Scores(total=0.75)),
        ]
    )
    assert found is not None
    assert (found.items, found.psnr_db, found.least_psnr_db) == (3, 40.0, 20.0)
    means = {name: (each.fast, each.exact) for name, each in found.scores.items()}
    # A score that one of the two lacks is not compared.
    assert means == {"total": (0.5, 0.75), "change": (3.0, 4.0)}
    assert found.line == (
        "3 pictures made again, exact: PSNR 40.0 dB in the middle, 20.0 dB at worst; score 0.50, "
        "exact 0.75"
    )


def test_equal_pictures_have_lost_nothing_and_no_picture_tells_nothing() -> None:
    same = Scores(total=1.0)
    found = Loss.of([measured(None, same, same)])
    assert found is not None
    assert (found.psnr_db, found.least_psnr_db) == (None, None)
    assert found.line == ("1 picture made again, exact: no pixel differs; score 1.00, exact 1.00")
    assert Loss.of([]) is None
