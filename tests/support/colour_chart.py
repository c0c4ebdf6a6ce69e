"""One chart of colours in every encoding that a still file knows, and what a reader sees of it.

Nothing here is of the code under test: profiles are written and read by hand, and the matrices are
the published ones (Lindbloom for sRGB and Adobe RGB, Apple's profile for Display P3), adapted to
D50.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms

Curve = Callable[[np.ndarray], np.ndarray]

SRGB_D50 = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
ADOBE_D50 = np.array(
    [
        [0.6097559, 0.2052401, 0.1492240],
        [0.3111242, 0.6256560, 0.0632197],
        [0.0194811, 0.0608902, 0.7448387],
    ]
)
P3_D50 = np.array(
    [
        [0.5151187, 0.2919778, 0.1571035],
        [0.2411892, 0.6922441, 0.0665668],
        [-0.0010505, 0.0418791, 0.7840713],
    ]
)

GAMUTS = {"sRGB": SRGB_D50, "Adobe": ADOBE_D50, "P3": P3_D50}


def srgb_light(level: np.ndarray) -> np.ndarray:
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def bt709_light(level: np.ndarray) -> np.ndarray:
    return np.where(level < 0.081, level / 4.5, ((level + 0.099) / 1.099) ** (1 / 0.45))


def power(exponent: float) -> Curve:
    return lambda level: level**exponent


def seen(rgb: np.ndarray, to_xyz_d50: np.ndarray, light: Curve) -> np.ndarray:
    """Return what is seen of (H, W, 3) uint8, as levels of sRGB, float, 0 to 255."""
    xyz = light(rgb / 255) @ to_xyz_d50.T
    linear = np.clip(xyz @ np.linalg.inv(SRGB_D50).T, 0, 1)
    level = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(255 * level)


@dataclass(frozen=True)
class Encoding:
    """A file, with gamut and light of its levels. `converted` is what a record must say."""

    file: bytes
    gamut: str = "sRGB"
    light: Curve = srgb_light
    converted: tuple[str, ...] = ()

    def seen(self) -> np.ndarray:
        return seen(levels(self.file), GAMUTS[self.gamut], self.light)


def levels(file: bytes) -> np.ndarray:
    """Return the levels as they are stored, (H, W, 3) uint8."""
    with Image.open(io.BytesIO(file)) as image:
        assert image.mode in ("L", "RGB")
        return np.asarray(image.convert("RGB"))


def seen_in(file: bytes) -> np.ndarray:
    """Return what a colour-managed reader sees of an RGB file with an ICC profile, or of sRGB."""
    with Image.open(io.BytesIO(file)) as image:
        profile = image.info.get("icc_profile")
    if not profile:
        return seen(levels(file), SRGB_D50, srgb_light)
    tags = _tags(profile)
    columns = [
        np.array(struct.unpack_from(">3i", tags[k], 8)) / 65536 for k in (b"rXYZ", b"gXYZ", b"bXYZ")
    ]
    assert tags[b"rTRC"] == tags[b"gTRC"] == tags[b"bTRC"]
    return seen(levels(file), np.array(columns).T, _curve(tags[b"rTRC"]))


def _tags(profile: bytes) -> dict[bytes, bytes]:
    assert profile[12:24] == b"mntrRGB XYZ "
    assert len(profile) == int.from_bytes(profile[:4], "big")
    (count,) = struct.unpack_from(">I", profile, 128)
    places = [struct.unpack_from(">4sII", profile, 132 + 12 * n) for n in range(count)]
    return {kind: profile[at : at + length] for kind, at, length in places}


def _curve(tag: bytes) -> Curve:
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 1:
            return power(struct.unpack_from(">H", tag, 12)[0] / 256)
        table = np.frombuffer(tag, ">u2", count, 12) / 65535
        return lambda level: np.interp(level, np.linspace(0, 1, count), table)
    kind, _, *numbers = struct.unpack(f">HH{(len(tag) - 12) // 4}i", tag[8:])
    g, *more = (each / 65536 for each in numbers)
    if kind == 0:
        return power(g)
    assert kind == 3
    a, b, c, d = more
    return lambda level: np.where(level >= d, np.maximum(a * level + b, 0) ** g, c * level)


# ---------------------------------------------------------------- files


def chart() -> np.ndarray:
    """Ramps of grey and of the primaries, and a cube of 27 colours; (64, 96, 3) uint8."""
    ramp = np.linspace(0, 255, 96).round().astype(np.uint8)
    rows = [
        np.stack([ramp * on for on in bits], -1)
        for bits in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    steps = np.array([20, 128, 230], np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 3)
    patches = np.resize(cube.repeat(3, axis=0), (96, 3))
    return np.stack([*rows, patches]).repeat(13, axis=0)[:64].copy()


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: tuple[bytes, bytes], pixels: np.ndarray | None = None) -> bytes:
    """The chart with chunks behind the header."""
    data = encoded(chart() if pixels is None else pixels, "PNG")
    return data[:33] + b"".join(chunk(*each) for each in chunks) + data[33:]


def avif(primaries: int, transfer: int) -> bytes:
    data = encoded(chart(), "AVIF", quality=100, subsampling="4:4:4")
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def exif(colour_space: int, index: str | None = None) -> Image.Exif:
    made = Image.Exif()
    inner = made.get_ifd(0x8769)
    inner[0xA001] = colour_space
    if index:
        inner[0xA005] = {1: index}
    return made


def icc(
    space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ", kind: bytes = b"mntr"
) -> bytes:
    """A profile of version 2."""
    at, table, body = 132 + 12 * len(tags), b"", b""
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"\0\0\0\0", 0x02100000, kind, space, pcs)
    date = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
    white = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    head += date + b"acsp" + bytes(28) + white
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def gamma_tag(gamma: float) -> bytes:
    return struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256))


def grey_icc(gamma: float) -> bytes:
    return icc(b"GRAY", {b"wtpt": _xyz((0.9642, 1, 0.8249)), b"kTRC": gamma_tag(gamma)})


def rgb_icc(to_xyz_d50: np.ndarray, curve: bytes) -> bytes:
    tags = {name: _xyz(to_xyz_d50[:, n]) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return icc(b"RGB ", {b"wtpt": _xyz((0.9642, 1, 0.8249))} | tags | curves)


def _xyz(values: Any) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *(round(float(each) * 65536) for each in values))


def srgb_table() -> bytes:
    values = np.round(srgb_light(np.linspace(0, 1, 1024)) * 65535).astype(">u2")
    return struct.pack(">4sII", b"curv", 0, 1024) + values.tobytes()


def cmyk_icc() -> bytes:
    """Ink to Lab by a table of its 16 corners, as printers' profiles do by larger ones."""
    corners = []
    for c, m, y, k in np.ndindex(2, 2, 2, 2):
        lightness = 250 * (1 - 0.85 * k) * (1 - 0.2 * (c + m + y))
        corners += [round(lightness), 128 - 35 * c + 60 * m - 5 * y, 128 - 40 * c - 5 * m + 70 * y]
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    table = struct.pack(">4sIBBBx", b"mft1", 0, 4, 3, 2) + matrix
    table += identity * 4 + bytes(corners) + identity * 3
    return icc(b"CMYK", {b"wtpt": _xyz((0.9642, 1, 0.8249)), b"A2B0": table}, b"Lab ", b"prtr")


