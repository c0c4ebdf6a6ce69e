"""ICC profiles of RGB data, made from primaries and a transfer curve.

A profile is a display profile of ICC.1:2010 (version 4.3) with a matrix and three curves, as small
as possible. The same arguments give the same bytes. The codes of primaries, white points and curves
are those of ITU-T H.273, tables 2 and 3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Point = tuple[float, float]  # CIE 1931 x and y


class Primaries(NamedTuple):
    red: Point
    green: Point
    blue: Point
    white: Point


_D65: Point = (0.3127, 0.3290)
_C: Point = (0.310, 0.316)
SRGB_PRIMARIES = Primaries((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65)
P3_PRIMARIES = Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65)
BT2020_PRIMARIES = Primaries((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65)
ADOBE_PRIMARIES = Primaries((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65)
_SMPTE_170M = Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65)
H273_PRIMARIES = {
    1: SRGB_PRIMARIES,
    4: Primaries((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
    5: Primaries((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: _SMPTE_170M,
    7: _SMPTE_170M,
    8: Primaries((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: BT2020_PRIMARIES,
    10: Primaries((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1 / 3, 1 / 3)),
    11: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: P3_PRIMARIES,
    22: Primaries((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
_D50_XYZ = (0.9642, 1.0, 0.8249)  # white of the profile connection space
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_TABLE_SIZE = 4096
_CREATED = (2020, 1, 1, 0, 0, 0)  # constant, so that equal arguments give equal bytes


def _fixed(number: float) -> bytes:
    """Encode a number as s15Fixed16. Raises ValueError for 32768 and above."""
    if not abs(number) < 32_768:
        raise ValueError(f"accepted: numbers below 32768; given {number}")
    return struct.pack(">i", round(number * 65_536))


def gamma_curve(exponent: float) -> bytes:
    """Return a curve whose light is the level to the power of `exponent`."""
    return struct.pack(">4sIHH", b"para", 0, 0, 0) + _fixed(exponent)


def power_curve(exponent: float, offset: float, slope: float, end: float) -> bytes:
    """Return a curve whose light is ((level + offset) / (1 + offset)) ** exponent.

    Below `end` its light is level / slope.
    """
    scale = 1 + offset
    numbers = (exponent, 1 / scale, offset / scale, 1 / slope, end)
    return struct.pack(">4sIHH", b"para", 0, 3, 0) + b"".join(map(_fixed, numbers))


def table_curve(light_of: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """Return any other curve, as a table of `light_of`.

    `light_of` maps levels in [0, 1] to light, which is clipped to [0, 1].
    """
    light = np.clip(light_of(np.linspace(0, 1, _TABLE_SIZE)), 0, 1)
    values = bytes(np.round(light * 65_535).astype(">u2"))
    return struct.pack(">4sII", b"curv", 0, _TABLE_SIZE) + values


SRGB_CURVE = power_curve(2.4, 0.055, 12.92, 0.04045)
_BT709_CURVE = power_curve(1 / 0.45, 0.099, 4.5, 0.081)
ADOBE_CURVE = gamma_curve(563 / 256)
H273_CURVES = {
    1: _BT709_CURVE,
    4: gamma_curve(2.2),
    5: gamma_curve(2.8),
    6: _BT709_CURVE,
    7: power_curve(1 / 0.45, 0.1115, 4.0, 0.0912),
    8: gamma_curve(1.0),
    9: table_curve(lambda v: np.where(v > 0, 10 ** (2 * (v - 1)), 0)),
    10: table_curve(lambda v: np.where(v > 0, 10 ** (2.5 * (v - 1)), 0)),
    11: _BT709_CURVE,
    12: _BT709_CURVE,
    13: SRGB_CURVE,
    14: _BT709_CURVE,
    15: _BT709_CURVE,
    17: table_curve(lambda v: 52.37 / 48 * v**2.6),
}


def profile(name: str, primaries: Primaries, curve: bytes) -> bytes:
    """Make a profile of RGB data. Raises ValueError for primaries that span no colour space."""
    white = _xyz(primaries.white)
    adapted = _adaptation(white)
    matrix = adapted @ rgb_to_xyz(primaries)
    if np.abs(matrix).max() > 8:
        raise ValueError("accepted: primaries that span a colour space")
    tags = [
        (b"desc", _text(name)),
        (b"cprt", _text("No copyright, use freely")),
        (b"wtpt", _xyz_tag(_D50_XYZ)),
        (b"chad", b"sf32\0\0\0\0" + b"".join(map(_fixed, adapted.ravel()))),
        *((kind, _xyz_tag(matrix[:, n])) for n, kind in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))),
        *((kind, curve) for kind in (b"rTRC", b"gTRC", b"bTRC")),
    ]
    return _file(tags)


def of_grey(grey: bytes) -> bytes | None:
    """Make a profile of RGB data by which equal levels look as in a whole profile of grey data.

    Return None if the grey profile does not describe its levels by one curve to XYZ.
    """
    curve = _tag(grey, b"kTRC")
    if grey[20:24] != b"XYZ " or not curve:
        return None
    return profile("Grey", SRGB_PRIMARIES, curve)


def rgb_to_xyz(primaries: Primaries) -> np.ndarray:
    """Return the (3, 3) matrix from linear RGB to XYZ, in which white has a Y of 1.

    Raises ValueError for primaries that span no colour space.
    """
    matrix = np.array([(x, y, 1 - x - y) for x, y in primaries[:3]]).T
    if abs(np.linalg.det(matrix)) < 1e-4:
        raise ValueError("accepted: three primaries that differ")
    scale = np.linalg.solve(matrix, _xyz(primaries.white))
    if (scale <= 0).any():
        raise ValueError("accepted: a white point inside the triangle of its primaries")
    return np.asarray(matrix * scale)


def _xyz(point: Point) -> np.ndarray:
    x, y = point
    if y <= 0:
        raise ValueError("accepted: a white point with y above 0")
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _adaptation(white: np.ndarray) -> np.ndarray:
    """Return the (3, 3) matrix from XYZ under `white` to XYZ under D50, by Bradford's method."""
    theirs, ours = _BRADFORD @ white, _BRADFORD @ np.array(_D50_XYZ)
    if (theirs <= 0).any():
        raise ValueError("accepted: a white point with a positive response of all three cones")
    return np.asarray(np.linalg.inv(_BRADFORD) @ np.diag(ours / theirs) @ _BRADFORD)


