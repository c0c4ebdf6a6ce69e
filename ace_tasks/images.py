"""Bytes ↔ pixels. The one room that decodes and encodes pictures.

Pixels are numpy arrays of uint8: `rgb` is (H, W, 3), a mask or alpha channel (H, W), already
turned upright by EXIF orientation. Pictures come from catalogs, so they are hostile until
decoded: format, size and pixel count are checked on the header, before any pixel is read.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from ace_tasks.errors import BadImage
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import ImageFormat

ACCEPTED_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF")
_ACCEPTED_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}
_PNG_LEVEL = 1  # 90 ms a megapixel against 213 ms at the default, some percent larger

MEDIA_TYPES: dict[str, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "avif": "image/avif",
}
EXTENSIONS: dict[str, str] = {"png": "png", "jpeg": "jpg", "webp": "webp", "avif": "avif"}


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture, upright. Transparent areas of `rgb` are composited on white."""

    rgb: np.ndarray  # (H, W, 3) uint8
    alpha: np.ndarray | None  # (H, W) uint8; None when the file has no transparency
    format: ImageFormat
    icc_profile: bytes | None

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)."""
        height, width = self.rgb.shape[:2]
        return width, height


def _check_header(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_px:
        raise BadImage(f"accepted: at most {limits.max_px} pixels; given {width}×{height}")
    if min(width, height) < limits.min_side_px:
        raise BadImage(
            f"accepted: sides of at least {limits.min_side_px} px; given {width}×{height}"
        )
    # A phone's MPO file is a JPEG with further views behind it; the first is the picture.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise BadImage(f"accepted: a still picture; given an animation of {frames} frames")
    if image.mode not in _ACCEPTED_MODES:
        raise BadImage(
            f"accepted: 8-bit grey, RGB or palette, with or without alpha; given mode {image.mode}"
        )
    # Pillow cuts 16-bit colour to 8 bits without a word; the mode does not tell.
    if isinstance(image, PngImageFile) and ";16" in str(image.tile[0].args):
        raise BadImage("accepted: 8 bits a channel; given a PNG of 16")


def decode(data: bytes, limits: ImageLimits) -> Picture:
    """Raises BadImage, whatever the bytes are."""
    if not data:
        raise BadImage("accepted: a JPEG, PNG, WebP or AVIF file; given zero bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what we check ourselves
            with Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS) as image:
                _check_header(image, limits)
                image.load()
                icc_profile = _rgb_profile(image.info.get("icc_profile"))
                format_ = "jpeg" if image.format == "MPO" else str(image.format).lower()
                upright = ImageOps.exif_transpose(image)
                has_alpha = upright.has_transparency_data
                rgba = upright.convert("RGBA") if has_alpha else None
                alpha = np.asarray(rgba.getchannel("A")) if rgba else None
                if rgba:
                    flat = Image.new("RGBA", rgba.size, "white")
                    flat.alpha_composite(rgba)
                    rgb = np.asarray(flat.convert("RGB"))
                else:
                    rgb = np.asarray(upright.convert("RGB"))
    except (BadImage, MemoryError):  # short memory is no fault of the picture
        raise
    except Image.DecompressionBombError:  # Pillow's own limit, on the header as ours is
        raise BadImage(f"accepted: at most {limits.max_px} pixels; given far more") from None
    except UnidentifiedImageError:
        raise BadImage(
            "accepted: a JPEG, PNG, WebP or AVIF file; the bytes are none of these"
        ) from None
    # Pillow's decoders raise many kinds on damaged files (OSError, SyntaxError, struct.error,
    # ValueError …); all of them mean: no picture.
    except Exception as error:
        raise BadImage(f"damaged picture: {type(error).__name__}: {error}"[:200]) from None
    return Picture(rgb=rgb, alpha=alpha, format=format_, icc_profile=icc_profile)  # type: ignore[arg-type]


def _rgb_profile(profile: bytes | None) -> bytes | None:
    """The profile if it is of RGB data, as our pixels are: a grey picture's would not fit them."""
    return profile if profile and profile[16:20] == b"RGB " else None


def encode(
    rgb: np.ndarray, format_: ImageFormat, quality: int, icc_profile: bytes | None = None
) -> bytes:
    """(H, W, 3) uint8 → file. PNG and WebP are lossless; `quality` is JPEG's and AVIF's.

    Raises BadImage for a picture the format cannot hold, such as WebP above 16383 px.
    """
    options: dict[str, object] = {
        "png": {"compress_level": _PNG_LEVEL},
        "webp": {"lossless": True, "quality": 0, "method": 0},
        "jpeg": {"quality": quality, "subsampling": 0},
        "avif": {"quality": quality},
    }[format_]  # type: ignore[assignment]
    out = io.BytesIO()
    try:
        Image.fromarray(rgb).save(out, format=format_.upper(), icc_profile=icc_profile, **options)
    except (OSError, ValueError, RuntimeError) as error:
        height, width = rgb.shape[:2]
        raise BadImage(
            f"a picture of {width}×{height} cannot be written as {format_}: {error}"[:200]
        ) from None
    return out.getvalue()


def pixels_sha256(rgb: np.ndarray) -> str:
    """Hash of size and pixels, whatever file they are wrapped in."""
    height, width = rgb.shape[:2]
    digest = hashlib.sha256(f"RGB {width} {height}\n".encode())
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.hexdigest()


def thumbnail(pixels: np.ndarray, side_px: int) -> bytes:
    """A JPEG of (H, W, 3) or (H, W) uint8 whose longer side is at most `side_px`."""
    image = Image.fromarray(pixels).convert("RGB")
    image.thumbnail((side_px, side_px))
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=85)
    return out.getvalue()
