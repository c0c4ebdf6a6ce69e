"""Draw the README's picture: rows of the demo, each before and after its edit.

make demo && python -m docs._edits
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ace_tasks.provenance.record import Record, SourceRecord
from infra.demo import MIRROR
from infra.sample.make import PREFIX

ROOT = Path(__file__).parents[1]
HERE = ROOT / "infra" / "sample"
OUT = HERE / "edits.png"
RESULTS = ROOT / "ace_tasks" / "training" / "RESULTS.md"

# Photographs, cut out at full size, and then one row of the drawn world for each task.
PHOTOS = ("background-coffee", "background-flower", "background-astronaut")
WORLD = {
    "remove": "fill-without-lamp",
    "recolour": "edit-pink-chair",
    "background": "edit-mug-at-night",
    "control": "edit-from-gray",
    "inpaint": "fill-hole",
    "add": "fill-with-bag",
    "reference": "reference-bag",
    "try-on": "try-on-stripes",
}
_COLUMNS = 2
_SIDE_PX, _GAP_PX, _TEXT_PX, _ARROW_PX, _CAPTION_PX = 128, 10, 186, 30, 18
_PHOTO_H, _HEAD_PX = 120, 26
_COLUMN_PX = _TEXT_PX + 2 * (_SIDE_PX + _GAP_PX) + _ARROW_PX  # a garment needs one more tile
_WIDTH_PX = _COLUMNS * _COLUMN_PX + _SIDE_PX + _GAP_PX
_INK, _SOFT, _TINT = (32, 32, 32), (110, 110, 110), (226, 60, 60)


class _Page:
    """A white page to draw on."""

    def __init__(self, height_px: int):
        self.image = Image.new("RGB", (_WIDTH_PX, height_px), "white")
        self._draw = ImageDraw.Draw(self.image)

    def text(self, x: int, y: int, text: str, *, size_px: int = 14, soft: bool = False) -> None:
        font = ImageFont.load_default(size_px)
        self._draw.text((x, y), text, _SOFT if soft else _INK, font)

    def arrow(self, x: int, middle: int) -> None:
        end = x + _ARROW_PX - 2 * _GAP_PX
        self._draw.line((x, middle, end, middle), _SOFT, 2)
        self._draw.polygon([(end, middle - 5), (end, middle + 5), (end + 6, middle)], _SOFT)

    def paste(self, tile: Image.Image, x: int, y: int) -> None:
        self.image.paste(tile, (x, y))


def main() -> None:
    found = (Record.model_validate_json(p.read_bytes()) for p in MIRROR.glob("records/*/*.json"))
    ordered = sorted(found, key=lambda record: record.created_at)
    records = {record.row_id: record for record in ordered}  # the newest record of each row
    rows = -(-len(WORLD) // _COLUMNS)
    row_px = _CAPTION_PX + _SIDE_PX + _GAP_PX
    top = _HEAD_PX + _PHOTO_H + 2 * _GAP_PX
    page = _Page(top + _HEAD_PX + rows * row_px)
    page.text(0, 0, "Photographs, cut out and laid on another background, at full size")
    x = 0
    for name in PHOTOS:
        x = _photo(page, records[name], x, _HEAD_PX) + 2 * _GAP_PX
    page.text(0, top, "A drawn world at 64 pixels, edited by the small model that comes along")
    rates = success_rates()
    for number, (task, row_id) in enumerate(WORLD.items()):
        row, column = divmod(number, _COLUMNS)
        left, y = column * _COLUMN_PX, top + _HEAD_PX + row * row_px
        record = records[row_id]
        page.text(left, y + 36, task, size_px=18)
        page.text(left, y + 60, f"right in {rates[task]} of 100 tries", soft=True)
        for n, line in enumerate(textwrap.wrap(f"“{record.spec['prompt']}”", 25)):
            page.text(left, y + 82 + 17 * n, line, soft=True)
        _world_row(page, record, left + _TEXT_PX, y)
    page.image.quantize(256).save(OUT, optimize=True)
    print(OUT)


def success_rates() -> dict[str, str]:
    """Return how many of 100 held-out examples `mini` gets right, by task, from RESULTS.md."""
    line = re.compile(r"^\| ([a-z-]+) \| \d+ % \| (\d+) ± \d+ % \|", re.MULTILINE)
    return dict(line.findall(RESULTS.read_text(encoding="utf-8")))


def _world_row(page: _Page, record: Record, x: int, y: int) -> None:
    sources = record.sources
    tiles = []
    if sources.image is not None:
        picture = _tile(_source(sources.image))
        if sources.mask is not None:
            tiles.append(("picture, mask in red", _tinted(picture, sources.mask)))
        else:
            tiles.append(("picture", picture))
    tiles += [("reference", _tile(_source(each))) for each in sources.reference]
    for caption, tile in tiles:
        page.text(x, y, caption, size_px=12, soft=True)
        page.paste(tile, x, y + _CAPTION_PX)
        x += _SIDE_PX + _GAP_PX
    page.arrow(x - _GAP_PX // 2, y + _CAPTION_PX + _SIDE_PX // 2)
    x += _ARROW_PX - _GAP_PX
    page.text(x, y, "result", size_px=12, soft=True)
    page.paste(_tile(_result(record)), x, y + _CAPTION_PX)


def _photo(page: _Page, record: Record, x: int, y: int) -> int:
    """Draw a photograph and its result. Return the x where the next may begin."""
    assert record.sources.image is not None
    for path in (_source(record.sources.image), _result(record)):
        with Image.open(path) as opened:
            tile = _on_grid(opened.convert("RGBA"))
        tile.thumbnail((_WIDTH_PX, _PHOTO_H), Image.Resampling.LANCZOS)
        page.paste(tile, x, y)
        if path == _source(record.sources.image):
            page.arrow(x + tile.width + _GAP_PX // 2, y + tile.height // 2)
            x += _ARROW_PX
        x += tile.width
    return x


def _on_grid(picture: Image.Image) -> Image.Image:
    """Lay a picture on grey squares, which show where it is transparent."""
    side = max(1, picture.height // 16)
    rows, columns = np.indices((picture.height, picture.width)) // side
    grid = np.where(((rows + columns) % 2 == 0)[..., None], 255, 222).astype(np.uint8)
    ground = Image.fromarray(np.repeat(grid, 3, axis=2)).convert("RGBA")
    return Image.alpha_composite(ground, picture).convert("RGB")


def _tinted(picture: Image.Image, mask: SourceRecord) -> Image.Image:
    """Return the picture with the area that its mask selects in red."""
    with Image.open(_source(mask)) as opened:
        selected = opened.convert("L").resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(Image.blend(picture, Image.new("RGB", picture.size, _TINT), 0.45),
                           picture, selected)  # fmt: skip


def _tile(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGB").resize((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)


def _source(source: SourceRecord) -> Path:
    return HERE / source.uri.removeprefix(f"{PREFIX}/")


def _result(record: Record) -> Path:
    return MIRROR / record.output.uri.removeprefix("s3://").partition("/edited/")[2]


if __name__ == "__main__":
    main()
