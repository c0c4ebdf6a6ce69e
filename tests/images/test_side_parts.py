"""Files whose pixels are sound, and whose other parts are not. If these break, a picture that every
viewer shows is refused for a text, a checksum or a camera's note, or damaged pixels are let in."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ace_tasks.errors import BadImage
from ace_tasks.images import codec, source_metadata
from ace_tasks.images.rewrap import avif, png
from ace_tasks.settings import ImageLimits
from tests.support.colour_chart import P3_ICC, chart, encoded
from tests.support.colour_chart import chunk as sound

LIMITS = ImageLimits()
LEFT_OUT = "unreadable parts beside the pixels left out"
NO_EXIF = "unreadable EXIF left out"
TOO_LONG = "a PNG text left out: too long"
NOT_TIFF = b"not TIFF at all"


def _cannot(kind: str) -> str:
    return f"unreadable PNG chunk {kind} left out"


def _broken(kind: bytes, body: bytes) -> bytes:
    """With a wrong checksum."""
    return sound(kind, body)[:-4] + b"\0\0\0\0"


def _png(*chunks: bytes, behind: bool = False) -> bytes:
    data = encoded(chart(), "PNG")
    at = len(data) - 12 if behind else 33
    return data[:at] + b"".join(chunks) + data[at:]


LONG = zlib.compress(bytes(5 << 20))
TEXT_OF_5_MB = sound(b"zTXt", b"Comment\0\0" + LONG)
PNGS: dict[str, tuple[bytes, set[str]]] = {
    "ztxt-of-5-mb": (_png(sound(b"zTXt", b"Comment\0\0" + LONG)), {TOO_LONG}),
    "ztxt-of-5-mb-behind": (_png(sound(b"zTXt", b"Comment\0\0" + LONG), behind=True), {TOO_LONG}),
    "itxt-of-5-mb": (_png(sound(b"iTXt", b"Comment\0\1\0\0\0" + LONG)), {TOO_LONG}),
    "ztxt-packed-otherwise": (_png(sound(b"zTXt", b"Comment\0\7abc")), {_cannot("zTXt")}),
    "text-cut-short": (
        _png(sound(b"tEXt", b""), _broken(b"iTXt", b"a")),
        {_cannot("tEXt"), _cannot("iTXt")},
    ),
    "text-named-interlace": (_png(sound(b"tEXt", b"interlace\0yes")), {_cannot("tEXt")}),
    "text-named-transparency": (_png(sound(b"tEXt", b"transparency\0yes")), {_cannot("tEXt")}),
    "text-named-icc-profile": (_png(sound(b"tEXt", b"icc_profile\0yes")), {_cannot("tEXt")}),
    "checksum-of-a-text": (_png(_broken(b"tEXt", b"Comment\0hello")), {_cannot("tEXt")}),
    "checksum-of-a-time": (_png(_broken(b"tIME", bytes(7))), {_cannot("tIME")}),
    "checksum-of-a-gamma": (_png(_broken(b"gAMA", b"\0\0\xb1\x8f")), {_cannot("gAMA")}),
    "checksum-of-a-profile": (
        _png(_broken(b"iCCP", b"p\0\0" + zlib.compress(P3_ICC))),
        {_cannot("iCCP")},
    ),
    "checksum-of-one-unknown": (_png(_broken(b"abCd", b"x")), {_cannot("abCd")}),
    "profile-packed-otherwise": (_png(sound(b"iCCP", b"p\0\5abc")), {_cannot("iCCP")}),
    "profile-without-a-name": (_png(sound(b"iCCP", b"")), {_cannot("iCCP")}),
    "resolution-cut-short": (_png(sound(b"pHYs", b"\0\0")), {_cannot("pHYs")}),
    "gamma-cut-short": (_png(sound(b"gAMA", b"\0")), {_cannot("gAMA")}),
    "chromaticities-cut-short": (_png(sound(b"cHRM", bytes(31))), {_cannot("cHRM")}),
    "intent-of-nothing": (_png(sound(b"sRGB", b"")), {_cannot("sRGB")}),
    "exif-of-nothing": (_png(sound(b"eXIf", NOT_TIFF)), {NO_EXIF}),
    # Beside a text that Pillow refuses; by themselves, it passes over them.
    "two-exif-of-nothing": (_png(TEXT_OF_5_MB, sound(b"eXIf", NOT_TIFF)), {TOO_LONG, NO_EXIF}),
    "two-itxt-without-a-text": (
        _png(TEXT_OF_5_MB, sound(b"iTXt", b"Comment\0\0\0en")),
        {TOO_LONG, _cannot("iTXt")},
    ),
    "two-ztxt-of-nothing": (
        _png(TEXT_OF_5_MB, sound(b"zTXt", b"Comment\0\0what")),
        {TOO_LONG, _cannot("zTXt")},
    ),
    "last-chunk-cut-short": (
        _png(sound(b"tEXt", b"a\0" + bytes(99)), behind=True)[:-60],
        {_cannot("tEXt")},
    ),
}


@pytest.mark.parametrize("name", PNGS)
def test_a_png_is_shown_without_what_cannot_be_read(name: str) -> None:
    data, expected = PNGS[name]
    picture = codec.decode(data, LIMITS)
    assert np.array_equal(picture.rgb, chart())
    assert set(source_metadata.read(picture.raw, picture.file).left_out) == expected
    assert codec.header_of(data)[1] == (96, 64)


def test_what_can_be_read_stays() -> None:
    """A text too long takes neither the colours nor the owner's name with it."""
    data = _png(
        sound(b"zTXt", b"Comment\0\0" + LONG),
        sound(b"iCCP", b"p\0\0" + zlib.compress(P3_ICC)),
        sound(b"tEXt", b"Copyright\0Ann"),
        sound(b"pHYs", struct.pack(">IIB", 11811, 11811, 1)),
    )
    picture = codec.decode(data, LIMITS)
    assert picture.icc_profile == P3_ICC
    found = source_metadata.read(picture.raw, picture.file)
    assert found.copyright == "Ann"
    assert found.dpi == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("name", ["IDAT", "IHDR", "PLTE"])
