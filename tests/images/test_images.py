"""Decoding and encoding, on files as users and attackers make them. If these break, pictures come
out turned, discoloured or cut, or one bad file takes its process along."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from ace_tasks.errors import BadImage
from ace_tasks.images import codec, colour
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import EXTENSIONS, MEDIA_TYPES, ImageFormat
from tests.replica.test_pixels import P3
from tests.support.colour_chart import chunk

LIMITS = ImageLimits()
FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "WEBP": {"lossless": True, "exact": True},
    "JPEG": {"quality": 100, "subsampling": 0},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


def _noise(width: int = 64, height: int = 48, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _file(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(out, format=kind, **options)
    return out.getvalue()


def _png(width: int, height: int, bits: int, colour: int, data: bytes) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def _refusal(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(BadImage) as caught:
        codec.decode(data, limits)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- orientation, colour, alpha


def _corners() -> np.ndarray:
    """Make a wide picture of four flat colours, on which every turn and flip shows."""
    quarters = np.array([[[250, 5, 5], [5, 250, 5]], [[5, 5, 250], [250, 250, 5]]], np.uint8)
    return quarters.repeat(24, axis=0).repeat(32, axis=1)


# EXIF's table: what is to be done with stored rows and columns.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_pictures_are_turned_upright_by_exif(kind: str) -> None:
    for orientation, turn in UPRIGHT.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = codec.decode(_file(_corners(), kind, exif=exif, **LOSSLESS[kind]), LIMITS)
        expected = turn(_corners())
        assert picture.size_px == (expected.shape[1], expected.shape[0]), orientation
        # JPEG and AVIF are not exact.
        assert np.abs(picture.rgb.astype(int) - expected).max() < 12, orientation


def test_alpha_is_turned_with_its_picture() -> None:
    rgba = np.dstack([_corners(), _corners()[:, :, 0]])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = codec.decode(_file(rgba, exif=exif), LIMITS)
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, np.rot90(rgba[:, :, 3], -1))


@pytest.mark.parametrize("format_", FORMATS)
def test_a_colour_profile_survives_the_round_trip(format_: ImageFormat) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = codec.decode(_file(_noise(), icc_profile=profile), LIMITS)
    assert picture.icc_profile == profile
    data = codec.encode(picture.rgb, format_, 95, metadata=codec.FileMetadata(picture.icc_profile))
    assert codec.decode(data, LIMITS).icc_profile == profile
    assert codec.decode(codec.encode(picture.rgb, format_, 95), LIMITS).icc_profile is None


def test_a_grey_profile_is_not_put_on_colour_pixels() -> None:
    """Viewers refuse or discolour an RGB file whose profile is for grey."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[16:20] = b"GRAY"
    grey = Image.fromarray(_noise(channels=1)[:, :, 0])
    assert codec.decode(_file(grey, icc_profile=bytes(profile)), LIMITS).icc_profile is None


