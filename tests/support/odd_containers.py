"""Files as Pillow writes them, and one change of structure: a part moved, cut, made too long, named
otherwise, put into another …

A part is a PNG chunk, a JPEG segment, a WebP chunk or an AVIF box. `parts_of` takes a file apart
and `joined` puts it together again; `changes` draws what is done in between.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
SIZE = (48, 32)
# Something that says it is a C2PA manifest, as a JPEG has it.
JUMBF = (
    b"JP\0\1\0\0\0\1\0\0\0\x26jumb\0\0\0\x1ejumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\3c2pa\0"
)


@dataclass(frozen=True)
class Part:
    """A part. `kind` is its type, or a JPEG marker's one byte. `after` follows a JPEG's segment."""

    kind: bytes
    body: bytes
    length: int | None = None  # as its header states it, if not as it is
    checksum: int | None = None  # of a PNG chunk, likewise
    after: bytes = b""


@dataclass(frozen=True)
class Parts:
    format: str
    parts: tuple[Part, ...]
    before: bytes = b""  # a signature
    after: bytes = b""  # behind the file


# ---------------------------------------------------------------- apart, and together


def parts_of(format_: str, data: bytes) -> Parts:
    """Take a file apart that Pillow wrote."""
    return {"png": _png, "jpeg": _jpeg, "webp": _webp, "avif": _avif}[format_](data)


def joined(file: Parts) -> bytes:
    body = b"".join(map(_WRITERS[file.format], file.parts))
    before = file.before
    if file.format == "webp":
        before = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP"
    return before + body + file.after


def _png(data: bytes) -> Parts:
    parts, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        parts.append(Part(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return Parts("png", tuple(parts), data[:8])


def _jpeg(data: bytes) -> Parts:
    parts, at = [], 2
    while at < len(data):
        kind = data[at + 1 : at + 2]
        if kind == b"\xd9":
            return Parts("jpeg", (*parts, Part(kind, b"", length=-1)), data[:2], data[at + 2 :])
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        end = after = at + 2 + length
        if kind == b"\xda":
            while data[after] != 0xFF or data[after + 1] in (0, *range(0xD0, 0xD8)):
                after += 1
        parts.append(Part(kind, data[at + 4 : end], after=data[end:after]))
        at = after
    return Parts("jpeg", tuple(parts), data[:2])


def _webp(data: bytes) -> Parts:
    parts, at = [], 12
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        parts.append(Part(data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return Parts("webp", tuple(parts))


def _avif(data: bytes) -> Parts:
    parts, at = [], 0
    while at < len(data):
        length = max(8, int.from_bytes(data[at : at + 4], "big"))
        parts.append(Part(data[at + 4 : at + 8], data[at + 8 : at + length]))
        at += length
    return Parts("avif", tuple(parts))


def _chunk(part: Part) -> bytes:
    length = len(part.body) if part.length is None else part.length
    checksum = zlib.crc32(part.kind + part.body) if part.checksum is None else part.checksum
    return (
        struct.pack(">I", length & 0xFFFFFFFF) + part.kind + part.body + struct.pack(">I", checksum)
    )


def _segment(part: Part) -> bytes:
    if part.kind == b"\xd9" and part.length == -1:
        return b"\xff\xd9"
    length = len(part.body) + 2 if part.length is None else part.length
    return b"\xff" + part.kind + struct.pack(">H", length & 0xFFFF) + part.body + part.after


def _riff(part: Part) -> bytes:
    length = len(part.body) if part.length is None else part.length
    padding = b"\0" * (len(part.body) % 2)
    return part.kind + struct.pack("<I", length & 0xFFFFFFFF) + part.body + padding


def _box(part: Part) -> bytes:
    length = len(part.body) + 8 if part.length is None else part.length
    return struct.pack(">I", length & 0xFFFFFFFF) + part.kind + part.body


_WRITERS: dict[str, Callable[[Part], bytes]] = {
    "png": _chunk,
    "jpeg": _segment,
    "webp": _riff,
    "avif": _box,
}

# ---------------------------------------------------------------- files


def _profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _long_profile() -> bytes:
    """It takes three segments of a JPEG."""
    made = bytearray(_profile())
    made += np.random.default_rng(1).bytes(150_000)
    made[0:4] = struct.pack(">I", len(made))
    return bytes(made)


def exif(orientation: bytes = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)) -> bytes:
    """TIFF with a copyright and this entry of 12 bytes."""
    text = b"(c) Shop\0"
    copyright_ = struct.pack(">HHII", 0x8298, 2, len(text), 38)
    return b"MM\0*\0\0\0\x08\0\x02" + orientation + copyright_ + bytes(4) + text


def _saved(format_: str, mode: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 4), np.uint8)
    pixels[8:24, 8:40] = (200, 30, 60, 255)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) << 8)
    elif mode != "RGBA":
        image = image.convert(mode)
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def _more_frames(mode: str) -> dict[str, Any]:
    return {"save_all": True, "append_images": [Image.new(mode, SIZE, "red")]}


def _text() -> PngInfo:
    info = PngInfo()
    info.add_text("Copyright", "Shop")
    info.add_text("Comment", "a" * 200, zip=True)
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add_itxt("Title", "雪", zip=True)
    return info


_FILES: dict[str, Callable[[], bytes]] = {
    "png": lambda: _saved("PNG", "RGB"),
    "png-told": lambda: _saved(
        "PNG", "RGB", icc_profile=_profile(), exif=exif(), pnginfo=_text(), dpi=(300, 300)
    ),
    "png-transparent": lambda: _saved("PNG", "RGBA", exif=exif()),
    "png-palette": lambda: _saved("PNG", "P", transparency=3),
    "png-grey": lambda: _saved("PNG", "L", transparency=9),
    "png-16-bit": lambda: _saved("PNG", "I;16"),
    "png-bilevel": lambda: _saved("PNG", "1"),
    "png-animated": lambda: _saved("PNG", "RGB", **_more_frames("RGB")),
    "jpeg": lambda: _saved("JPEG", "RGB"),
    "jpeg-told": lambda: _saved(
        "JPEG",
        "RGB",
        icc_profile=_long_profile(),
        xmp=XMP,
        exif=b"Exif\0\0" + exif(),
        comment=b"no",
        dpi=(300, 300),
    ),
    "jpeg-progressive": lambda: _saved("JPEG", "RGB", progressive=True, exif=b"Exif\0\0" + exif()),
    "jpeg-restarts": lambda: _saved("JPEG", "RGB", restart_marker_blocks=2, subsampling="4:2:0"),
    "jpeg-two-views": lambda: _saved("MPO", "RGB", **_more_frames("RGB")),
    "jpeg-grey": lambda: _saved("JPEG", "L"),
    "jpeg-cmyk": lambda: _saved("JPEG", "CMYK"),
    "webp": lambda: _saved("WEBP", "RGB", quality=60),
    "webp-told": lambda: _saved(
        "WEBP", "RGB", icc_profile=_profile(), exif=b"Exif\0\0" + exif(), xmp=XMP
    ),
    "webp-transparent": lambda: _saved("WEBP", "RGBA", quality=60),
    "webp-lossless": lambda: _saved("WEBP", "RGBA", lossless=True, exif=b"Exif\0\0" + exif()),
    "webp-animated": lambda: _saved("WEBP", "RGBA", **_more_frames("RGBA")),
    "avif": lambda: _saved("AVIF", "RGB", speed=10),
    "avif-told": lambda: _saved(
        "AVIF", "RGB", speed=10, icc_profile=_profile(), exif=exif(), xmp=XMP
    ),
    "avif-transparent": lambda: _saved("AVIF", "RGBA", speed=10),
    "avif-animated": lambda: _saved("AVIF", "RGB", speed=10, **_more_frames("RGB")),
}
_KINDS = {
    "png": [
        b"IHDR",
        b"PLTE",
        b"tRNS",
        b"IDAT",
        b"IEND",
        b"iCCP",
        b"sRGB",
        b"gAMA",
        b"cHRM",
        b"cICP",
        b"eXIf",
        b"tEXt",
        b"zTXt",
        b"iTXt",
        b"pHYs",
        b"acTL",
        b"fcTL",
        b"fdAT",
        b"sBIT",
        b"bKGD",
        b"tIME",
        b"caBX",
        b"teSt",
        b"TEST",
        b"\0\0\0\0",
    ],
    "jpeg": [
        bytes([code])
        for code in (
            0x00,
            0x01,
            0xC0,
            0xC1,
            0xC2,
            0xC3,
            0xC4,
            0xC8,
            0xCC,
            0xD0,
            0xD8,
            0xD9,
            0xDA,
            0xDB,
            0xDC,
            0xDD,
            0xDE,
            0xE0,
            0xE1,
            0xE2,
            0xEB,
            0xED,
            0xEE,
            0xFE,
            0xFF,
        )
    ],
    "webp": [
        b"VP8 ",
        b"VP8L",
        b"VP8X",
        b"ALPH",
        b"ANIM",
        b"ANMF",
        b"ICCP",
        b"EXIF",
        b"XMP ",
        b"C2PA",
        b"teSt",
    ],
    "avif": [
        b"ftyp",
        b"meta",
        b"mdat",
        b"free",
        b"uuid",
        b"moov",
        b"iloc",
        b"ipma",
        b"ispe",
        b"irot",
        b"imir",
        b"colr",
        b"clap",
        b"pixi",
        b"av1C",
        b"iref",
        b"pitm",
        b"hdlr",
        b"teSt",
        b"jumb",
    ],
}
_WHOLE_BOXES = frozenset({b"meta", b"iprp", b"ipco", b"iinf"})


@cache
def file(name: str) -> bytes:
    return _FILES[name]()


def names(format_: str) -> list[str]:
    return [each for each in _FILES if each.partition("-")[0] == format_]


# ---------------------------------------------------------------- changes

_ODD_LENGTHS = st.one_of(st.integers(0, 70), st.sampled_from([0x7FFFFFFF, 0xFFFFFFFF, 1 << 16]))


@dataclass(frozen=True)
class Changed:
    """A changed file, told by what was done rather than by its bytes."""

    name: str
    changes: tuple[str, ...]
    data: bytes = field(repr=False)


@st.composite
def changed(draw: Any, format_: str) -> Changed:
    """A file of this format with one change of its structure, now and then two."""
    name = draw(st.sampled_from(names(format_)))
    data, done = file(name), []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        try:
            whole = parts_of(format_, data)
        except IndexError:  # the first change left nothing that can be taken apart
            break
        if not whole.parts:
            break
        change = draw(st.sampled_from(CHANGES))
        done.append(change.__name__)
        data = change(draw, whole, data)
    return Changed(name, tuple(done), data)


def _replaced(whole: Parts, at: int, *parts: Part) -> Parts:
    return dataclasses.replace(whole, parts=(*whole.parts[:at], *parts, *whole.parts[at + 1 :]))


def _drawn(draw: Any, whole: Parts) -> tuple[int, Part]:
    at = draw(st.integers(0, max(0, len(whole.parts) - 1)))
    return at, whole.parts[at]


def move(draw: Any, whole: Parts, data: bytes) -> bytes:
    at, part = _drawn(draw, whole)
    rest = [*whole.parts[:at], *whole.parts[at + 1 :]]
    rest.insert(draw(st.integers(0, len(rest))), part)
    return joined(dataclasses.replace(whole, parts=tuple(rest)))


def repeat(draw: Any, whole: Parts, data: bytes) -> bytes:
    at, part = _drawn(draw, whole)
    return joined(_replaced(whole, at, *[part] * draw(st.sampled_from([2, 3, 40]))))


def drop(draw: Any, whole: Parts, data: bytes) -> bytes:
    return joined(_replaced(whole, _drawn(draw, whole)[0]))


def cut_file(draw: Any, whole: Parts, data: bytes) -> bytes:
    return data[: draw(st.integers(0, len(data)))]


def cut_part(draw: Any, whole: Parts, data: bytes) -> bytes:
    at, part = _drawn(draw, whole)
    body = part.body[: draw(st.integers(0, len(part.body)))]
    return joined(_replaced(whole, at, dataclasses.replace(part, body=body)))


def wrong_length(draw: Any, whole: Parts, data: bytes) -> bytes:
    at, part = _drawn(draw, whole)
    near = st.integers(-9, 9).map(lambda more: max(0, len(part.body) + more))
    length = draw(st.one_of(near, _ODD_LENGTHS))
    return joined(_replaced(whole, at, dataclasses.replace(part, length=length)))


def wrong_checksum(draw: Any, whole: Parts, data: bytes) -> bytes:
    at, part = _drawn(draw, whole)
    return joined(_replaced(whole, at, dataclasses.replace(part, checksum=1)))


def too_long(draw: Any, whole: Parts, data: bytes) -> bytes:
    at, part = _drawn(draw, whole)
    times = draw(st.sampled_from([1, 300, 65_000, 1_200_000]))
    more = draw(st.sampled_from([b"\0", b"\xff", b"A"])) * times
    return joined(_replaced(whole, at, dataclasses.replace(part, body=part.body + more)))


def rename(draw: Any, whole: Parts, data: bytes) -> bytes:
    at, part = _drawn(draw, whole)
    kind = draw(st.sampled_from(_KINDS[whole.format]))
    return joined(_replaced(whole, at, dataclasses.replace(part, kind=kind)))


def put_in(draw: Any, whole: Parts, data: bytes) -> bytes:
    """A part that was not there."""
    at, part = _drawn(draw, whole)
    kind = draw(st.sampled_from(_KINDS[whole.format]))
    new = Part(kind, draw(st.one_of(st.binary(max_size=40), st.sampled_from([part.body, JUMBF]))))
    return joined(_replaced(whole, at, new, part))


def nest(draw: Any, whole: Parts, data: bytes) -> bytes:
    """A part within a part, or the whole file."""
    at, part = _drawn(draw, whole)
    inner = draw(st.sampled_from([_WRITERS[whole.format](part), data]))
    prefix = draw(st.sampled_from([b"", part.body[:12]]))
    return joined(_replaced(whole, at, dataclasses.replace(part, body=prefix + inner)))


def put_behind(draw: Any, whole: Parts, data: bytes) -> bytes:
    other = st.sampled_from([file("png"), file("jpeg-told"), file("webp"), file("avif"), data])
    return data + draw(st.one_of(st.binary(min_size=1, max_size=64), other))


def change_bytes(draw: Any, whole: Parts, data: bytes) -> bytes:
    """A few bytes of one part, its checksum made anew."""
    at, part = _drawn(draw, whole)
    body = bytearray(part.body)
    for _ in range(draw(st.integers(1, 4)) if body else 0):
        body[draw(st.integers(0, min(len(body), 200) - 1))] = draw(st.integers(0, 255))
    return joined(_replaced(whole, at, dataclasses.replace(part, body=bytes(body))))


def change_inner_box(draw: Any, whole: Parts, data: bytes) -> bytes:
    """Make the same changes to a box within a box of an AVIF."""
    if whole.format != "avif":
        return change_bytes(draw, whole, data)
    at = next((n for n, each in enumerate(whole.parts) if each.kind == b"meta"), None)
    if at is None:
        return change_bytes(draw, whole, data)
    body = whole.parts[at].body
    inner = _changed_boxes(draw, body[4:], depth=draw(st.integers(0, 2)))
    return joined(_replaced(whole, at, dataclasses.replace(whole.parts[at], body=body[:4] + inner)))


def _changed_boxes(draw: Any, data: bytes, depth: int) -> bytes:
    whole = _avif(data)
    nested = [n for n, each in enumerate(whole.parts) if each.kind in (b"iprp", b"ipco")]
    if depth and nested:
        at = draw(st.sampled_from(nested))
        body = _changed_boxes(draw, whole.parts[at].body, depth - 1)
        return joined(_replaced(whole, at, dataclasses.replace(whole.parts[at], body=body)))
    if not whole.parts:
        return data
    change = draw(
        st.sampled_from(
            [move, repeat, drop, cut_part, wrong_length, too_long, rename, put_in, change_bytes]
        )
    )
    return bytes(change(draw, whole, data))


def odd_orientation(draw: Any, whole: Parts, data: bytes) -> bytes:
    """EXIF whose orientation is of any type, count and value, in the place of the file's own."""
    kind = draw(st.integers(0, 13))
    count = draw(st.sampled_from([0, 1, 1, 1, 2, 3, 0xFFFFFFFF]))
    value = draw(
        st.one_of(
            st.binary(min_size=4, max_size=4),
            st.integers(0, 9).map(lambda n: struct.pack(">HH", n, 0)),
        )
    )
    tiff = exif(struct.pack(">HHI", 0x0112, kind, count) + value)
    kinds = {"png": b"eXIf", "jpeg": b"\xe1", "webp": b"EXIF"}
    if whole.format == "avif":
        return data.replace(exif(), tiff)
    body = tiff if whole.format == "png" else b"Exif\0\0" + tiff
    kept = tuple(
        each
        for each in whole.parts
        if each.kind != kinds[whole.format] or not each.body.startswith((b"Exif", b"MM"))
    )
    at = 1 if whole.format != "webp" else len(kept)
    parts = (*kept[:at], Part(kinds[whole.format], body), *kept[at:])
    return joined(dataclasses.replace(whole, parts=parts))