def test_a_wrong_checksum_of_the_pixels_is_refused(name: str) -> None:
    kind = name.encode()
    palette = Image.fromarray(chart()).quantize(16)
    out = io.BytesIO()
    palette.save(out, "PNG")
    data = bytearray(out.getvalue())
    length = {k: len(body) for k, body in png.chunks(bytes(data))}[kind]
    data[data.index(kind) + 4 + length] ^= 1
    with pytest.raises(BadImage):
        codec.decode(bytes(data), LIMITS)
    text_too = bytes(data[:33]) + _broken(b"tEXt", b"a\0b") + bytes(data[33:])
    with pytest.raises(BadImage):
        codec.decode(text_too, LIMITS)


def test_bytes_between_the_chunks_are_refused() -> None:
    """Whatever follows may be pixels or not."""
    data = _png(_broken(b"tEXt", b"a\0b"), b"\0\0\0\2 two bytes")
    with pytest.raises(BadImage):
        codec.decode(data, LIMITS)


def test_a_transparent_colour_stays_beside_a_text_too_long() -> None:
    white = struct.pack(">3H", 255, 255, 255)
    picture = codec.decode(_png(TEXT_OF_5_MB, sound(b"tRNS", white)), LIMITS)
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha == 0, (chart() == 255).all(-1))


def test_the_transparency_of_a_wrong_checksum_is_noted() -> None:
    data = _png(_broken(b"tRNS", bytes(6)))
    picture = codec.decode(data, LIMITS)
    assert picture.alpha is None
    assert source_metadata.read(picture.raw, data).left_out == (_cannot("tRNS"),)


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