def cmyk_file() -> bytes:
    out = io.BytesIO()
    Image.fromarray(chart()).convert("CMYK").save(out, "JPEG", quality=100, icc_profile=cmyk_icc())
    return out.getvalue()


def cmyk_seen(file: bytes) -> np.ndarray:
    """Return what LittleCMS sees, (H, W, 3) float."""
    with Image.open(io.BytesIO(file)) as image:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        shown = ImageCms.profileToProfile(
            image,
            profile,
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOOPTIMIZE,
        )
    return np.asarray(shown, np.float64)


def _points(*xy: float) -> bytes:
    return struct.pack(">8I", *(round(each * 100_000) for each in xy))


ADOBE_POINTS = _points(0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
GREY = chart()[..., 0]
P3_ICC = rgb_icc(P3_D50, srgb_table())
ADOBE_ICC = rgb_icc(ADOBE_D50, gamma_tag(563 / 256))
HIGH = {"quality": 100, "subsampling": 0}


def _gamma(exponent: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(100_000 / exponent))


def _packed(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"any\0\0" + zlib.compress(profile)


ENCODINGS: dict[str, Encoding] = {
    "srgb-untagged": Encoding(png()),
    "srgb-chunk-beats-gama": Encoding(png((b"sRGB", b"\0"), _gamma(1.0))),
    "srgb-by-exif": Encoding(encoded(chart(), "JPEG", exif=exif(1, "R98"), **HIGH)),
    "p3-by-icc": Encoding(encoded(chart(), "WEBP", lossless=True, icc_profile=P3_ICC), "P3"),
    "p3-by-cicp": Encoding(png((b"cICP", bytes([12, 13, 0, 1]))), "P3"),
    "p3-by-cicp-beats-icc": Encoding(
        png((b"cICP", bytes([12, 13, 0, 1])), _packed(ADOBE_ICC)), "P3"
    ),
    "p3-by-nclx": Encoding(avif(12, 13), "P3"),
    "bt709-by-nclx": Encoding(avif(1, 1), "sRGB", bt709_light),
    "adobe-by-icc-beats-srgb": Encoding(
        png(_packed(ADOBE_ICC), (b"sRGB", b"\0")), "Adobe", power(563 / 256)
    ),
    "adobe-by-exif-r03": Encoding(
        encoded(chart(), "JPEG", exif=exif(0xFFFF, "R03"), **HIGH), "Adobe", power(563 / 256)
    ),
    "adobe-by-exif-2": Encoding(
        encoded(chart(), "WEBP", lossless=True, exif=exif(2)), "Adobe", power(563 / 256)
    ),
    "gama": Encoding(png(_gamma(1.0)), light=power(1.0)),
    "gama-chrm": Encoding(png(_gamma(1.8), (b"cHRM", ADOBE_POINTS)), "Adobe", power(1.8)),
    "chrm": Encoding(png((b"cHRM", ADOBE_POINTS)), "Adobe"),
    "grey-by-icc": Encoding(
        encoded(GREY, "JPEG", quality=100, icc_profile=grey_icc(1.0)), light=power(1.0)
    ),
    "grey-by-icc-png": Encoding(
        encoded(GREY, "PNG", icc_profile=grey_icc(1.8)), light=power(461 / 256)
    ),
    "grey-by-gama": Encoding(png(_gamma(1.4), pixels=GREY), light=power(1.4)),
    "uncalibrated": Encoding(
        encoded(chart(), "JPEG", exif=exif(0xFFFF), **HIGH),
        converted=("colours that EXIF calls uncalibrated, taken for sRGB",),
    ),
    "unknown-codes": Encoding(
        png((b"cICP", bytes([99, 13, 0, 1]))),
        converted=("unknown colour codes 99/13 of cICP, taken for sRGB",),
    ),
    "gama-of-nothing": Encoding(
        png((b"gAMA", bytes(4))),
        converted=("a gAMA or cHRM that cannot be used, taken for sRGB",),
    ),
}
HDR = {
    "pq-by-cicp": (
        png((b"cICP", bytes([9, 16, 0, 1]))),
        "HDR (PQ) to sRGB: light above SDR white is clipped",
    ),
    "pq-by-nclx": (avif(9, 16), "HDR (PQ) to sRGB: light above SDR white is clipped"),
    "hlg-by-nclx": (avif(9, 18), "HDR (HLG) to sRGB: light above SDR white is clipped"),
}
