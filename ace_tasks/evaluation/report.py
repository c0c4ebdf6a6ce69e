"""Sum up the scores of single pictures in the report of an evaluation.

evaluation.json   a `Report`, with every number and how it was measured
evaluation.md     its table, for people
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ace_tasks.evaluation.measure import StoredResult
from ace_tasks.evaluation.scoring import PARTS, AnswerScores
from ace_tasks.specs import ModelIdentity
from ace_tasks.wording import counted

Kind = Literal["model", "baseline"]
OVERALL = "overall"


class ReportLine(StoredResult):
    """One contender's results on one task, or on all of them equally weighted (`task` "overall").

    The numbers are means over pictures. PSNR is in dB, also inside the mask if there is one.
    `outside_error` is in grey levels, outside the mask. `success_se` is the standard error of
    Agresti and Coull's estimate (1998), which adds two successes and two failures, so that none or
    all of a few pictures does not look certain.
    """

    contender: str
    kind: Kind
    task: str
    examples: int
    success: float = Field(description="Share of the pictures with all parts right.")
    success_se: float
    psnr: float
    psnr_in_mask: float | None
    ssim: float
    outside_error: float | None
    parts: dict[str, float] = Field(description="Share of the pictures with each part right.")


def lines(
    contender: str, kind: Kind, scores: Mapping[str, Sequence[AnswerScores]]
) -> list[ReportLine]:
    """Return one contender's lines: one for each task, then one over all of them.

    `scores` has at least one picture for each task.
    """
    each = [_line(contender, kind, task, found) for task, found in scores.items()]
    return [*each, _overall(each)]


def _line(contender: str, kind: Kind, task: str, scores: Sequence[AnswerScores]) -> ReportLine:
    n, right = len(scores), sum(each.success for each in scores)
    share = (right + 2) / (n + 4)
    return ReportLine(
        contender=contender,
        kind=kind,
        task=task,
        examples=n,
        success=right / n,
        success_se=math.sqrt(share * (1 - share) / (n + 4)),
        parts={part: float(np.mean([s.parts[part] for s in scores])) for part in PARTS[task]},
        **_means(scores),
    )


def _overall(tasks: Sequence[ReportLine]) -> ReportLine:
    """Return the line over all tasks. Every task has the same weight."""
    return ReportLine(
        contender=tasks[0].contender,
        kind=tasks[0].kind,
        task=OVERALL,
        examples=sum(each.examples for each in tasks),
        success=float(np.mean([each.success for each in tasks])),
        success_se=math.hypot(*(each.success_se for each in tasks)) / len(tasks),
        parts={},
        **_means(tasks),
    )


def _means(each: Sequence[AnswerScores | ReportLine]) -> dict[str, Any]:
    """Return the mean of each measure's values that are not None; None if there are none."""
    means = {}
    for name in ("psnr", "psnr_in_mask", "ssim", "outside_error"):
        there = [value for score in each if (value := getattr(score, name)) is not None]
        means[name] = float(np.mean(there)) if there else None
    return means


class ContenderReport(StoredResult):
    """A contender that was measured."""

    name: str
    kind: Kind
    fingerprint: str = Field(
        description="SHA-256 (hex) of a model's identity, or a baseline's name."
    )
    scores: str = Field(description="Key of each picture's scores, below the output.")
    seconds: float = Field(description="Time taken to make and measure its pictures.")


class Report(StoredResult):
    """The content of `evaluation.json`."""

    schema_version: Literal[1] = 1
    variant: str = Field(description="The variant's name or URI.")
    model: ModelIdentity
    tasks: tuple[str, ...]
    examples: int = Field(description="Examples of each task.")
    seed: int
    size_px: int
    device: str
    contenders: list[ContenderReport]
    versions: dict[str, str]
    lines: list[ReportLine]

    @property
    def verdict(self) -> str:
        """Return a sentence about the model over all tasks, and the best baseline."""
        overall = [each for each in self.lines if each.task == OVERALL]
        model, *others = sorted(overall, key=lambda each: (each.kind == "baseline", -each.success))
        text = (
            f"{self.variant}: {_share(model)} of {counted(model.examples, 'picture')} right, "
            f"PSNR {model.psnr:.1f} dB"
        )
        return (
            f"{text}; best baseline, {others[0].contender}: {_share(others[0])}" if others else text
        )


def table(report: Report) -> list[dict[str, str]]:
    """Return the rows of a table for people, task by task, the model first."""
    tasks = [OVERALL, *report.tasks]
    ordered = sorted(report.lines, key=lambda each: tasks.index(each.task))
    return [
        {
            "task": each.task,
            "contender": each.contender + (" (baseline)" if each.kind == "baseline" else ""),
            "success": _share(each),
            "PSNR": _number(each.psnr, 2),
            "PSNR in mask": _number(each.psnr_in_mask, 2),
            "SSIM": _number(each.ssim, 3),
            "outside error": _number(each.outside_error, 2),
            "parts": ", ".join(f"{part} {100 * share:.0f}" for part, share in each.parts.items()),
        }
        for each in ordered
    ]


def _share(each: ReportLine) -> str:
    return f"{100 * each.success:.1f} ± {100 * each.success_se:.1f} %"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
