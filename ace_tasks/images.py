"""Bytes ↔ pixels. The one room that decodes and encodes pictures.

Pixels are numpy arrays of uint8: `rgb` is (H, W, 3), a mask or alpha channel (H, W), already
turned upright by EXIF orientation, in the space of the picture's own colour profile. Pictures come
from catalogs, so they are hostile until decoded: parts, format, size and pixel count are checked
before any pixel is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from ace_tasks import colour, source_metadata
from ace_tasks.containers import check_parts
from ace_tasks.errors import BadImage
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import ImageFormat

ACCEPTED_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF")
PROFILE_LEFT_OUT = "a colour profile that cannot be used, to none"
_ACCEPTED_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16"}
_QUALITY = 95  # of JPEG and AVIF, where none is asked for
_PNG_LEVEL = 1  # 90 ms a megapixel against 213 ms at the default, some percent larger
_AVIF_SPEED = 9  # 100 ms a megapixel against 780 ms at the default, a sixth larger
# A picture that is small is shown enlarged, where the loss of a shrunk one would be seen.
_THUMBNAIL_QUALITY = {"shrunk": 70, "whole": 92}
_STRIP_PX = 256
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation → what makes it upright
_MAX_SIDE_PX = {"webp": 16_383, "jpeg": 65_500, "avif": 32_768}  # what readers take, too

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
    icc_profile: bytes | None  # of RGB data; None: sRGB
    straight: np.ndarray | None = None  # with alpha: the colours as the file has them
    converted: tuple[str, ...] = ()  # what of the file could not be kept as it was
    file: bytes = b""  # as it was read
    raw: source_metadata.Raw | None = None

    @property
    def xmp(self) -> bytes | None:
        return self.raw.xmp if self.raw else None

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)."""
        height, width = self.rgb.shape[:2]
        return width, height


@dataclass(frozen=True, eq=False)
class Pictures:
    """An item's decoded sources."""

    image: Picture | None
    mask: Picture | None
    references: tuple[Picture, ...]


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
    if image.mode == "P" and image.palette is None:
        raise BadImage("accepted: a palette picture with its palette; given one without")
    if image.mode not in _ACCEPTED_MODES:
        raise BadImage(
            f"accepted: grey, RGB or palette, with or without alpha, and CMYK; given {image.mode}"
        )


def decode(data: bytes, limits: ImageLimits, enough_px: int | None = None) -> Picture:
    """Raises BadImage, whatever the bytes are.

    `enough_px`: a JPEG may come out smaller, its sides at least that long; a tenth of the time.
    """
    if not data:
        raise BadImage("accepted: a JPEG, PNG, WebP or AVIF file; given zero bytes")
    check_parts(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what we check ourselves
            with Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS) as image:
                _check_header(image, limits)
                deep = _is_deep(image)  # before loading, which forgets it
                if enough_px:
                    image.draft(None, (enough_px, enough_px))
                image.load()
                raw = source_metadata.Raw.of(image)
                return dataclasses.replace(_picture(image, deep), file=data, raw=raw)
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


def xmp_of(data: bytes) -> bytes | None:
    """The XMP of a file, without reading its pixels; None where there is none, or no picture."""
    try:
        check_parts(data)
        with Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS) as image:
            return source_metadata.Raw.of(image).xmp
    except Exception:  # as many kinds as in `decode`
        return None


def size_of(data: bytes) -> tuple[int, int] | None:
    """(width, height) as the file's header tells them, without reading pixels; None where there is
    no picture.
    """
    try:
        check_parts(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large picture
            with Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS) as image:
                return image.size
    except Exception:  # as many kinds as in `decode`
        return None


def header_of(data: bytes) -> tuple[str, tuple[int, int]] | None:
    """(format, (width, height)) by the file's header, not turned; None where there is no picture."""
    try:
        check_parts(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large picture
            with Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS) as image:
                return _format_of(image), image.size
    except Exception:  # as many kinds as in `decode`
        return None


def _format_of(image: Image.Image) -> str:
    return "jpeg" if image.format == "MPO" else str(image.format).lower()


def _is_deep(image: Image.Image) -> bool:
    """16 bits a channel. Pillow cuts colour to 8 when it loads it, and the mode does not tell."""
    return image.mode == "I;16" or (
        isinstance(image, PngImageFile) and ";16" in str(image.tile[0].args)
    )


def _picture(image: Image.Image, deep: bool) -> Picture:
    """A loaded file → its pixels. A large one is held as few times as can be."""
    profile = image.info.get("icc_profile")
    format_ = "jpeg" if image.format == "MPO" else str(image.format).lower()
    converted = ["16 bits a channel to 8"] if deep else []
    upright = _upright(image)
    if upright.mode == "I;16":
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.mode == "CMYK":
        upright = colour.cmyk_to_srgb(upright, profile)
        converted.append("CMYK to sRGB")
    usable = colour.usable(profile)
    if profile and profile[16:20] == b"RGB " and not usable:
        converted.append(PROFILE_LEFT_OUT)
    alpha = straight = None
    if upright.has_transparency_data:
        rgba = _pixels(upright, "RGBA")
        straight, alpha = rgba[..., :3], rgba[..., 3]
        rgb = on_white(straight, alpha)
    else:
        rgb = _pixels(upright, "RGB")
    return Picture(
        rgb=rgb,
        alpha=alpha,
        format=format_,  # type: ignore[arg-type]
        icc_profile=profile if usable else None,
        straight=straight,
        converted=tuple(converted),
    )


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; itself, if that says nothing."""
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if turn is None:
        return image
    turned = image.transpose(turn)
    image.close()  # and with it its memory
    return turned


def _pixels(image: Image.Image, mode: Literal["RGB", "RGBA"]) -> np.ndarray:
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    image.close()
    return pixels


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Straight colours (H, W, 3) and alpha (H, W) → the colours seen on white."""
    return flattened(rgb, alpha, (255, 255, 255))


