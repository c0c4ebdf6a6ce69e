"""Bytes ↔ pixels. The only module of an edit that decodes and encodes pictures.

Pixels are uint8 arrays: `rgb` is (H, W, 3), a mask or alpha channel is (H, W). They are turned
upright by EXIF orientation and stay in the colour space of the picture's own profile. Pictures come
from catalogs, so they are hostile until decoded: parts, format, size and pixel count are checked
before any pixel is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from ace_tasks.errors import BadImage
from ace_tasks.images import colour, colour_space, side_parts, source_metadata
from ace_tasks.images.colour_space import ColourSpace
from ace_tasks.images.containers import check_parts
from ace_tasks.images.rewrap import avif_stated
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import ImageFormat

T = TypeVar("T")

# Pillow's names. In lower case each is an `ImageFormat`, since a source's own may be asked for.
ACCEPTED_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF")
DEEP_TO_EIGHT = "{} bits a channel to 8"
_ACCEPTED_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16"}
_QUALITY = 95  # default of JPEG and AVIF
_PNG_LEVEL = 1  # 90 ms per megapixel, 213 ms at the default; files are some percent larger
_AVIF_SPEED = 9  # 100 ms per megapixel, 780 ms at the default; files are a sixth larger
# A small picture is shown enlarged, which would make the loss of a low quality visible.
_THUMBNAIL_QUALITY = {"shrunk": 70, "whole": 92}
_STRIP_PX = 256
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # distance of two levels when stretched to eight bits
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation → the transposition that makes it upright
_MAX_SIDE_PX = {"webp": 16_383, "jpeg": 65_500, "avif": 32_768}  # limits that readers share


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture, upright. Transparent areas of `rgb` are composited on white."""

    rgb: np.ndarray  # (H, W, 3) uint8
    alpha: np.ndarray | None  # (H, W) uint8; None when the file has no transparency
    format: ImageFormat
    icc_profile: bytes | None  # RGB data; made if the file states its colours otherwise; None: sRGB
    straight: np.ndarray | None = None  # with alpha: the file's own colours, not composited
    converted: tuple[str, ...] = ()  # notes on what could not be kept as it was
    file: bytes = b""  # the bytes that were decoded
    raw: source_metadata.Raw | None = None
    space: ColourSpace = colour_space.SRGB  # what the file states

    @property
    def xmp(self) -> bytes | None:
        return self.raw.xmp if self.raw else None

    @property
    def size_px(self) -> tuple[int, int]:
        """Return (width, height)."""
        height, width = self.rgb.shape[:2]
        return width, height


@dataclass(frozen=True, eq=False)
class Pictures:
    """An item's decoded sources."""

    image: Picture | None = None
    mask: Picture | None = None
    references: tuple[Picture, ...] = ()

    @property
    def files(self) -> list[bytes]:
        """Return the files of the picture, if there is one, and of its references."""
        shown = [self.image] if self.image else []
        return [each.file for each in (*shown, *self.references)]


@dataclass(frozen=True)
class FileMetadata:
    """The metadata of a file: everything beside its pixels."""

    icc_profile: bytes | None = None
    xmp: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None

    def options(self, format_: ImageFormat) -> dict[str, Any]:
        """Return the options with which Pillow writes this metadata into a file of this format."""
        found: dict[str, Any] = {"icc_profile": self.icc_profile}
        if self.xmp and format_ == "png":
            found["pnginfo"] = PngInfo()
            found["pnginfo"].add_itxt("XML:com.adobe.xmp", self.xmp.decode())
        elif self.xmp:
            found["xmp"] = self.xmp
        if self.exif:
            found["exif"] = self.exif
        if self.dpi and format_ in ("jpeg", "png"):  # the other formats hold it in EXIF only
            found["dpi"] = self.dpi
        return found


NO_METADATA = FileMetadata()


