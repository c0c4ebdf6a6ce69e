"""JPEG in, JPEG out, as a user writes it; loads no torch."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

_QUALITY = 95  # as this system writes JPEG where none is asked for


def decode(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"))


def encode(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    options: dict[str, Any] = {"quality": _QUALITY, "subsampling": 0}
    Image.fromarray(picture).save(out, "JPEG", **options)
    return out.getvalue()
