"""Draw the curves of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from PIL import Image, ImageDraw

_SIZE_PX = (640, 150)  # of one panel
_MARGIN_PX = 24
_PAPER, _INK, _FAINT, _LINE = (250, 250, 250), (40, 40, 40), (200, 206, 220), (30, 80, 180)
_SMOOTHED = 0.1  # share of each new value in the running mean
_HIDDEN = {"step", "lr"}


def curves(steps: Sequence[dict[str, float]], total: int) -> Image.Image:
    """Return a picture with a panel for each logged number, over the steps from 0 to `total`."""
    names = sorted({name for each in steps for name in each} - _HIDDEN) or ["loss"]
    page = Image.new("RGB", (_SIZE_PX[0], _SIZE_PX[1] * len(names)), _PAPER)
    for row, name in enumerate(names):
        points = [
            (each["step"], each[name]) for each in steps if math.isfinite(each.get(name, math.nan))
        ]
        page.paste(_panel(name, points, total), (0, row * _SIZE_PX[1]))
    return page


def _panel(name: str, points: Sequence[tuple[float, float]], total: int) -> Image.Image:
    panel = Image.new("RGB", _SIZE_PX, _PAPER)
    draw = ImageDraw.Draw(panel)
    left, top = _MARGIN_PX, _MARGIN_PX
    right, bottom = _SIZE_PX[0] - _MARGIN_PX, _SIZE_PX[1] - _MARGIN_PX
    draw.line((left, top, left, bottom, right, bottom), fill=_INK)
    draw.text((right - 60, bottom + 4), f"step {total}", fill=_INK)
    if not points:
        draw.text((left, 4), f"{name}: nothing yet", fill=_INK)
        return panel
    values = [value for _, value in points]
    low, high = min(values), max(values)
    draw.text((left, 4), f"{name}: {values[-1]:.4g}   from {low:.4g} to {high:.4g}", fill=_INK)

    def place(step: float, value: float) -> tuple[float, float]:
        height = (value - low) / ((high - low) or 1)
        return left + (right - left) * step / total, bottom - (bottom - top) * height

    smooth = accumulate(values, lambda mean, value: mean + _SMOOTHED * (value - mean))
    for line, colour in ((values, _FAINT), (smooth, _LINE)):
        xy = [place(step, value) for (step, _), value in zip(points, line, strict=True)]
        draw.line(xy if len(xy) > 1 else [*xy, (xy[0][0] + 1, xy[0][1])], fill=colour, width=2)
    return panel
