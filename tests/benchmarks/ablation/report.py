"""A report on trainings: tables over seeds, curves, a sheet of samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw
from pydantic import Field

from ace_tasks.evaluation.measure import StoredResult
from ace_tasks.evaluation.report import OVERALL, ReportLine
from ace_tasks.evaluation.scoring import PARTS
from ace_tasks.training.world.world_tasks import Example
from tests.benchmarks.ablation.arms import ARMS, PAPER


class Result(StoredResult):
    """One training: what it cost, and what came of it."""

    arm: str
    seed: int
    recipe: str = Field(description="Fingerprint of its recipe.")
    weights: str = Field(description="SHA-256 (hex) of the averaged weights.")
    code_version: str
    steps: int
    cpu_s: float
    half_s: float = Field(description="CPU seconds of the first half of its steps.")
    tokens: tuple[int, int] = Field(description="Of a picture alone, and beside a reference.")
    losses: dict[str, float] = Field(description="On what is held back; see `held_back_loss`.")
    lines: list[ReportLine]

    def line(self, task: str) -> ReportLine:
        return next(each for each in self.lines if each.task == task)


Value = Callable[[Result], float]


def by_arm(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the results of each arm, in the arms' order, with seeds in order."""
    return {
        arm.name: sorted((r for r in results if r.arm == arm.name), key=lambda r: r.seed)
        for arm in ARMS
        if any(r.arm == arm.name for r in results)
    }


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation over seeds (of a sample: n - 1); of one seed, what it is."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def tables(results: Sequence[Result]) -> str:
    """Markdown: cost and loss; what is right; what an arm differs from the paper's by."""
    arms = by_arm(results)
    descriptions = {arm.name: arm.description for arm in ARMS}
    first = next(iter(arms.values()))[0]
    tasks = [each.task for each in first.lines if each.task != OVERALL]
    made = [task for task in tasks if "colour" in PARTS[task] and task != "background"]
    masked = [task for task in tasks if first.line(task).psnr_in_mask is not None]
    cost = [
        ["", *(descriptions[name] for name in arms)],
        ["steps", *(str(found[0].steps) for found in arms.values())],
        [
            "image tokens, alone / beside a reference",
            *("{} / {}".format(*found[0].tokens) for found in arms.values()),
        ],
        _row(arms, "CPU seconds", lambda r: r.cpu_s, 0),
        _row(arms, "ms a step, first half", lambda r: 2000 * r.half_s / r.steps, 0),
        _row(arms, "ms a step, second half", lambda r: 2000 * (r.cpu_s - r.half_s) / r.steps, 0),
        *(_row(arms, f"held-back L_tar, {name}", _loss(name), 3) for name in ("0-ref", "N-ref")),
    ]
    right = [
        *(_row(arms, f"{task}: right, %", _success(task), 0) for task in (*tasks, OVERALL)),
        *(_row(arms, f"{task}: colour right, %", _colour(task), 0) for task in made),
        *(_row(arms, f"{task}: PSNR in the mask, dB", _psnr(task), 1) for task in masked),
    ]
    header = ["", *arms]
    return "\n\n".join(_markdown(header, rows) for rows in (cost, right, _differences(arms))) + "\n"


def _row(arms: Mapping[str, Sequence[Result]], name: str, value: Value, digits: int) -> list[str]:
    return [name, *(spread([value(each) for each in found], digits) for found in arms.values())]


def _loss(name: str) -> Value:
    return lambda result: result.losses[name]


def _success(task: str) -> Value:
    return lambda result: 100 * result.line(task).success


def _colour(task: str) -> Value:
    return lambda result: 100 * result.line(task).parts["colour"]


def _psnr(task: str) -> Value:
    return lambda result: result.line(task).psnr_in_mask or 0.0


def _differences(arms: Mapping[str, Sequence[Result]]) -> list[list[str]]:
    """Seed by seed: a seed's first weights and data are the same in all arms. Mean and standard
    error of the mean; with three seeds, 4.3 of these are a 95 % interval.
    """
    base = {each.seed: each for each in arms.get(PAPER.name, ())}
    values: dict[str, tuple[Value, int]] = {
        "held-back L_tar, 0-ref": (_loss("0-ref"), 3),
        "held-back L_tar, N-ref": (_loss("N-ref"), 3),
        "right, all tasks alike, points": (_success(OVERALL), 1),
    }
    rows = []
    for name, (value, digits) in values.items():
        cells = []
        for found in arms.values():
            pairs = [value(each) - value(base[each.seed]) for each in found if each.seed in base]
            cell = f"{statistics.fmean(pairs):+.{digits}f}" if pairs else ""
            if len(pairs) > 1:
                cell += f" ± {statistics.stdev(pairs) / math.sqrt(len(pairs)):.{digits}f}"
            cells.append("" if found[0].arm == PAPER.name else cell)
        rows.append([f"less the paper's: {name}", *cells])
    return rows


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---------------------------------------------------------------- pictures

