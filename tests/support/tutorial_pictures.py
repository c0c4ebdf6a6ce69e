"""The screenshots of the tutorials, made small from those that the browser tests leave.

make screenshots
"""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from tests.support.browser import SCREENSHOTS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "tutorial"
MOST_BYTES = 150_000


def shown() -> set[str]:
    """Return the names of the pictures beside the tutorials that their text shows."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in FOLDER.glob("*.md"))
    return set(re.findall(r"!\[[^\]]+\]\(([\w-]+\.png)\)", text))


def main() -> None:
    for name in sorted(shown()):
        to = FOLDER / name
        with Image.open(SCREENSHOTS / f"tutorial-{name}") as taken:
            # Without k-means, a small thing of a colour of its own takes on another one.
            taken.convert("RGB").quantize(256, kmeans=5, dither=Image.Dither.NONE).save(
                to, optimize=True
            )
        size = to.stat().st_size
        if size > MOST_BYTES:
            raise SystemExit(f"{to}: accepted: at most {MOST_BYTES:,} bytes; given {size:,}")
        print(f"{to}: {size:,} bytes")


if __name__ == "__main__":
    main()