def flattened(rgb: np.ndarray, alpha: np.ndarray, background: tuple[int, ...]) -> np.ndarray:
    """Straight colours (H, W, 3) and alpha (H, W) → the colours seen on a background."""
    flat = np.empty(rgb.shape, np.uint8)
    for top in range(0, len(rgb), _STRIP_PX):  # a whole picture takes five copies at once
        rows = slice(top, top + _STRIP_PX)
        strip = Image.fromarray(np.dstack([rgb[rows], alpha[rows]]))
        seen = Image.new("RGBA", strip.size, (*background, 255))
        seen.alpha_composite(strip)
        flat[rows] = np.asarray(seen)[..., :3]
    return flat


def encode(
    rgb: np.ndarray,
    format_: ImageFormat,
    quality: int | None,
    icc_profile: bytes | None = None,
    alpha: np.ndarray | None = None,
    xmp: bytes | None = None,
    exif: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """(H, W, 3) uint8 → file, with its metadata if it has any. PNG is lossless, and WebP without a
    `quality` (1-100).

    `alpha` (H, W) uint8 is for formats that have it; see `has_alpha`. JPEG and AVIF keep colour
    at full resolution (4:4:4): products have sharp red edges. Raises BadImage for a picture the
    format cannot hold; see `check_side`.
    """
    height, width = rgb.shape[:2]
    check_side(width, height, format_)
    options: dict[str, object] = {
        "png": {"compress_level": _PNG_LEVEL},
        "webp": (
            {"lossless": True, "quality": 0, "method": 0, "exact": True}
            if quality is None
            else {"quality": quality}
        ),
        "jpeg": {"quality": quality or _QUALITY, "subsampling": 0},
        "avif": {
            "quality": quality or _QUALITY,
            "subsampling": "4:4:4",
            "speed": _AVIF_SPEED,
        },
    }[format_]  # type: ignore[assignment]
    if xmp and format_ == "png":
        chunks = PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"] = chunks
    elif xmp:
        options["xmp"] = xmp
    if exif:
        options["exif"] = exif
    if dpi and format_ in ("jpeg", "png"):  # the others have it in their EXIF only
        options["dpi"] = dpi
    out = io.BytesIO()
    pixels = rgb if alpha is None else np.dstack([rgb, alpha])
    try:
        image = Image.fromarray(pixels)
        image.save(out, format=format_.upper(), icc_profile=icc_profile, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadImage(
            f"a picture of {width}×{height} cannot be written as {format_}: {error}"[:200]
        ) from None
    return out.getvalue()


def check_side(width: int, height: int, format_: ImageFormat) -> None:
    """Raises BadImage for a picture larger than its format can hold."""
    most = _MAX_SIDE_PX.get(format_)
    if most and max(width, height) > most:
        raise BadImage(
            f"a picture of {width}×{height} cannot be written as {format_}: accepted: sides of at "
            f"most {most} px"
        )


def has_alpha(format_: ImageFormat) -> bool:
    return format_ != "jpeg"


def is_lossless(format_: ImageFormat, quality: int | None) -> bool:
    return format_ == "png" or (format_ == "webp" and quality is None)


def pixels_sha256(rgb: np.ndarray, alpha: np.ndarray | None = None) -> str:
    """Hash of size and pixels, whatever file they are wrapped in."""
    height, width = rgb.shape[:2]
    mode = "RGB" if alpha is None else "RGBA"
    digest = hashlib.sha256(f"{mode} {width} {height}\n".encode())
    for plane in (rgb, alpha):
        if plane is not None:
            digest.update(np.ascontiguousarray(plane).data)
    return digest.hexdigest()


def thumbnail(
    pixels: np.ndarray, side_px: int, icc_profile: bytes | None = None
) -> tuple[bytes, tuple[int, int]]:
    """An sRGB WebP of (H, W, 3) or (H, W) uint8 whose longer side is at most `side_px`, and its
    (width, height). Half the bytes of a JPEG that looks as good.
    """
    image = Image.fromarray(pixels)
    quality = _THUMBNAIL_QUALITY["shrunk" if max(image.size) > side_px else "whole"]
    image.thumbnail((side_px, side_px))
    image = Image.fromarray(colour.to_srgb(np.asarray(image.convert("RGB")), icc_profile))
    out = io.BytesIO()
    image.save(out, format="WEBP", quality=quality, method=2)
    return out.getvalue(), image.size
