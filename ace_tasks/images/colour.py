"""ICC profiles: the model knows sRGB only, and a picture keeps the profile it came with.

Pillow's LittleCMS converts by relative colorimetric intent with black point compensation, the usual
choice for pictures.
"""

from __future__ import annotations

import contextlib
import functools
import io

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from ace_tasks.errors import BadImage

_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_MAX_BYTES = 4 * 2**20  # twice the largest in common use; each cached transform keeps one
# Pillow writes larger profiles into a PNG than it reads back: its limit on texts holds for them.
PngImagePlugin.MAX_TEXT_CHUNK = _MAX_BYTES

_GREY = b"GRAY"
_SPACES = {"1": _GREY, "L": _GREY, "LA": _GREY, "I;16": _GREY, "CMYK": b"CMYK"}
_READ_AS = {_GREY: "L", b"CMYK": "CMYK"}


def usable(profile: bytes | None) -> bool:
    """Return whether a profile is whole and of RGB data, as the pixels here are."""
    if profile is None or not _is_of(b"RGB ", profile):
        return False
    try:
        _transform(profile, "to", "RGB")
        _transform(profile, "from", "RGB")
    except BadImage:
        return False
    return True


def fits(profile: bytes | None, mode: str) -> bool:
    """Return whether a profile is whole and of the kind of data that Pillow's `mode` names."""
    space = _SPACES.get(mode, b"RGB ")
    if not isinstance(profile, bytes) or not _is_of(space, profile):
        return False
    try:
        _transform(profile, "to", _READ_AS.get(space, "RGB"))
    except BadImage:
        return False
    return True


def to_srgb(rgb: np.ndarray, profile: bytes | None) -> np.ndarray:
    """Convert (H, W, 3) uint8 from a profile's space to sRGB.

    Without a profile the pixels are sRGB already. Raises BadImage.
    """
    return rgb if profile is None else _apply(_transform(profile, "to", "RGB"), rgb)


def from_srgb(rgb: np.ndarray, profile: bytes | None) -> np.ndarray:
    """Convert (H, W, 3) uint8 from sRGB to a profile's space. Raises BadImage."""
    return rgb if profile is None else _apply(_transform(profile, "from", "RGB"), rgb)


def cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a CMYK picture to sRGB, by its profile if that can be used."""
    if profile and _is_of(b"CMYK", profile):
        with contextlib.suppress(BadImage):
            converted = ImageCms.applyTransform(image, _transform(profile, "to", "CMYK"))
            assert converted is not None
            return converted
    return image.convert("RGB")


def grey_to_srgb(grey: np.ndarray, profile: bytes) -> np.ndarray:
    """Convert (H, W) uint8 in a grey profile's space to (H, W, 3) in sRGB. Raises BadImage."""
    return _apply(_transform(profile, "to", "L"), grey)


def _is_of(space: bytes, profile: bytes) -> bool:
    return profile[16:20] == space and len(profile) <= _MAX_BYTES


def _apply(transform: ImageCms.ImageCmsTransform, pixels: np.ndarray) -> np.ndarray:
    converted = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(pixels)), transform)
    assert converted is not None
    return np.asarray(converted)


@functools.lru_cache(maxsize=32)  # a catalog has few profiles, about one per camera
def _transform(profile: bytes, way: str, mode: str) -> ImageCms.ImageCmsTransform:
    try:
        theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        ends = (theirs, srgb, mode, "RGB") if way == "to" else (srgb, theirs, "RGB", mode)
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if mode == "CMYK":  # the optimised table is faster, but off by up to six levels
            flags |= ImageCms.Flags.NOOPTIMIZE
        return ImageCms.buildTransform(*ends, renderingIntent=_INTENT, flags=flags)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise BadImage(f"the colour profile cannot be used: {error}"[:200]) from None
