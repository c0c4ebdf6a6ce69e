"""Draw the sample's pictures and masks, and write its catalog as JSONL, CSV and Parquet.

    python -m infra.sample.make

The photographs beside this file are used unchanged. LICENSES.md names their sources.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image, ImageDraw

from ace_tasks.training.world.world_tasks import Example, draw_example

HERE = Path(__file__).parent
BUCKET = "ace-demo"
PREFIX = f"s3://{BUCKET}/sample"

# Held-back examples of the world that `mini` was trained on: (row id, task, number).
WORLD = [
    ("fill-hole", "inpaint", 4),
    ("fill-person", "inpaint", 1),
    ("fill-without-lamp", "remove", 2),
    ("fill-with-bag", "add", 3),
    ("edit-purple-shirt", "recolour", 1),
    ("edit-pink-chair", "recolour", 0),
    ("edit-mug-at-night", "background", 5),
    ("edit-from-gray", "control", 3),
    ("reference-bag", "reference", 3),
    ("reference-lamp", "reference", 2),
    ("try-on-stripes", "try_on", 1),
    ("try-on-checks", "try_on", 2),
    ("try-on-dots", "try_on", 4),
]
WORLD_SEED, WORLD_SIDE_PX = 2026, 64
SHOP_PRODUCTS = 8
# Ellipses drawn by hand over a photograph: left, top, right, bottom, in fractions of it.
MASKS: dict[str, tuple[str, tuple[float, float, float, float]]] = {
    "espresso": ("coffee", (0.335, 0.22, 0.645, 0.49)),
}


def photo(name: str) -> str:
    return f"{PREFIX}/photos/{name}.jpg"


def mask(name: str) -> str:
    return f"{PREFIX}/masks/{name}.png"


def world_row(row_id: str, task: str, number: int) -> tuple[dict[str, Any], Example]:
    """Return a catalog row over the pictures of an example, and the example."""
    example = draw_example(WORLD_SEED, number, WORLD_SIDE_PX, split="test", tasks=[task])
    row: dict[str, Any] = {"id": row_id, "task": example.spec, "prompt": example.prompt}
    for column, pixels in pictures(example).items():
        if pixels is not None:
            row[column] = f"{PREFIX}/world/{row_id}-{column}.png"
    return row, example


def pictures(example: Example) -> dict[str, np.ndarray | None]:
    reference = example.references[0] if example.references else None
    return {"image": example.image, "mask": example.mask, "reference": reference}


# Photographs, cut out by u2netp and laid on another background at full size, without a model of ACE++.
BACKGROUND_ROWS: list[dict[str, Any]] = [
    {
        "id": "background-coffee",
        "task": "background",
        "image": photo("coffee"),
        "background": "white",
    },
    {
        "id": "background-flower",
        "task": "background",
        "image": photo("flower"),
        "background": "#f2e8dc",
    },
    {
        "id": "background-astronaut",
        "task": "background",
        "image": photo("astronaut"),
        "background": "transparent",
    },
]
# Photographs, which `mini` never learnt. They show the window, the paste-back and kinds of masks.
PHOTO_ROWS: list[dict[str, Any]] = [
    {
        "id": "photo-espresso",
        "task": "fill",
        "image": photo("coffee"),
        "mask": mask("espresso"),
        "prompt": "a cyan mug",
    },
    {
        "id": "photo-rocket",
        "task": "fill",
        "image": photo("rocket"),
        "mask": {"box": [290, 120, 352, 424]},
        "prompt": "remove the lamp",
    },
    {
        "id": "photo-saucer",
        "task": "edit",
        "image": photo("coffee"),
        "mask": {"polygon": [[0.13, 0.30], [0.80, 0.30], [0.80, 0.98], [0.13, 0.98]]},
        "prompt": "make the mug cyan",
        "format": "webp",
    },
]
ROWS: list[dict[str, Any]] = [
    *BACKGROUND_ROWS,
    *(world_row(*each)[0] for each in WORLD),
    *PHOTO_ROWS,
]


def draw_world(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for row_id, task, number in WORLD:
        _, example = world_row(row_id, task, number)
        for column, pixels in pictures(example).items():
            if pixels is not None:
                path = folder / f"{row_id}-{column}.png"
                Image.fromarray(pixels).save(path, optimize=True)


def draw_shop() -> Iterator[Example]:
    """Draw the products of a small shop: held-back mugs, each with a mask of its background."""
    examples = (
        draw_example(WORLD_SEED, number, WORLD_SIDE_PX, split="test", tasks=["background"])
        for number in count()
    )
    return islice((each for each in examples if "mug" in each.prompt), SHOP_PRODUCTS)


def draw_masks(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, (of, (left, top, right, bottom)) in MASKS.items():
        width, height = Image.open(HERE / "photos" / f"{of}.jpg").size
        canvas = Image.new("L", (width, height), 0)
        bounds = (left * width, top * height, right * width, bottom * height)
        ImageDraw.Draw(canvas).ellipse(bounds, fill=255)
        canvas.save(folder / f"{name}.png", optimize=True)


def write_catalogs(folder: Path) -> None:
    """Write the same rows in three formats. In the two tables, shapes and lists are JSON text."""
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
    draw_world(HERE / "world")
    draw_masks(HERE / "masks")
    write_catalogs(HERE)
