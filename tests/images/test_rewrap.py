"""Coded pixels in a new container. If these break, a picture that nobody wanted changed loses
quality, stands on its side, or takes along what its file hid."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from ace_tasks.images import codec
from ace_tasks.images.rewrap import avif
from ace_tasks.images.rewrap.formats import rewrap
from ace_tasks.images.rewrap.parts import Beside
from ace_tasks.settings import ImageLimits
from tests.support import hostile

LIMITS = ImageLimits()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SECRET = b"a secret that no picture needs"
KINDS = {
    "jpeg-colour": ("JPEG", "RGB", {"quality": 60}),
    "jpeg-grey": ("JPEG", "L", {}),
    "jpeg-cmyk": ("JPEG", "CMYK", {}),
    "jpeg-progressive": ("JPEG", "RGB", {"progressive": True}),
    "jpeg-restarts": ("JPEG", "RGB", {"restart_marker_blocks": 2}),
    "png-colour": ("PNG", "RGB", {}),
    "png-transparent": ("PNG", "RGBA", {}),
    "png-grey": ("PNG", "L", {}),
    "png-palette": ("PNG", "P", {}),
    "png-transparent-palette": ("PNG", "P", {"transparency": 3}),
    "png-bilevel": ("PNG", "1", {}),
    "webp-lossy": ("WEBP", "RGB", {"quality": 50}),
    "webp-lossy-transparent": ("WEBP", "RGBA", {"quality": 50}),
    "webp-lossless": ("WEBP", "RGB", {"lossless": True}),
    "webp-lossless-transparent": ("WEBP", "RGBA", {"lossless": True}),
    "avif-colour": ("AVIF", "RGB", {"quality": 50}),
    "avif-transparent": ("AVIF", "RGBA", {"quality": 50}),
}


def file(kind: str, width: int = 40, height: int = 32, seed: int = 0, **more: Any) -> bytes:
    format_, mode, options = KINDS[kind]
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(out, format_, **options, **more)
    return out.getvalue()


def stored(data: bytes) -> tuple[str, bytes]:
    """What Pillow finds stored, not turned: mode and pixels."""
    with Image.open(io.BytesIO(data)) as image:
        return image.mode, image.tobytes()


def beside(data: bytes, **more: Any) -> Beside:
    raw = codec.decode(data, LIMITS).raw
    assert raw is not None
    exif = None
    if raw.orientation != 1:
        turned = Image.Exif()
        turned[0x0112] = raw.orientation
        exif = turned.tobytes()
    return Beside(raw.size_px, XMP, exif, profile=raw.info.get("icc_profile"), **more)


def again(data: bytes, **more: Any) -> bytes:
    made = rewrap(data, codec.decode(data, LIMITS).format, beside(data, **more))
    assert made is not None
    return made


@pytest.mark.parametrize("kind", KINDS)
@given(
    width=st.integers(16, 70),
    height=st.integers(16, 70),
    seed=st.integers(0, 9),
    orientation=st.integers(1, 8),
    profile=st.booleans(),
)
def test_the_coded_pixels_and_the_look_stay(
    kind: str, width: int, height: int, seed: int, orientation: int, profile: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"icc_profile": PROFILE} if profile else {}
    data = file(kind, width, height, seed, exif=exif, **more)
    made = again(data)
    assert stored(made) == stored(data)
    before, after = codec.decode(data, LIMITS), codec.decode(made, LIMITS)
    for name in ("rgb", "alpha", "straight"):
        one, other = getattr(before, name), getattr(after, name)
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)
    assert after.icc_profile == before.icc_profile
    assert after.xmp == XMP
    with_none = rewrap(data, before.format, dataclasses.replace(beside(data), xmp=None, exif=None))
    assert with_none is not None
    assert XMP not in with_none


def test_the_very_bytes_of_a_scan_are_copied() -> None:
    data = file("jpeg-colour")
    assert again(data)[-200:] == data[-200:]
    data = file("webp-lossy")
    assert data[20:] in again(data)
    data = file("avif-colour")
    assert data[data.rindex(b"mdat") + 4 :] in again(data)


def deep() -> bytes:
    """16 bits a channel, in Adam7's seven passes as well."""
    rows = b"".join(b"\0" + bytes(range(96)) for _ in range(16))
    return hostile.png(size=(16, 16), bits=16, data=zlib.compress(rows))