_PANEL_PX, _MARGIN_PX = (430, 230), 30
_PAPER, _INK = (250, 250, 250), (40, 40, 40)
_COLOURS = {
    "paper": (30, 80, 180),
    "one-stage": (210, 120, 20),
    "no-l-ref": (40, 140, 70),
    "sequence": (190, 40, 50),
    "sequence-s": (220, 130, 170),
}
_GAP_PX, _LINE_PX = 4, 14
Metrics = Sequence[Mapping[str, float]]


def curves(metrics: Mapping[tuple[str, int], Metrics]) -> Image.Image:
    """The held-back loss of every training, (arm, seed), over steps and over CPU seconds."""
    axes = [(loss, over) for loss in ("0-ref", "N-ref") for over in ("step", "cpu_s")]
    page = Image.new("RGB", (2 * _PANEL_PX[0], 2 * _PANEL_PX[1] + _LINE_PX), _PAPER)
    for n, (loss, over) in enumerate(axes):
        panel = _panel(metrics, loss, over)
        page.paste(panel, (n % 2 * _PANEL_PX[0], n // 2 * _PANEL_PX[1]))
    draw, left = ImageDraw.Draw(page), _MARGIN_PX
    for name in dict.fromkeys(arm for arm, _ in metrics):
        draw.text((left, 2 * _PANEL_PX[1]), name, fill=_COLOURS[name])
        left += 12 * len(name)
    return page


def _panel(metrics: Mapping[tuple[str, int], Metrics], loss: str, over: str) -> Image.Image:
    panel = Image.new("RGB", _PANEL_PX, _PAPER)
    draw = ImageDraw.Draw(panel)
    left, top = _MARGIN_PX, _MARGIN_PX
    right, bottom = _PANEL_PX[0] - _MARGIN_PX, _PANEL_PX[1] - _MARGIN_PX
    points = [(each[over], each[loss]) for found in metrics.values() for each in found]
    last = max(x for x, _ in points)
    low, high = (math.log(end(y for _, y in points)) for end in (min, max))
    draw.line((left, top, left, bottom, right, bottom), fill=_INK)
    unit = "steps" if over == "step" else "CPU seconds"
    draw.text((right - 110, bottom + 6), f"{last:.0f} {unit}", fill=_INK)
    ends = f"{math.exp(low):.3f} to {math.exp(high):.3f}, logarithmic"
    draw.text((left, 8), f"held-back L_tar, {loss}: {ends}", fill=_INK)
    for (arm, _), found in metrics.items():
        xy = [
            (
                left + (right - left) * each[over] / last,
                bottom - (bottom - top) * (math.log(each[loss]) - low) / ((high - low) or 1),
            )
            for each in found
        ]
        draw.line(xy if len(xy) > 1 else [*xy, *xy], fill=_COLOURS[arm], width=1)
    return panel


def samples(
    examples: Sequence[Example], pictures: Mapping[str, Sequence[np.ndarray]]
) -> Image.Image:
    """A row for each example: what is given, the truth, and each arm's picture, in their order."""
    columns = ["input", "mask", "reference", "truth", *pictures]
    side = max(len(each.target) for each in examples)
    width = side + _GAP_PX
    size = (len(columns) * width + _GAP_PX, len(examples) * width + _LINE_PX)
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    for column, name in enumerate(columns):
        draw.text((column * width + _GAP_PX, 0), name, fill=_INK)
    for row, example in enumerate(examples):
        reference = example.references[0] if example.references else None
        outputs = [found[row] for found in pictures.values()]
        panels = [example.image, example.mask, reference, example.target, *outputs]
        for column, panel in enumerate(panels):
            if panel is not None:
                place = column * width + _GAP_PX, row * width + _LINE_PX
                page.paste(Image.fromarray(panel).convert("RGB"), place)
    return page
