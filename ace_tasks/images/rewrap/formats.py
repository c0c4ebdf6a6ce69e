"""Rewrap a file of any format that the product writes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from ace_tasks.images.rewrap import avif, jpeg, png, webp
from ace_tasks.images.rewrap.parts import Beside, CannotRewrap

_FORMATS: dict[str, Callable[[bytes, Beside], bytes]] = {
    "jpeg": jpeg.rewrap,
    "png": png.rewrap,
    "webp": webp.rewrap,
    "avif": avif.rewrap,
}


def rewrap(data: bytes, format_: str, beside: Beside) -> bytes | None:
    """Return the new file, or None if its container is not known well enough.

    The caller decodes it and compares the pixels, since a file can be built to be read in two ways.
    """
    try:
        return _FORMATS[format_](data, beside)
    except (CannotRewrap, IndexError, struct.error, zlib.error):  # it is cut short, or lacks parts
        return None
