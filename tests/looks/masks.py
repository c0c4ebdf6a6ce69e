"""Every kind of mask over real photographs, as one picture to look at.

    python -m tests.looks.masks sheet.png

What is repainted is tinted red. A person looks; no test does.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ace_tasks.images import codec
from ace_tasks.images.codec import Picture
from ace_tasks.masks import masks
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import AutoMask, PixelSettings, Source, Sources, parse_spec, resolve

SAMPLE = Path(__file__).parents[2] / "infra/sample"
CELL_PX, LABEL_PX, COLUMNS = 300, 30, 5

CUP = {"polygon": [[0.29, 0.10], [0.67, 0.10], [0.62, 0.55], [0.40, 0.60]]}
CELLS: list[tuple[str, str, dict[str, Any]]] = [
    # photograph, what the cell shows, the row's columns and the run's "auto"
    ("coffee", "box in pixels", {"mask": {"box": [170, 20, 410, 240]}}),
    ("coffee", "box in fractions", {"mask": {"box": [0.28, 0.05, 0.68, 0.6]}}),
    ("coffee", "ellipse in pixels", {"mask": {"ellipse": [170, 20, 410, 240]}}),
    ("coffee", "ellipse in fractions", {"mask": {"ellipse": [0.28, 0.05, 0.68, 0.6]}}),
    ("coffee", "polygon in fractions", {"mask": CUP}),
    ("coffee", "polygon in pixels", {"mask": {"polygon": [[174, 40], [402, 40], [288, 240]]}}),
    ("coffee", "file", {"mask": "espresso"}),
    ("coffee", "file, inverted", {"mask": "espresso", "mask_invert": True}),
    ("coffee", "file, grown by 25", {"mask": "espresso", "mask_grow": 25}),
    ("coffee", "file, shrunk by 25", {"mask": "espresso", "mask_grow": -25}),
    (
        "coffee",
        "box grown by 40: round corners",
        {"mask": {"box": [200, 80, 400, 240]}, "mask_grow": 40},
    ),
    ("coffee", "polygon, blurred by 20", {"mask": CUP, "mask_blur": 20}),
    (
        "coffee",
        "box at the edge, blurred by 40",
        {"mask": {"box": [0, 100, 250, 400]}, "mask_blur": 40},
    ),
    ("cutout", "alpha: what is transparent", {"mask": "alpha"}),
    (
        "cutout",
        "alpha, inverted, shrunk by 6",
        {"mask": "alpha", "mask_invert": True, "mask_grow": -6},
    ),
    ("coffee", "auto grabcut", {"mask": "auto", "auto": "grabcut"}),
    ("flower", "auto grabcut", {"mask": "auto", "auto": "grabcut"}),
    (
        "flower",
        "auto grabcut, inverted, grown by 6",
        {"mask": "auto", "auto": "grabcut", "mask_invert": True, "mask_grow": 6},
    ),
    ("astronaut", "auto grabcut", {"mask": "auto", "auto": "grabcut"}),
    ("chelsea", "auto grabcut: no packshot", {"mask": "auto", "auto": "grabcut"}),
    ("packshot", "auto border", {"mask": "auto", "auto": "border"}),
    ("packshot", "auto border, inverted", {"mask": "auto", "auto": "border", "mask_invert": True}),
    ("packshot", "auto grabcut", {"mask": "auto", "auto": "grabcut"}),
    ("flower", "auto border", {"mask": "auto", "auto": "border"}),
    ("coffee", "auto border", {"mask": "auto", "auto": "border"}),
]


def photograph(name: str) -> Picture:
    """One of the sample's, or the sample's cup: cut out, or on lit white paper as a JPEG."""
    if name not in {"cutout", "packshot"}:
        data = (SAMPLE / "photos" / f"{name}.jpg").read_bytes()
        return codec.decode(data, ImageLimits())
    cup = np.asarray(Image.open(SAMPLE / "photos/coffee.jpg").convert("RGB"))
    alpha = _saucer(cup.shape[:2])
    out = io.BytesIO()
    if name == "cutout":
        Image.fromarray(np.dstack([cup, (255 * alpha).astype(np.uint8)])).save(out, "PNG")
    else:
        y, x = np.mgrid[: cup.shape[0], : cup.shape[1]]
        paper = 250 - 10 * y / cup.shape[0] - 6 * np.abs(x / cup.shape[1] - 0.5)
        noise = np.random.default_rng(0).normal(0, 1.5, paper.shape)
        ground = (paper + noise)[..., None] * (1, 1, 0.985)
        mixed = cup * alpha[..., None] + ground * (1 - alpha[..., None])
        Image.fromarray(mixed.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=80)
    return codec.decode(out.getvalue(), ImageLimits())


def _saucer(size: tuple[int, int]) -> np.ndarray:
    """The cup and its saucer as (H, W) in [0, 1], their edge as soft as a lens makes it."""
    big = Image.new("L", (4 * size[1], 4 * size[0]), 0)
    draw = ImageDraw.Draw(big)
    draw.ellipse([4 * v for v in (78, 66, 482, 382)], fill=255)
    draw.ellipse([4 * v for v in (175, 18, 409, 200)], fill=255)
    return np.asarray(big.resize((size[1], size[0]), Image.Resampling.BOX)) / 255


def build(photo: Picture, row: dict[str, Any]) -> np.ndarray:
    """The mask of a row, as a replica builds it."""
    row = {"id": "a", "task": "fill", "image": "i", "prompt": "p"} | row
    auto = AutoMask.named(row.pop("auto", ""))
    spec = parse_spec(row)
    file = row["mask"] == "espresso"
    source = Source(uri="i", sha256="0" * 64)
    resolved = resolve(
        spec,
        Sources(image=source, mask=source if file else None),
        find_variant("toy").identity(),
        PixelSettings(auto_mask=auto),
    )
    mask_file = None
    if file:
        data = (SAMPLE / "masks/espresso.png").read_bytes()
        mask_file = codec.decode(data, ImageLimits())
    mask = masks.build(resolved, photo, mask_file)
    assert mask is not None
    return mask


def cell(name: str, label: str, row: dict[str, Any]) -> Image.Image:
    photo = photograph(name)
    started = time.process_time()
    try:
        mask = build(photo, row)
        spent = time.process_time() - started
        label = f"{name}: {label}\n{masks.coverage(mask):.1%}, {spent:.2f} s"
        tint = np.where(mask[..., None] > 128, (255, 0, 0), photo.rgb)
        shown = (0.5 * photo.rgb + 0.5 * tint).astype(np.uint8)
    except masks.BadMask as error:
        text = str(error)
        label, shown = f"{name}: {label}: refused\n{text[:70]}…", photo.rgb
    out = Image.new("RGB", (CELL_PX, CELL_PX + LABEL_PX), "white")
    picture = Image.fromarray(shown)
    picture.thumbnail((CELL_PX - 6, CELL_PX - 6), Image.Resampling.LANCZOS)
    out.paste(picture, (3, LABEL_PX))
    ImageDraw.Draw(out).text((3, 3), label, fill="black")
    return out


def main(path: str) -> None:
    cells = [cell(*each) for each in CELLS]
    rows = -(-len(cells) // COLUMNS)
    high = round(CELL_PX * 0.72) + LABEL_PX
    sheet = Image.new("RGB", (COLUMNS * CELL_PX, rows * high), "white")
    for number, each in enumerate(cells):
        sheet.paste(
            each.crop((0, 0, CELL_PX, high)), (number % COLUMNS * CELL_PX, number // COLUMNS * high)
        )
    sheet.save(path)


if __name__ == "__main__":
    main(sys.argv[1])