def interlaced(width: int, height: int) -> bytes:
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = b""
    for left, top, step_x, step_y in passes:
        columns = len(range(left, width, step_x))
        rows += (b"\0" + bytes(columns * 3)) * len(range(top, height, step_y)) if columns else b""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return hostile.PNG + b"".join(hostile.chunk(*each) for each in parts)


def test_sixteen_bits_and_interlacing_stay() -> None:
    data = deep()
    assert data[data.index(b"IDAT") - 4 :] in again(data)
    for width, height in ((16, 16), (17, 31), (40, 19)):
        data = interlaced(width, height)
        assert data[data.index(b"IDAT") - 4 :] in again(data)


def test_resolution_is_the_containers_own() -> None:
    for kind in ("jpeg-colour", "png-colour"):
        with Image.open(io.BytesIO(again(file(kind), dpi=(300.0, 150.0)))) as image:
            assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
    with Image.open(io.BytesIO(again(file("jpeg-colour", dpi=(300, 300))))) as image:
        assert image.info["dpi"] == (300, 300)  # it stands where it stood


# ---------------------------------------------------------------- what must not go on

JFIF_THUMBNAIL = hostile.segment(
    0xE0, b"JFIF\0\1\1\0\0\1\0\1\4\4" + SECRET + bytes(48 - len(SECRET))
)
HIDING = {
    "jpeg-comment": hostile.jpeg(hostile.segment(0xFE, SECRET)),
    "jpeg-application-data": hostile.jpeg(
        hostile.segment(0xEC, SECRET), hostile.segment(0xED, b"Photoshop 3.0\0" + SECRET)
    ),
    "jpeg-exif-and-xmp": hostile.jpeg(
        hostile.segment(0xE1, b"Exif\0\0" + SECRET),
        hostile.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + SECRET),
        hostile.segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + SECRET),
    ),
    "jpeg-thumbnail": hostile.file("JPEG")[:2] + JFIF_THUMBNAIL + hostile.file("JPEG")[20:],
    "jpeg-second-thumbnail": hostile.jpeg(hostile.segment(0xE0, b"JFXX\0\x10" + SECRET)),
    "jpeg-archive-behind-it": hostile.file("JPEG") + b"PK\x03\x04" + SECRET,
    "jpeg-long-adobe-segment": hostile.jpeg(
        hostile.segment(0xEE, b"Adobe\0\x64\0\0\0\0\1" + SECRET)
    ),
    "jpeg-comment-between-scans": file("jpeg-progressive").replace(
        b"\xff\xda", hostile.segment(0xFE, SECRET) + b"\xff\xda"
    ),
    "png-texts": hostile.png(
        hostile.chunk(b"tEXt", b"Comment\0" + SECRET),
        hostile.chunk(b"zzZz", SECRET),
        hostile.chunk(b"tIME", bytes([7, 230, 1, 2, 3, 4, 5])),
    ),
    "png-file-behind-it": hostile.png() + SECRET,
    "png-data-behind-its-pixels": hostile.png(data=zlib.compress(bytes(193 * 64)) + SECRET),
    "webp-chunk": hostile.riff(
        hostile.canvas(32, 32), hostile.lossless_frame(), (b"EXIF", SECRET), (b"JUNK", SECRET)
    ),
    "webp-behind-it": file("webp-lossy") + SECRET,
    "avif-exif-and-xmp": file(
        "avif-colour", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0" + SECRET, xmp=SECRET
    ),
    "avif-box": file("avif-colour") + struct.pack(">I4s", 8 + len(SECRET), b"free") + SECRET,
}


