"""Whether a block of EXIF can be read at all."""

from __future__ import annotations

from PIL import Image

UNREADABLE = "EXIF that cannot be read left out"


def is_readable(block: bytes) -> bool:
    """With or without its "Exif" in front; an empty one is."""
    try:
        exif = Image.Exif()
        exif.load(block)
        for tag in exif:
            exif.get(tag)
    except Exception:  # Pillow raises many kinds on damaged EXIF
        return False
    return True
