"""The README's picture: drawn rows of the demo, as they were and as they came back.

make demo && python -m infra.sample.strip
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ace_tasks.provenance.record import Record, SourceRecord
from infra.demo import MIRROR
from infra.sample.make import PREFIX, WORLD, WORLD_SIDE_PX

HERE = Path(__file__).parent
OUT = HERE / "edits.png"
COLUMNS = 2
_SIDE_PX, _GAP_PX = 2 * WORLD_SIDE_PX, 6


def main() -> None:
    found = (Record.model_validate_json(p.read_bytes()) for p in MIRROR.glob("records/*/*.json"))
    ordered = sorted(found, key=lambda record: record.created_at)
    records = {record.row_id: record for record in ordered}  # the newest
    rows = [_row(records[row_id]) for row_id, *_ in WORLD]
    rows += [np.full_like(rows[0], 255)] * (-len(rows) % COLUMNS)
    height = len(rows) // COLUMNS
    columns = [np.concatenate(rows[n * height : (n + 1) * height]) for n in range(COLUMNS)]
    Image.fromarray(np.concatenate(columns, axis=1)).quantize(256).save(OUT, optimize=True)
    print(OUT)


def _row(record: Record) -> np.ndarray:
    """Picture, mask, reference → result, side by side."""
    sources = record.sources
    shown = [sources.image, sources.mask, *(sources.reference or (None,))]
    result = MIRROR / record.output.uri.removeprefix("s3://").partition("/edited/")[2]
    tiles = [*map(_source, shown), _tile(result), np.full((_SIDE_PX, _SIDE_PX // 4, 3), 255)]
    spaced = [
        np.pad(tile, ((0, _GAP_PX), (0, _GAP_PX), (0, 0)), constant_values=255) for tile in tiles
    ]
    return np.concatenate(spaced, axis=1).astype(np.uint8)


def _source(source: SourceRecord | None) -> np.ndarray:
    if source is None:
        return np.full((_SIDE_PX, _SIDE_PX, 3), 240, np.uint8)
    return _tile(HERE / source.uri.removeprefix(f"{PREFIX}/"))


def _tile(path: Path) -> np.ndarray:
    size = (_SIDE_PX, _SIDE_PX)
    return np.asarray(Image.open(path).convert("RGB").resize(size, Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