@pytest.mark.parametrize("name", HIDING)
def test_what_a_file_hides_is_left_behind(name: str) -> None:
    data = HIDING[name]
    assert SECRET in data
    made = again(data)
    assert SECRET not in made
    assert stored(made) == stored(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            hostile.BOMBS["png-data-behind-the-picture"](), id="png-of-gigabytes-unpacked"
        ),
        pytest.param(hostile.png(hostile.chunk(b"PLTE", SECRET * 60)), id="png-long-palette"),
        pytest.param(hostile.png()[:-20], id="png-cut"),
        pytest.param(hostile.file("JPEG")[:100], id="jpeg-cut"),
        pytest.param(b"\xff\xd8\xff\xe0\0\0", id="jpeg-segment-of-no-length"),
        pytest.param(b"\xff\xd8" + SECRET, id="jpeg-junk"),
        pytest.param(b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\xff", id="webp-of-4-gb"),
        pytest.param(hostile.file("AVIF")[:200], id="avif-cut"),
        pytest.param(hostile.file("AVIF").replace(b"colrnclx", b"colrprof"), id="avif-bad-profile"),
        pytest.param(
            hostile.file("AVIF").replace(b"av01Color", b"hvc1Color"), id="avif-other-codec"
        ),
        pytest.param(b"", id="nothing"),
    ],
)
def test_an_odd_container_is_not_rewritten(data: bytes) -> None:
    formats = {b"\x89P": "png", b"\xff\xd8": "jpeg", b"RI": "webp"}
    format_ = formats.get(data[:2], "avif")
    assert rewrap(data, format_, Beside((64, 64), XMP)) is None


def test_damage_anywhere_raises_nothing() -> None:
    rng = np.random.default_rng(0)
    for kind in ("jpeg-colour", "png-palette", "webp-lossy-transparent", "avif-transparent"):
        whole = np.frombuffer(file(kind, xmp=XMP) if "png" not in kind else file(kind), np.uint8)
        format_ = kind.partition("-")[0]
        for _ in range(300):
            data = whole.copy()
            data[rng.integers(0, min(len(data), 900), 4)] = rng.integers(0, 256, 4)
            rewrap(data.tobytes(), format_, Beside((40, 32), XMP))
            rewrap(data[: rng.integers(0, len(data))].tobytes(), format_, Beside((40, 32), XMP))


def of_two_tiles() -> bytes:
    """An AVIF whose picture is a grid of two, as cameras write large ones, with a thumbnail."""
    tiles = [file("avif-colour", 64, 64, seed) for seed in (1, 2)]
    parsed = [avif._parse(dict(avif.boxes_of(each, 0, len(each)))[b"meta"], each) for each in tiles]
    first, second = (each.items[each.primary] for each in parsed)
    thumbnail = dataclasses.replace(second, data=second.data)
    size = avif._full(b"ispe", 0, 0, struct.pack(">II", 128, 64))
    others = [each for each in first.properties if each[1][4:8] in (b"pixi", b"colr")]
    layout = b"\0\0\0\1" + struct.pack(">HH", 128, 64)
    grid = avif._Item(b"grid", 0, in_idat=True, data=layout, properties=[(0, size), *others])
    for each in (first, second):
        each.flags = 1  # hidden: a part of the picture
    meta = avif._Meta(
        7,
        {2: first, 3: second, 7: grid, 8: thumbnail},
        [(b"dimg", 7, [2, 3]), (b"thmb", 8, [7])],
    )
    start = len(avif._box(b"ftyp", b"avif\0\0\0\0avifmif1miaf")) + len(avif._written(meta, 0)) + 8
    return b"".join(
        (
            avif._box(b"ftyp", b"avif\0\0\0\0avifmif1miaf"),
            avif._written(meta, start),
            avif._box(b"mdat", avif._data(meta, in_idat=False)),
        )
    )


def test_an_avif_of_tiles_keeps_them_and_loses_its_thumbnail() -> None:
    data = of_two_tiles()
    assert codec.decode(data, LIMITS).size_px == (128, 64)
    made = again(data)
    assert stored(made) == stored(data)
    assert codec.decode(made, LIMITS).xmp == XMP
    assert len(made) < len(data)
    assert b"thmb" in data
    assert b"thmb" not in made
