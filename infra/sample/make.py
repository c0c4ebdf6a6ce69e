"""Draw the sample's masks and write its catalog as JSONL, CSV and Parquet.

    python -m infra.sample.make

The photographs beside this file are taken as they are; see LICENSES.md for where they come from.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
BUCKET = "ace-demo"
PREFIX = f"s3://{BUCKET}/sample"

# Outlines in fractions of the picture, drawn by hand over each photograph.
SUIT = [(0.05, 0.82), (0.10, 0.52), (0.22, 0.40), (0.26, 0.52), (0.42, 0.58), (0.58, 0.50),
        (0.68, 0.55), (0.70, 0.67), (0.60, 0.74), (0.55, 0.85), (0.56, 0.99), (0.07, 0.99)]  # fmt: skip
TOWER = [(0.30, 0.05), (0.34, 0.05), (0.41, 0.20), (0.50, 0.27), (0.49, 0.42), (0.55, 0.58),
         (0.57, 0.80), (0.44, 0.92), (0.12, 0.78), (0.11, 0.62), (0.16, 0.42), (0.14, 0.27)]  # fmt: skip
MASKS: dict[str, tuple[str, str, Any]] = {
    "suit": ("astronaut", "polygon", SUIT),
    "tower": ("china", "polygon", TOWER),
    "espresso": ("coffee", "ellipse", (0.335, 0.22, 0.645, 0.49)),
    "bloom": ("flower", "ellipse", (0.26, 0.19, 0.70, 0.85)),
    "eye": ("chelsea", "ellipse", (0.30, 0.28, 0.455, 0.50)),
}


def photo(name: str) -> str:
    return f"{PREFIX}/photos/{name}.jpg"


def mask(name: str) -> str:
    return f"{PREFIX}/masks/{name}.png"


ROWS: list[dict[str, Any]] = [
    {"id": "fill-espresso", "task": "fill", "image": photo("coffee"), "mask": mask("espresso"),
     "prompt": "a cup of green tea with a floating leaf"},
    {"id": "fill-patch", "task": "fill", "image": photo("astronaut"),
     "mask": {"ellipse": [0.255, 0.68, 0.41, 0.83]},
     "prompt": "plain orange fabric without a patch"},
    {"id": "fill-rocket", "task": "fill", "image": photo("rocket"),
     "mask": {"box": [290, 120, 352, 424]}, "prompt": "an empty launch pad at night"},
    {"id": "fill-eye", "task": "fill", "image": photo("chelsea"), "mask": mask("eye"),
     "prompt": "a bright blue cat eye", "seed": 7},
    {"id": "edit-bloom", "task": "edit", "image": photo("flower"), "mask": mask("bloom"),
     "prompt": "the flower is deep violet"},
    {"id": "edit-tower", "task": "edit", "image": photo("china"), "mask": mask("tower"),
     "prompt": "the pavilion is covered with snow"},
    {"id": "edit-saucer", "task": "edit", "image": photo("coffee"),
     "mask": {"polygon": [[0.13, 0.30], [0.80, 0.30], [0.80, 0.98], [0.13, 0.98]]},
     "prompt": "the saucer is cobalt blue", "guidance": 30},
    {"id": "edit-cat", "task": "edit", "image": photo("chelsea"),
     "prompt": "an oil painting of the cat", "steps": 6},
    {"id": "reference-bloom", "task": "reference", "reference": photo("flower"),
     "prompt": "the same flower in a white vase on a wooden table"},
    {"id": "reference-cup", "task": "reference", "reference": photo("coffee"), "width": 512,
     "height": 384, "prompt": "the same cup on a marble counter, product photo"},
    {"id": "reference-two", "task": "reference", "reference": [photo("coffee"), photo("flower")],
     "prompt": "the cup beside the flower"},
    {"id": "try-on-brick", "task": "try_on", "image": photo("astronaut"), "mask": mask("suit"),
     "reference": photo("brick"), "prompt": "the suit is made of this pattern"},
    {"id": "try-on-bloom", "task": "try_on", "image": photo("astronaut"), "mask": mask("suit"),
     "reference": photo("flower"), "prompt": "the suit shows this flower as a print"},
    {"id": "try-on-gravel", "task": "try_on", "image": photo("china"), "mask": mask("tower"),
     "reference": photo("gravel"), "prompt": "the pavilion is built of this stone",
     "format": "png"},
]  # fmt: skip


def draw_masks(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, (of, kind, outline) in MASKS.items():
        width, height = Image.open(HERE / "photos" / f"{of}.jpg").size
        canvas = Image.new("L", (width, height), 0)
        draw = ImageDraw.Draw(canvas)
        if kind == "ellipse":
            left, top, right, bottom = outline
            draw.ellipse((left * width, top * height, right * width, bottom * height), fill=255)
        else:
            draw.polygon([(x * width, y * height) for x, y in outline], fill=255)
        canvas.save(folder / f"{name}.png", optimize=True)


def write_catalogs(folder: Path) -> None:
    """The same rows thrice; shapes and lists are JSON text in the two tables."""
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    (folder / "catalog.jsonl").write_text("\n".join(lines) + "\n")
    columns = list(dict.fromkeys(column for row in ROWS for column in row))
    flat = [
        {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()}
        for row in ROWS
    ]
    with (folder / "catalog.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(flat)
    table = pyarrow.table({column: [row.get(column) for row in flat] for column in columns})
    pyarrow.parquet.write_table(table, folder / "catalog.parquet")


if __name__ == "__main__":
    draw_masks(HERE / "masks")
    write_catalogs(HERE)
