"""Draw a sheet of examples for people to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ace_tasks.training.world.world_tasks import Example

_GAP_PX = 4
_LINE_PX, _LETTER_PX = 12, 6  # of Pillow's built-in font
_PAPER = (250, 250, 250)
_INK = (40, 40, 40)
_OVERLAY = np.array((255, 0, 200), np.float32)


def sheet(
    examples: Sequence[Example], outputs: Sequence[np.ndarray], columns: int = 4
) -> Image.Image:
    """Return a page with each example's prompt, masked image, references, target and output.

    Outputs are uint8 (H, W, 3), in the order of the examples. A row has `columns` examples.
    """
    pairs = zip(examples, outputs, strict=True)
    strips = [_strip([*_panels(each), output]) for each, output in pairs]
    width = max(strip.width for strip in strips) + 2 * _GAP_PX
    captions = [textwrap.wrap(each.prompt, int(width / _LETTER_PX)) for each in examples]
    caption_px = _LINE_PX * max(map(len, captions))
    height = strips[0].height + caption_px + 2 * _GAP_PX
    page_size = width * min(columns, len(strips)), height * -(-len(strips) // columns)
    page = Image.new("RGB", page_size, _PAPER)
    for n, (lines, strip) in enumerate(zip(captions, strips, strict=True)):
        left, top = n % columns * width + _GAP_PX, n // columns * height + _GAP_PX
        for row, line in enumerate(lines):
            ImageDraw.Draw(page).text((left, top + row * _LINE_PX), line, fill=_INK)
        page.paste(strip, (left, top + caption_px))
    return page


def _panels(example: Example) -> list[np.ndarray]:
    image = [] if example.image is None else [_masked(example.image, example.mask)]
    return [*image, *example.references, example.target]


def _masked(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    if mask is None:
        return image
    alpha = (mask[:, :, None] / np.float32(255)) * 0.4
    return np.rint(image * (1 - alpha) + _OVERLAY * alpha).astype(np.uint8)


def _strip(panels: Sequence[np.ndarray]) -> Image.Image:
    width = sum(panel.shape[1] + _GAP_PX for panel in panels)
    strip = Image.new("RGB", (width, max(len(panel) for panel in panels)), _PAPER)
    left = 0
    for panel in panels:
        strip.paste(Image.fromarray(panel), (left, 0))
        left += panel.shape[1] + _GAP_PX
    return strip
