"""ICC profiles: a model knows sRGB only, a picture keeps the profile it came with.

Through LittleCMS, as Pillow ships it: relative colorimetric with black point compensation, the
usual choice for pictures.
"""

from __future__ import annotations

import contextlib
import functools
import io

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from ace_tasks.errors import BadImage

_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_MAX_BYTES = 4 * 2**20  # twice the largest in common use; one is kept for each transform below
# Pillow writes a larger profile into a PNG than it reads; its limit is that of texts, too.
PngImagePlugin.MAX_TEXT_CHUNK = _MAX_BYTES

_GREY = b"GRAY"
_SPACES = {"1": _GREY, "L": _GREY, "LA": _GREY, "I;16": _GREY, "CMYK": b"CMYK"}
_READ_AS = {_GREY: "L", b"CMYK": "CMYK"}


def usable(profile: bytes | None) -> bool:
    """Whether it is a profile of RGB data, as our pixels are, and whole."""
    if profile is None or not _is_of(b"RGB ", profile):
        return False
    try:
        _transform(profile, "to", "RGB")
        _transform(profile, "from", "RGB")
    except BadImage:
        return False
    return True


def fits(profile: bytes | None, mode: str) -> bool:
    """Whether it is a whole profile of such data as Pillow's `mode` names."""
    space = _SPACES.get(mode, b"RGB ")
    if not isinstance(profile, bytes) or not _is_of(space, profile):
        return False
    try:
        _transform(profile, "to", _READ_AS.get(space, "RGB"))
    except BadImage:
        return False
    return True


def to_srgb(rgb: np.ndarray, profile: bytes | None) -> np.ndarray:
    """(H, W, 3) uint8 in a profile's space → sRGB. None: it is sRGB. Raises BadImage."""
    return rgb if profile is None else _apply(_transform(profile, "to", "RGB"), rgb)


def from_srgb(rgb: np.ndarray, profile: bytes | None) -> np.ndarray:
    """(H, W, 3) uint8 in sRGB → a profile's space. Raises BadImage."""
    return rgb if profile is None else _apply(_transform(profile, "from", "RGB"), rgb)


def cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A CMYK picture → sRGB, by its profile if it has one that can be used."""
    if profile and _is_of(b"CMYK", profile):
        with contextlib.suppress(BadImage):
            converted = ImageCms.applyTransform(image, _transform(profile, "to", "CMYK"))
            assert converted is not None
            return converted
    return image.convert("RGB")


def grey_to_srgb(grey: np.ndarray, profile: bytes) -> np.ndarray:
    """(H, W) uint8 in a grey profile's space → (H, W, 3) in sRGB. Raises BadImage."""
    return _apply(_transform(profile, "to", "L"), grey)


def _is_of(space: bytes, profile: bytes) -> bool:
    return profile[16:20] == space and len(profile) <= _MAX_BYTES


def _apply(transform: ImageCms.ImageCmsTransform, pixels: np.ndarray) -> np.ndarray:
    converted = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(pixels)), transform)
    assert converted is not None
    return np.asarray(converted)


@functools.lru_cache(maxsize=32)  # one camera, one profile: a catalog has few
def _transform(profile: bytes, way: str, mode: str) -> ImageCms.ImageCmsTransform:
    try:
        theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        ends = (theirs, srgb, mode, "RGB") if way == "to" else (srgb, theirs, "RGB", mode)
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if mode == "CMYK":  # a table of few steps is faster, and wrong by up to six levels
            flags |= ImageCms.Flags.NOOPTIMIZE
        return ImageCms.buildTransform(*ends, renderingIntent=_INTENT, flags=flags)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise BadImage(f"its colour profile cannot be used: {error}"[:200]) from None