def _xyz_tag(xyz: np.ndarray | tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(float(each)) for each in xyz)


def _text(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return struct.pack(">4sIIIHHII", b"mluc", 0, 1, 12, 0x656E, 0x5553, len(encoded), 28) + encoded


def _file(tags: list[tuple[bytes, bytes]]) -> bytes:
    at = 128 + 4 + 12 * len(tags)
    places: dict[bytes, int] = {}
    table, data = [struct.pack(">I", len(tags))], []
    for kind, body in tags:
        if body not in places:  # the three curves share one body
            padded = body + bytes(-len(body) % 4)
            places[body] = at
            data.append(padded)
            at += len(padded)
        table.append(struct.pack(">4sII", kind, places[body], len(body)))
    header = struct.pack(
        ">I4sI4s4s4s6H4s4sIIIQI12s",
        at,
        b"\0\0\0\0",
        0x04300000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        *_CREATED,
        b"acsp",
        b"\0\0\0\0",
        *(0, 0, 0, 0, 0),
        _xyz_tag(_D50_XYZ)[8:],
    )
    return header.ljust(128, b"\0") + b"".join(table) + b"".join(data)


def _tag(profile_bytes: bytes, wanted: bytes) -> bytes | None:
    (count,) = struct.unpack_from(">I", profile_bytes, 128)
    for n in range(count):
        kind, at, length = struct.unpack_from(">4sII", profile_bytes, 132 + 12 * n)
        if kind == wanted:
            return profile_bytes[at : at + length]
    return None