def test_a_broken_profile_is_left_out_and_noted() -> None:
    broken = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()[:200]
    picture = codec.decode(_file(_noise(), icc_profile=broken), LIMITS)
    assert picture.icc_profile is None
    assert picture.converted == ("a colour profile that cannot be used, to none",)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_become_eight_and_it_is_noted(channels: int) -> None:
    colour_type = {1: 0, 3: 2, 4: 6}[channels]
    row = b"\0" + bytes(range(256))[: 2 * channels] * 32
    picture = codec.decode(_png(32, 32, 16, colour_type, row * 32), LIMITS)
    assert picture.converted == ("16 bits a channel to 8",)
    if channels == 1:
        assert (picture.rgb == 0).all()  # the high byte of 0x0001
    elif channels == 3:
        assert picture.rgb[5, 5].tolist() == [0, 2, 4]
    else:
        assert picture.alpha is not None
        assert (picture.alpha == 6).all()
        assert picture.straight is not None
        assert picture.straight[5, 5].tolist() == [0, 2, 4]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_sixteen_bits_is_kept(channels: int, orientation: int) -> None:
    """Its neighbour, which has the same high bytes, stays opaque."""
    levels = np.full((32, 48, channels), 0x4080, ">u2")
    levels[4:8] = 0x4081
    key = b"".join(level.to_bytes(2, "big") for level in [0x4080] * channels)
    data = b"".join(b"\0" + row.tobytes() for row in levels)
    file = _png(48, 32, 16, {1: 0, 3: 2}[channels], data)
    exif = Image.Exif()
    exif[0x0112] = orientation
    beside = ((b"tRNS", key), (b"eXIf", exif.tobytes()[6:]))
    chunks = b"".join(chunk(*each) for each in beside)
    picture = codec.decode(file[:33] + chunks + file[33:], LIMITS)
    opaque = UPRIGHT[orientation](np.where(levels[..., 0] == 0x4081, 255, 0))
    assert picture.alpha is not None
    assert picture.straight is not None
    assert np.array_equal(picture.alpha, opaque)
    assert (picture.straight == 0x40).all()
    assert np.array_equal(picture.rgb[..., 0], np.where(opaque, 0x40, 255))
    assert picture.converted == ("16 bits a channel to 8",)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_level_of_a_grey_png_is_found(bits: int) -> None:
    """Pillow makes eight bits of fewer, but not of the level that is transparent."""
    per_byte = 8 // bits
    rows = np.random.default_rng(bits).integers(0, 1 << bits, (32, 32))
    shifts = 8 - bits * (1 + np.arange(32) % per_byte)
    packed = (rows << shifts).reshape(32, -1, per_byte).sum(axis=2).astype(np.uint8)
    data = b"".join(b"\0" + row.tobytes() for row in packed)
    for key in {0, 1, (1 << bits) - 1}:
        file = _png(32, 32, bits, 0, data)
        tRNS = chunk(b"tRNS", key.to_bytes(2, "big"))
        picture = codec.decode(file[:33] + tRNS + file[33:], LIMITS)
        assert picture.alpha is not None
        assert np.array_equal(picture.alpha == 0, rows == key)


@pytest.mark.parametrize("bits", [10, 12])
def test_an_avif_of_more_bits_is_noted(bits: int) -> None:
    levels = np.random.default_rng(0).integers(0, 1 << bits, (64, 64, 3), np.uint16)
    written, data = cv2.imencode(".avif", levels, [cv2.IMWRITE_AVIF_DEPTH, bits])
    assert written
    picture = codec.decode(data.tobytes(), LIMITS)
    assert picture.converted == (f"{bits} bits a channel to 8",)
    assert picture.icc_profile is None


def test_cmyk_becomes_srgb_and_it_is_noted() -> None:
    cyan = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    picture = codec.decode(_file(cyan, "JPEG"), LIMITS)
    assert picture.converted == ("CMYK to sRGB",)
    assert picture.icc_profile is None
    red, green, blue = picture.rgb[16, 16]
    assert red < 60
    assert min(green, blue) > 180


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_kept_aside_and_composited_on_white(mode: str) -> None:
    image = Image.new("RGBA", (32, 32), (200, 0, 0, 255))
    image.paste((200, 0, 0, 0), (0, 0, 16, 32))
    image.paste((200, 0, 0, 127), (16, 0, 32, 16))
    picture = codec.decode(_file(image.convert(mode)), LIMITS)
    assert picture.alpha is not None
    assert picture.alpha[0, 0] == 0
    assert picture.alpha[31, 31] == 255
    assert picture.rgb[31, 0].tolist() == [255, 255, 255]
    if mode == "RGBA":
        assert picture.alpha[0, 31] == 127
        assert picture.rgb[0, 31].tolist() == [228, 128, 128]


def test_grey_palette_and_bilevel_pictures_become_rgb() -> None:
    grey = _noise(channels=1)[:, :, 0]
    picture = codec.decode(_file(grey), LIMITS)
    assert np.array_equal(picture.rgb, grey[:, :, None].repeat(3, axis=2))
    assert picture.alpha is None
    palette = Image.fromarray(_corners()).quantize(4)
    assert np.array_equal(codec.decode(_file(palette), LIMITS).rgb, _corners())
    bilevel = Image.fromarray(grey).convert("1")
    assert set(np.unique(codec.decode(_file(bilevel), LIMITS).rgb)) == {0, 255}


def test_a_phones_jpeg_with_further_views_is_its_first_picture() -> None:
    first, second = Image.fromarray(_corners()), Image.fromarray(_noise())
    data = _file(first, "MPO", save_all=True, append_images=[second], quality=100)
    picture = codec.decode(data, LIMITS)
    assert picture.format == "jpeg"
    assert (
        np.abs(picture.rgb[4:-4:40, 4:-4:56].astype(int) - _corners()[4:-4:40, 4:-4:56]).max() < 6
    )


# ---------------------------------------------------------------- refused, in a sentence