def _check_header(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width * height > limits.max_px:
        raise BadImage(f"accepted: at most {limits.max_px} pixels; given {width}×{height}")
    if min(width, height) < limits.min_side_px:
        raise BadImage(
            f"accepted: sides of at least {limits.min_side_px} px; given {width}×{height}"
        )
    # A phone's MPO file is a JPEG followed by further views. The first is the picture.
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
    """Decode a file. Raises BadImage, whatever the bytes are.

    With `enough_px` a JPEG may be decoded smaller, with sides of at least that length. It takes a
    tenth of the time.
    """
    if not data:
        raise BadImage("accepted: a JPEG, PNG, WebP or AVIF file; given zero bytes")
    check_parts(data)
    try:
        if side_parts.misleads(data):
            raise ValueError("a PNG text has a name that Pillow reserves")
        return _decoded(data, limits, enough_px, ())
    except (BadImage, MemoryError):  # a lack of memory is not the picture's fault
        raise
    except Exception as error:
        # Pillow's decoders raise many kinds on damaged files (OSError, SyntaxError, struct.error,
        # ValueError …). Either the pixels or some part beside them cannot be read.
        readable = side_parts.without_unreadable(data)
        if readable:
            with contextlib.suppress(Exception):
                return _decoded(readable[0], limits, enough_px, readable[1])
        raise _as_bad_image(error, limits) from None


def _as_bad_image(error: Exception, limits: ImageLimits) -> BadImage:
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own limit on pixels
        return BadImage(f"accepted: at most {limits.max_px} pixels; given far more")
    if isinstance(error, UnidentifiedImageError):
        return BadImage("accepted: a JPEG, PNG, WebP or AVIF file; the bytes are none of these")
    return BadImage(f"damaged picture: {type(error).__name__}: {error}"[:200])


def _decoded(
    data: bytes, limits: ImageLimits, enough_px: int | None, passed_over: tuple[str, ...]
) -> Picture:
    """Decode a file. Raises whatever Pillow raises.

    `passed_over` describes the parts that were removed from the file before.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about what is checked here
        with Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS) as image:
            _check_header(image, limits)
            bits = _bits(image, data)  # before loading, which loses it
            if enough_px:
                image.draft(None, (enough_px, enough_px))
            keyed = _keyed_alpha(image, data)
            image.load()
            raw = source_metadata.Raw.of(image, passed_over)
            space = colour_space.SRGB if raw.mode == "CMYK" else colour_space.of(raw, data)
            picture = _picture(image, raw, space, bits, keyed)
            return dataclasses.replace(picture, file=data, raw=raw, space=space)


def xmp_of(data: bytes) -> bytes | None:
    """Read the XMP of a file, without its pixels. Return None if it has none, or is no picture."""
    return _read_header(data, lambda image: source_metadata.Raw.of(image).xmp)


def header_of(data: bytes) -> tuple[str, tuple[int, int]] | None:
    """Read (format, (width, height)) from a file's header, before any rotation.

    Return None if the file is no picture.
    """
    return _read_header(data, lambda image: (_format_of(image), image.size))


def _format_of(image: Image.Image) -> str:
    return "jpeg" if image.format == "MPO" else str(image.format).lower()


def _read_header(data: bytes, read: Callable[[Image.Image], T]) -> T | None:
    """Return what `read` finds in an opened picture, or None if the file is no picture.

    A file with unreadable parts beside its pixels is read without them.
    """
    try:
        return _read_opened(data, read)
    except Exception:  # Pillow raises many kinds, see `decode`
        readable = side_parts.without_unreadable(data)
    with contextlib.suppress(Exception):
        return _read_opened(readable[0], read) if readable else None
    return None


def _read_opened(data: bytes, read: Callable[[Image.Image], T]) -> T:
    check_parts(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about large pictures
        with Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS) as image:
            return read(image)


def _bits(image: Image.Image, data: bytes) -> int:
    """Return the bits per channel of a picture that is not loaded yet.

    Pillow cuts colours to 8 bits when it loads them, and its mode does not show the file's depth.
    """
    if isinstance(image, PngImageFile):
        deep = image.mode == "I;16" or ";16" in str(image.tile[0].args)
        return 16 if deep else 8
    stated = avif_stated.stated(data) if image.format == "AVIF" else None
    return stated.bits if stated else 8


def _keyed_alpha(image: Image.Image, data: bytes) -> Image.Image | None:
    """Return the alpha of a 16-bit PNG in which one colour is transparent, as stored; else None.

    Pillow would compare that colour with the eight bits that it has left.
    """
    key = image.info.get("transparency")
    if not isinstance(image, PngImageFile):
        return None
    stored = str(image.tile[0].args)
    if stored in _GREY_STEPS and isinstance(key, int):
        # Pillow stretches grey of two and four bits to eight, but not the transparent level.
        image.info["transparency"] = key * _GREY_STEPS[stored] & 0xFF
    if ";16" not in stored:
        return None
    if image.mode == "I;16" and isinstance(key, int):
        with Image.open(io.BytesIO(data), formats=("PNG",)) as grey:
            return Image.fromarray(np.where(np.asarray(grey) == key, 0, 255).astype(np.uint8))
    if image.mode != "RGB" or not isinstance(key, tuple):
        return None
    is_key = np.ones(image.size[::-1], bool)
    # Read twice: the high bytes as big-endian, the low bytes as little-endian.
    for order, shift in (("B", 8), ("L", 0)):
        with Image.open(io.BytesIO(data), formats=("PNG",)) as half:
            half.tile = [each._replace(args=f"RGB;16{order}") for each in half.tile]
            bytes_HW3 = np.asarray(half)
        for channel, value in enumerate(key):
            is_key &= bytes_HW3[..., channel] == (value >> shift) & 0xFF
    return Image.fromarray(np.where(is_key, 0, 255).astype(np.uint8))


def _picture(
    image: Image.Image,
    raw: source_metadata.Raw,
    space: ColourSpace,
    bits: int,
    keyed: Image.Image | None,
) -> Picture:
    """Convert a loaded file to a Picture, with as few copies of a large one as possible."""
    converted = [DEEP_TO_EIGHT.format(bits)] if bits > 8 else []
    upright, keyed = _upright(image, raw), keyed and _upright(keyed, raw)
    if upright.mode == "I;16":
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.mode == "CMYK":
        profile = image.info.get("icc_profile")
        upright = colour.cmyk_to_srgb(upright, profile)
        converted.append("CMYK to sRGB")
        if profile and not colour.fits(profile, "CMYK"):
            converted.append(colour_space.PROFILE_LEFT_OUT)
    alpha = straight = None
    if keyed is not None:
        straight, alpha = _pixels(upright, "RGB"), np.asarray(keyed)
    elif upright.has_transparency_data:
        rgba = _pixels(upright, "RGBA")
        straight, alpha = rgba[..., :3], rgba[..., 3]
    else:
        straight = _pixels(upright, "RGB")
    if space.to_srgb:
        straight = space.to_srgb(straight)
    return Picture(
        rgb=straight if alpha is None else on_white(straight, alpha),
        alpha=alpha,
        format=_format_of(image),  # type: ignore[arg-type]
        icc_profile=space.profile,
        straight=None if alpha is None else straight,
        converted=(*converted, *space.converted),
    )


def _upright(image: Image.Image, raw: source_metadata.Raw) -> Image.Image:
    """Turn a picture as its EXIF orientation says; return it as it is if that says nothing."""
    turn = _TURNS.get(raw.exif.get(ExifTags.Base.Orientation, 1))
    if turn is None:
        return image
    turned = image.transpose(turn)
    image.close()  # frees its memory
    return turned


def _pixels(image: Image.Image, mode: Literal["RGB", "RGBA"]) -> np.ndarray:
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    image.close()
    return pixels


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite straight colours (H, W, 3) with alpha (H, W) on white."""
    return flattened(rgb, alpha, (255, 255, 255))


def flattened(rgb: np.ndarray, alpha: np.ndarray, background: tuple[int, ...]) -> np.ndarray:
    """Composite straight colours (H, W, 3) with alpha (H, W) on a background colour."""
    flat = np.empty(rgb.shape, np.uint8)
    for top in range(0, len(rgb), _STRIP_PX):  # a whole picture would take five copies at once
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
    alpha: np.ndarray | None = None,
    metadata: FileMetadata = NO_METADATA,
) -> bytes:
    """Encode (H, W, 3) uint8 as a file.

    PNG is lossless, and so is WebP without a `quality` (1-100). `alpha`, (H, W) uint8, is for
    all formats but JPEG. JPEG and AVIF keep colour at full resolution (4:4:4), since products have
    sharp red edges. Raises BadImage for a picture that the format cannot hold; see `check_side`.
    """
    height, width = rgb.shape[:2]
    check_side(width, height, format_)
    options = _pixel_options(format_, quality) | metadata.options(format_)
    out = io.BytesIO()
    pixels = rgb if alpha is None else np.dstack([rgb, alpha])
    try:
        Image.fromarray(pixels).save(out, format=format_.upper(), **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadImage(
            f"a picture of {width}×{height} cannot be written as {format_}: {error}"[:200]
        ) from None
    return out.getvalue()


def _pixel_options(format_: ImageFormat, quality: int | None) -> dict[str, Any]:
    """Return the options with which Pillow encodes the pixels."""
    if format_ == "png":
        return {"compress_level": _PNG_LEVEL}
    if format_ == "jpeg":
        return {"quality": quality or _QUALITY, "subsampling": 0}
    if format_ == "avif":
        return {"quality": quality or _QUALITY, "subsampling": "4:4:4", "speed": _AVIF_SPEED}
    if quality is None:
        return {"lossless": True, "quality": 0, "method": 0, "exact": True}
    return {"quality": quality}


def check_side(width: int, height: int, format_: ImageFormat) -> None:
    """Raise BadImage for a picture larger than its format can hold."""
    most = _MAX_SIDE_PX.get(format_)
    if most and max(width, height) > most:
        raise BadImage(
            f"a picture of {width}×{height} cannot be written as {format_}: accepted: sides of at "
            f"most {most} px"
        )


def is_lossless(format_: ImageFormat, quality: int | None) -> bool:
    return format_ == "png" or (format_ == "webp" and quality is None)


def pixels_sha256(rgb: np.ndarray, alpha: np.ndarray | None = None) -> str:
    """Hash the size and the pixels, whatever file they come from."""
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
    """Return an sRGB WebP of (H, W, 3) or (H, W) uint8, and its (width, height).

    Its longer side is at most `side_px`. It has half the bytes of a JPEG that looks as good.
    """
    image = Image.fromarray(pixels)
    quality = _THUMBNAIL_QUALITY["shrunk" if max(image.size) > side_px else "whole"]
    image.thumbnail((side_px, side_px))
    image = Image.fromarray(colour.to_srgb(np.asarray(image.convert("RGB")), icc_profile))
    out = io.BytesIO()
    image.save(out, format="WEBP", quality=quality, method=2)
    return out.getvalue(), image.size