PHOTO = encoded(chart(), "JPEG", quality=95)
JPEGS: dict[str, tuple[bytes, str | None]] = {
    "exif-of-nothing": (_segment(0xE1, b"Exif\0\0" + NOT_TIFF), NO_EXIF),
    "exif-without-a-body": (_segment(0xE1, b"Exif\0\0"), None),
    "jfif-cut-short": (_segment(0xE0, b"JFIF\0"), LEFT_OUT),
    "profile-cut-short": (_segment(0xE2, b"ICC_PROFILE\0"), LEFT_OUT),
    "photoshop-cut-short": (_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04"), LEFT_OUT),
    "views-of-nothing": (_segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"), None),
    "adobe-cut-short": (_segment(0xEE, b"Adobe"), LEFT_OUT),
    "xmp-of-nothing": (_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<"), None),
    "bytes-of-no-segment": (b"\0\1\2\3", LEFT_OUT),
    "a-length-too-short": (b"\xff\xe5\0\1", None),
}


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_is_shown_without_what_cannot_be_read(name: str) -> None:
    part, note = JPEGS[name]
    data = PHOTO[:2] + part + PHOTO[2:]
    picture = codec.decode(data, LIMITS)
    assert np.array_equal(picture.rgb, codec.decode(PHOTO, LIMITS).rgb)
    left_out = source_metadata.read(picture.raw, picture.file).left_out
    assert note is None or note in left_out
    assert codec.decode(data + b"behind the end", LIMITS).size_px == (96, 64)


def test_a_jpeg_keeps_its_colours_beside_a_broken_part() -> None:
    data = encoded(chart(), "JPEG", icc_profile=P3_ICC)
    data = data[:2] + _segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04") + data[2:]
    picture = codec.decode(data, LIMITS)
    assert picture.icc_profile == P3_ICC


def _owner() -> Image.Exif:
    exif = Image.Exif()
    exif[0x8298] = "Ann"
    return exif


WEBP = encoded(chart(), "WEBP", lossless=True, icc_profile=P3_ICC)
AVIF = encoded(chart(), "AVIF", icc_profile=P3_ICC)
NAMED = encoded(chart(), "AVIF", icc_profile=P3_ICC, exif=_owner())


def _webp(*, exif: bytes = b"", size: int | None = None, behind: bytes = b"") -> bytes:
    data = encoded(chart(), "WEBP", lossless=True, icc_profile=P3_ICC, exif=exif)
    data = data[:4] + struct.pack("<I", len(data) - 8 if size is None else size) + data[8:]
    return data + behind


CONTAINERS: dict[str, bytes] = {
    "webp-exif-of-nothing": _webp(exif=NOT_TIFF),
    "webp-behind-the-end": _webp(behind=b"more"),
    "webp-chunk-cut-short": _webp(size=len(WEBP) + 92, behind=b"abcd\xff\0\0\0"),
    "webp-length-of-more": _webp(size=1 << 20),
    "avif-exif-of-nothing": NAMED.replace(b"II*\0", b"what"),
    "avif-behind-the-end": AVIF + b"\0\0\xff\xffmore",
    "avif-box-of-more": AVIF + struct.pack(">I4s", 1 << 20, b"free"),
    "avif-empty-box": AVIF + struct.pack(">I4s", 3, b"free"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_webp_or_avif_is_shown_without_what_cannot_be_read(name: str) -> None:
    sound_file = AVIF if name.startswith("avif") else WEBP
    picture = codec.decode(CONTAINERS[name], LIMITS)
    assert np.array_equal(picture.rgb, codec.decode(sound_file, LIMITS).rgb)
    assert picture.icc_profile == P3_ICC


BESIDE_ANOTHER: dict[str, bytes] = {
    "jpeg": PHOTO[:2]
    + _segment(0xE0, b"JFIF\0")
    + _segment(0xE1, b"Exif\0\0" + NOT_TIFF)
    + PHOTO[2:],
    "webp": _webp(exif=NOT_TIFF, size=1 << 20),
}


@pytest.mark.parametrize("kind", BESIDE_ANOTHER)
def test_exif_that_cannot_be_read_is_told_beside_another_broken_part(kind: str) -> None:
    picture = codec.decode(BESIDE_ANOTHER[kind], LIMITS)
    assert picture.size_px == (96, 64)
    assert NO_EXIF in source_metadata.read(picture.raw, picture.file).left_out


def test_an_avif_whose_exif_lies_nowhere_is_shown() -> None:
    data = bytearray(NAMED)
    (meta,) = (body for kind, body in avif.boxes_of(bytes(data), 0, len(data)) if kind == b"meta")
    kinds = avif.item_kinds(dict(avif.boxes_of(meta, 4, len(meta)))[b"iinf"])
    (number,) = (n for n, kind in kinds.items() if kind == b"Exif")
    at = data.index(b"iloc") + 4 + 8  # behind version, sizes and count: an entry takes 14 bytes
    entry = next(
        at + 14 * n
        for n in range(4)
        if data[at + 14 * n : at + 14 * n + 2] == number.to_bytes(2, "big")
    )
    data[entry + 6 : entry + 10] = b"\x7f\xff\xff\xff"
    picture = codec.decode(bytes(data), LIMITS)
    assert picture.icc_profile == P3_ICC
    assert LEFT_OUT in source_metadata.read(picture.raw, picture.file).left_out