NO_PICTURES = {
    "nothing": (b"", "accepted: a JPEG, PNG, WebP or AVIF file; given zero bytes"),
    "a web page named .jpg": (b"<!doctype html><p>Not found", "the bytes are none of these"),
    "the start of a JPEG": (b"\xff\xd8\xff", "the bytes are none of these"),
    "GIF": (_file(_noise(), "GIF"), "the bytes are none of these"),
    "TIFF": (_file(_noise(), "TIFF"), "the bytes are none of these"),
    "BMP": (_file(_noise(), "BMP"), "the bytes are none of these"),
    "too narrow": (_file(_noise(15, 40)), "accepted: sides of at least 16 px; given 15×40"),
}


@pytest.mark.parametrize("what", NO_PICTURES)
def test_what_is_no_picture_we_take_is_refused(what: str) -> None:
    data, sentence = NO_PICTURES[what]
    assert sentence in _refusal(data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_animations_are_refused(kind: str) -> None:
    frames = [Image.fromarray(_noise(seed=n)) for n in range(3)]
    data = _file(frames[0], kind, save_all=True, append_images=frames[1:])
    assert _refusal(data) == "accepted: a still picture; given an animation of 3 frames"


@functools.cache
def _photo(kind: str) -> bytes:
    return _file(_noise(200, 150), kind)


@pytest.mark.parametrize("kind", LOSSLESS)
@given(percent=st.integers(0, 99))
@example(percent=0)
@example(percent=99)
def test_a_truncated_file_is_refused_wherever_it_ends(kind: str, percent: int) -> None:
    data = _photo(kind)
    assert codec.decode(data, LIMITS).size_px == (200, 150)
    _refusal(data[: len(data) * percent // 100])


@given(width=st.integers(10_001, 2**31 - 1), height=st.integers(10_000, 2**31 - 1))
@example(width=10_001, height=10_000)
@example(width=14_000, height=14_000)
@example(width=60_000, height=60_000)
@example(width=2**31 - 1, height=2**31 - 1)
def test_a_tiny_file_of_huge_dimensions_is_refused_by_its_header(width: int, height: int) -> None:
    """Its pixels are not there: a decoder that tried to read them would say "damaged" instead."""
    data = _png(width, height, 8, 2, b"\0" * 100)
    assert len(data) < 100
    assert _refusal(data).startswith("accepted: at most 100000000 pixels; given ")


def test_the_pixel_limit_is_a_setting() -> None:
    data = _file(_noise(64, 48))
    assert codec.decode(data, ImageLimits(max_px=64 * 48)).size_px == (64, 48)
    message = _refusal(data, ImageLimits(max_px=64 * 48 - 1))
    assert message == "accepted: at most 3071 pixels; given 64×48"


def test_random_damage_is_a_refusal_or_a_picture_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for kind in LOSSLESS:
        whole = np.frombuffer(_file(_noise(), kind), np.uint8)
        for _ in range(60):
            data = whole.copy()
            data[rng.integers(0, len(data), 6)] = rng.integers(0, 256, 6)
            try:
                picture = codec.decode(data.tobytes(), LIMITS)
            except BadImage:
                continue
            assert picture.rgb.dtype == np.uint8


# ---------------------------------------------------------------- encoding


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_is_written_as_itself(format_: ImageFormat) -> None:
    data = codec.encode(_noise(), format_, 95)
    picture = codec.decode(data, LIMITS)
    assert picture.format == format_
    assert picture.size_px == (64, 48)
    assert MEDIA_TYPES[format_] == f"image/{format_}"
    assert EXTENSIONS[format_]


@pytest.mark.parametrize(("format_", "quality"), [("png", None), ("png", 1), ("webp", None)])
def test_png_loses_nothing_nor_does_webp_unless_asked(
    format_: ImageFormat, quality: int | None
) -> None:
    assert codec.is_lossless(format_, quality)
    for rgb in (_noise(), np.zeros((16, 16, 3), np.uint8), _noise(17, 33, seed=4)):
        data = codec.encode(rgb, format_, quality)
        assert np.array_equal(codec.decode(data, LIMITS).rgb, rgb)


@pytest.mark.parametrize("format_", ["jpeg", "avif"])
def test_without_a_quality_it_is_95_and_recorded_as_lossy(format_: ImageFormat) -> None:
    rgb = _noise()
    assert codec.encode(rgb, format_, None) == codec.encode(rgb, format_, 95)
    assert not codec.is_lossless(format_, None)
    assert not codec.is_lossless("webp", 100)


@pytest.mark.parametrize("format_", ["jpeg", "avif"])
def test_a_red_edge_keeps_its_colour(format_: ImageFormat) -> None:
    """Colour at half resolution (4:2:0) would smear it over its neighbours."""
    rgb = np.full((64, 64, 3), 240, np.uint8)
    rgb[:, 33:] = (200, 0, 20)
    back = codec.decode(codec.encode(rgb, format_, None), LIMITS).rgb.astype(int)
    assert np.abs(back - rgb).max() < 20


@pytest.mark.parametrize("format_", ["jpeg", "avif", "webp"])
def test_quality_is_a_trade_of_bytes_for_pixels(format_: ImageFormat) -> None:
    rgb = np.asarray(Image.fromarray(_noise(8, 6)).resize((128, 96), Image.Resampling.BICUBIC))

    def error(data: bytes) -> float:
        return float(np.abs(codec.decode(data, LIMITS).rgb.astype(int) - rgb).mean())

    low, high = codec.encode(rgb, format_, 20), codec.encode(rgb, format_, 95)
    assert len(low) < len(high)
    assert error(high) < error(low)
    assert error(high) < 2


@pytest.mark.parametrize(
    ("format_", "most"), [("webp", 16_383), ("jpeg", 65_500), ("avif", 32_768)]
)
def test_a_picture_beyond_its_format_is_a_sentence(format_: ImageFormat, most: int) -> None:
    rgb = np.zeros((16, most + 1, 3), np.uint8)
    with pytest.raises(BadImage) as caught:
        codec.encode(rgb, format_, 90)
    assert str(caught.value) == (
        f"a picture of {most + 1}×16 cannot be written as {format_}: accepted: sides of at most "
        f"{most} px"
    )
    assert codec.decode(codec.encode(rgb[:, :-1], format_, 90), LIMITS).size_px == (most, 16)
    assert codec.encode(rgb, "png", 90)


def test_the_hash_of_pixels_does_not_depend_on_their_file() -> None:
    rgb = _noise()
    expected = codec.pixels_sha256(rgb)
    for format_ in ("png", "webp"):
        data = codec.encode(rgb, format_, None)
        assert codec.pixels_sha256(codec.decode(data, LIMITS).rgb) == expected
    assert codec.pixels_sha256(np.asfortranarray(rgb)) == expected


def test_the_hash_of_pixels_reveals_any_change() -> None:
    rgb = _noise()
    one_level = rgb.copy()
    one_level[5, 7, 1] ^= 1
    same_bytes = rgb.reshape(64, 48, 3)
    hashes = {codec.pixels_sha256(each) for each in (rgb, one_level, same_bytes, rgb[:, ::-1])}
    assert len(hashes) == 4


def test_a_thumbnail_is_a_small_webp_of_the_same_shape() -> None:
    for pixels in (_noise(300, 100), _noise(300, 100, channels=1)[:, :, 0]):
        data, size_px = codec.thumbnail(pixels, 90)
        picture = codec.decode(data, LIMITS)
        assert (picture.format, picture.size_px, size_px) == ("webp", (90, 30), (90, 30))


def test_a_jpeg_may_be_decoded_as_small_as_is_enough() -> None:
    """A contact sheet opens thousands of photographs."""
    smooth = cv2.resize(_noise(16, 8), (1600, 800), interpolation=cv2.INTER_CUBIC)
    jpeg = codec.encode(smooth, "jpeg", None)
    small = codec.decode(jpeg, LIMITS, enough_px=150)
    assert small.size_px == (400, 200)
    expected = cv2.resize(smooth, (400, 200), interpolation=cv2.INTER_AREA)
    assert np.abs(small.rgb.astype(int) - expected).mean() < 2
    png = codec.encode(smooth, "png", None)
    assert codec.decode(png, LIMITS, enough_px=150).size_px == (1600, 800)


def test_a_thumbnail_of_a_wide_picture_looks_as_it_does() -> None:
    rgb = np.full((60, 60, 3), (180, 60, 60), np.uint8)
    shown = codec.decode(codec.thumbnail(rgb, 30, P3)[0], LIMITS)
    assert shown.icc_profile is None
    assert np.abs(shown.rgb[15, 15].astype(int) - colour.to_srgb(rgb, P3)[0, 0]).max() <= 4
