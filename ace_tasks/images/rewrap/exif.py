"""A check that a block of EXIF can be read at all."""

from __future__ import annotations

from PIL import Image

UNREADABLE = "unreadable EXIF left out"


def is_readable(block: bytes) -> bool:
    """Return whether Pillow can read a block, with or without "Exif" in front.

    An empty block is readable.
    """
    try:
        exif = Image.Exif()
        exif.load(block)
        for tag in exif:
            exif.get(tag)
    except Exception:  # Pillow raises many kinds on damaged EXIF
        return False
    return True
