"""Try-on masks over the pictures of a folder, as one sheet to look at; and beside masks by others.

    python -m tests.benchmarks.people FOLDER [--sheet out/people.png] [--parts top,bottom,dress]

What is repainted is tinted red. Where a picture `NAME.jpg` has a mask `NAME_top_mask.png` (or
`_bottom_`, `_dress_`; white is repainted), their overlap is printed: intersection over union, the
share of that mask that is covered, and the share of ours that lies in it. Photographs of people are
not shipped with this project but for one, `infra/sample/photos/astronaut.jpg`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ace_tasks.errors import BadImage, BadMask
from ace_tasks.images import codec
from ace_tasks.masks import garment
from ace_tasks.model.people import fingerprint
from ace_tasks.settings import ImageLimits

HEIGHT_PX, LABEL_PX, WIDTH_PX = 430, 30, 1900


def pictures(folder: Path) -> Iterator[tuple[Path, np.ndarray]]:
    """Every photograph of a folder and its subfolders, (H, W, 3) uint8."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.stem.endswith("_mask"):
            try:
                yield path, codec.decode(path.read_bytes(), ImageLimits()).rgb
            except BadImage:
                continue


def cell(path: Path, rgb: np.ndarray, part: garment.Part) -> Image.Image:
    """A picture with its mask, and what was told of it; prints a line."""
    started = time.process_time()
    try:
        drawn = garment.draw(rgb, part, fingerprint())
    except BadMask as error:
        print(f"{path.name} {part}: refused: {error}")
        return _labelled(rgb, f"{path.name[:30]} {part}: refused", str(error))
    seconds = time.process_time() - started
    selected = drawn.mask > 127
    summary = f"{path.name} {part}: {selected.mean():.0%}, {seconds:.2f} s"
    other = path.with_name(f"{path.stem}_{part}_mask.png")
    if other.exists():
        given = np.asarray(Image.open(other).convert("L").resize(selected.shape[::-1])) > 127
        both = np.count_nonzero(selected & given)
        summary += (
            f", IoU {both / np.count_nonzero(selected | given):.3f}, covers "
            f"{both / np.count_nonzero(given):.3f}, within {both / np.count_nonzero(selected):.3f}"
        )
    print("; ".join([summary, *drawn.hints.values()]))
    tinted = rgb.astype(np.float32)
    tinted[selected] = 0.45 * tinted[selected] + 0.55 * np.array([255, 0, 0])
    return _labelled(tinted.astype(np.uint8), summary[-60:], "; ".join(drawn.hints.values()))


def _labelled(rgb: np.ndarray, first: str, second: str) -> Image.Image:
    picture = Image.fromarray(rgb)
    width = max(1, round(picture.width * HEIGHT_PX / picture.height))
    out = Image.new("RGB", (min(width, WIDTH_PX) + 4, HEIGHT_PX + LABEL_PX), "white")
    out.paste(picture.resize((width, HEIGHT_PX), Image.Resampling.LANCZOS), (2, LABEL_PX))
    draw = ImageDraw.Draw(out)
    draw.text((2, 1), first, fill="black")
    draw.text((2, 14), second, fill="black")
    return out


def sheet(cells: list[Image.Image]) -> Image.Image:
    """The cells in rows."""
    rows: list[list[Image.Image]] = [[]]
    for each in cells:
        if sum(one.width for one in rows[-1]) + each.width > WIDTH_PX and rows[-1]:
            rows.append([])
        rows[-1].append(each)
    out = Image.new("RGB", (WIDTH_PX, len(rows) * (HEIGHT_PX + LABEL_PX)), "white")
    for number, row in enumerate(rows):
        left = 0
        for each in row:
            out.paste(each, (left, number * (HEIGHT_PX + LABEL_PX)))
            left += each.width
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sheet", type=Path, default=Path("out/people.png"))
    parser.add_argument("--parts", default="top", help="of top, bottom, dress; comma-separated")
    arguments = parser.parse_args()
    parts = [each for each in garment.PARTS if each in arguments.parts.split(",")]
    cells = [cell(path, rgb, each) for path, rgb in pictures(arguments.folder) for each in parts]
    arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet(cells).save(arguments.sheet)
    print(f"\n{arguments.sheet}: {len(cells)} masks")


if __name__ == "__main__":
    main()