def odd_profile_pieces(draw: Any, whole: Parts, data: bytes) -> bytes:
    """Spoil a JPEG's profile in several segments: some missing, or other numbers and counts."""
    pieces = [n for n, each in enumerate(whole.parts) if each.body.startswith(b"ICC_PROFILE\0")]
    if whole.format != "jpeg" or not pieces:
        return move(draw, whole, data)
    if draw(st.booleans()):
        gone = draw(st.sets(st.sampled_from(pieces), min_size=1))
        kept = tuple(each for n, each in enumerate(whole.parts) if n not in gone)
        return joined(dataclasses.replace(whole, parts=kept))
    at = draw(st.sampled_from(pieces))
    number, count = draw(st.integers(0, 255)), draw(st.sampled_from([0, 1, 2, 3, 4, 255]))
    body = b"ICC_PROFILE\0" + bytes([number, count]) + whole.parts[at].body[14:]
    return joined(_replaced(whole, at, dataclasses.replace(whole.parts[at], body=body)))


CHANGES = [
    move,
    repeat,
    drop,
    cut_file,
    cut_part,
    wrong_length,
    wrong_checksum,
    too_long,
    rename,
    put_in,
    nest,
    put_behind,
    change_bytes,
    change_bytes,
    change_inner_box,
    odd_orientation,
    odd_profile_pieces,
]
