"""Draw a sheet of examples beside a contender's answers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ace_tasks.evaluation.measure import Answered

PANELS = ("input", "mask", "reference", "result", "truth")
_PANEL_PX = 160
_GAP_PX = 4
_LINE_PX, _LETTER_PX = 12, 6  # of Pillow's built-in font
_LINES = 3
_PAPER, _INK, _RIGHT, _WRONG = (250, 250, 250), (40, 40, 40), (20, 120, 50), (180, 40, 30)


def sheet(rows: Sequence[Answered], columns: int = 2) -> Image.Image:
    """Return a page of the answers with prompt and verdict, `columns` of them side by side."""
    width = len(PANELS) * (_PANEL_PX + _GAP_PX) + 2 * _GAP_PX
    height = (_LINES + 1) * _LINE_PX + _PANEL_PX + 2 * _GAP_PX
    columns = min(columns, len(rows))
    page = Image.new("RGB", (columns * width, -(-len(rows) // columns) * height), _PAPER)
    draw = ImageDraw.Draw(page)
    for n, row in enumerate(rows):
        left, top = n % columns * width + _GAP_PX, n // columns * height + _GAP_PX
        _write_caption(draw, row, left, top, width // _LETTER_PX)
        for column, (name, panel) in enumerate(zip(PANELS, _panels(row), strict=True)):
            x, y = left + column * (_PANEL_PX + _GAP_PX), top + _LINES * _LINE_PX
            if panel is not None:
                draw.text((x, y), name, fill=_INK)
                page.paste(_scaled(panel), (x, y + _LINE_PX))
    return page


def _panels(row: Answered) -> tuple[np.ndarray | None, ...]:
    example = row.example
    reference = example.references[0] if example.references else None
    return example.image, example.mask, reference, row.picture, example.target


def _write_caption(
    draw: ImageDraw.ImageDraw, row: Answered, left: int, top: int, letters: int
) -> None:
    wrong = [part for part, right in row.scores.parts.items() if not right]
    verdict = f"wrong: {', '.join(wrong)}" if wrong else "right"
    text = f"{row.example.task}: {verdict}, {row.scores.psnr:.1f} dB"
    draw.text((left, top), text, fill=_WRONG if wrong else _RIGHT)
    for n, line in enumerate(textwrap.wrap(row.example.prompt, letters)[: _LINES - 1]):
        draw.text((left, top + (n + 1) * _LINE_PX), line, fill=_INK)


def _scaled(panel: np.ndarray) -> Image.Image:
    """Return a panel in the sheet's size.

    A small panel is enlarged pixel by pixel, so that it does not look smoother than it is.
    """
    enlarged = len(panel) < _PANEL_PX
    how = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return Image.fromarray(panel).convert("RGB").resize((_PANEL_PX, _PANEL_PX), how)
