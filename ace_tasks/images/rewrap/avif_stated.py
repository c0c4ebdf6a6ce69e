"""The colours and depth that an AVIF header states, read without the pixels.

A rewrap must know every part of the file. This module passes over whatever is not asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ace_tasks.images.rewrap.avif import associations, boxes_of, item_kinds, item_references
from ace_tasks.images.rewrap.parts import CannotRewrap

_TILES, _TONE_MAPPED = b"dimg", b"tmap"


@dataclass(frozen=True)
class Stated:
    """The colours and depth that an AVIF header states.

    `cicp` holds colour primaries, transfer characteristics and matrix coefficients of H.273; None
    means that readers take sRGB. `has_gain_map` means that a second picture makes an HDR picture of
    it.
    """

    cicp: tuple[int, int, int] | None = None
    bits: int = 8
    is_grey: bool = False
    has_gain_map: bool = False
    profile: bytes | None = None  # ICC, for any kind of data


def stated(file: bytes) -> Stated | None:
    """Return what the header states, or None if the file's boxes cannot be read."""
    try:
        return _stated(_first_boxes(file))
    except (CannotRewrap, IndexError, KeyError, struct.error):  # cut short, or a part is missing
        return None


def _first_boxes(file: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for kind, body in boxes_of(file, 0, len(file)):
        found.setdefault(kind, body)
        if kind == b"meta":
            break
    return dict(boxes_of(found[b"meta"], 4, len(found[b"meta"])))


def _stated(meta: dict[bytes, bytes]) -> Stated:
    primary = meta[b"pitm"]
    number = int.from_bytes(primary[4:], "big")
    kinds = item_kinds(meta[b"iinf"])
    pictures = {number}
    for kind, source, to in item_references(meta.get(b"iref")):
        if kind == _TILES and source == number:
            pictures |= set(to)
    cicp, profile, bits, is_grey = None, None, 8, False
    for item, kind, content in _properties(meta[b"iprp"]):
        if item not in pictures:
            continue
        if kind == b"colr" and content[:4] == b"nclx" and (item == number or cicp is None):
            cicp = struct.unpack_from(">HHH", content, 4)
        elif kind == b"colr" and content[:4] in (b"prof", b"rICC"):
            profile = content[4:]
        elif kind == b"av1C":
            bits = max(bits, _bits(content))
            is_grey = bool(content[2] & 0x10)
    return Stated(cicp, bits, is_grey, _TONE_MAPPED in kinds.values(), profile)


def _properties(body: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    for item, _, found in associations(body):
        if found is not None:
            yield item, *found


def _bits(av1c: bytes) -> int:
    """Return the bit depth from two flags after profile, level and tier (AV1 in ISOBMFF 2.3)."""
    return (12 if av1c[2] & 0x20 else 10) if av1c[2] & 0x40 else 8
