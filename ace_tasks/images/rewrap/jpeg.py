"""JPEG: tables, frame and scans are copied; the application segments are written anew.

    SOI, JFIF, EXIF, XMP, profile, Adobe's transform, (tables, frame, scan, data)…, EOI

ITU-T T.81, annex B. Everything after the end is left behind: further views, a gain map, an
archive.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ace_tasks.images.rewrap.parts import Beside, CannotRewrap

_SOI, _EOI, _SOS, _APP0, _COM = b"\xff\xd8", b"\xff\xd9", 0xDA, 0xE0, 0xFE
_APPLICATION = range(0xE0, 0xF0)
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM and restart markers have no length
_MARKER = re.compile(rb"\xff+[\x01-\xfe]")
AFTER_DATA = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # restarts are part of the data
XMP, PROFILE = b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_MAX_BODY = 65_533
_PROFILE_PART = _MAX_BODY - len(PROFILE) - 2
_MAX_MORE_XMP = 4 * 2**20


class Segment(NamedTuple):
    marker: int
    body: bytes
    data: bytes  # entropy-coded, after the start of a scan


def segments(file: bytes) -> Iterator[Segment]:
    """Yield every segment up to the end of the first picture. Raises CannotRewrap."""
    if not file.startswith(_SOI):
        raise CannotRewrap
    at = len(_SOI)
    while found := _MARKER.match(file, at):
        at, marker = found.end(), file[found.end() - 1]
        if marker == _EOI[1]:
            return
        if marker in _ALONE:
            continue
        length = int.from_bytes(file[at : at + 2], "big")
        if length < 2 or at + length > len(file):
            raise CannotRewrap
        body, at = file[at + 2 : at + length], at + length
        data = b""
        if marker == _SOS:
            end = AFTER_DATA.search(file, at)
            data = file[at : end.start() if end else len(file)]
            at += len(data)
        yield Segment(marker, body, data)
    if at < len(file):  # bytes outside segments
        raise CannotRewrap


def rewrap(file: bytes, beside: Beside) -> bytes:
    """Copy the coded pixels into a new file with the metadata of `beside`. Raises CannotRewrap."""
    ours: list[bytes] = []
    coded, scans = [], 0
    for marker, body, data in segments(file):
        if marker == _APP0 and body.startswith(b"JFIF\0") and len(body) >= 12 and not ours:
            ours.append(_segment(_APP0, _jfif(body, beside)))
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            coded.append(_segment(marker, body[:12]))  # states how colours were transformed
        elif marker not in _APPLICATION and marker != _COM:
            coded.append(_segment(marker, body) + data)
            scans += marker == _SOS
    if not scans:
        raise CannotRewrap
    if beside.exif:
        ours.append(_segment(0xE1, beside.exif))
    if beside.xmp:
        ours.append(_segment(0xE1, XMP + beside.xmp))
    ours += _profile(beside.profile)
    return _SOI + b"".join([*ours, *coded]) + _EOI


def more_xmp(file: bytes) -> bytes | None:
    """Return the XMP that did not fit into the first segment, or None without any.

    XMP Specification, part 3, 1.1.3.1.
    """
    if _MORE_XMP not in file:
        return None
    parts: dict[int, bytes] = {}
    try:
        for marker, body, _ in segments(file):
            if marker == 0xE1 and body.startswith(_MORE_XMP):
                at = len(_MORE_XMP) + 32  # after the hash of the whole
                length, offset = struct.unpack_from(">II", body, at)
                if length > _MAX_MORE_XMP:
                    return None
                parts.setdefault(offset, body[at + 8 :])
    except (CannotRewrap, struct.error):
        return None
    whole = b""
    for offset, part in sorted(parts.items()):
        if offset != len(whole):
            return None
        whole += part
    return whole or None


def _segment(marker: int, body: bytes) -> bytes:
    if len(body) > _MAX_BODY:
        raise CannotRewrap
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _jfif(body: bytes, beside: Beside) -> bytes:
    """Return the body of JFIF with the new density, without its thumbnail."""
    unit_and_density = body[7:12]
    if beside.dpi:
        unit_and_density = struct.pack(">BHH", 1, *map(round, beside.dpi))
    return body[:7] + unit_and_density + b"\0\0"


def _profile(profile: bytes | None) -> list[bytes]:
    if not profile:
        return []
    parts = [profile[at : at + _PROFILE_PART] for at in range(0, len(profile), _PROFILE_PART)]
    if len(parts) > 255:
        raise CannotRewrap
    return [
        _segment(0xE2, PROFILE + bytes([number, len(parts)]) + part)
        for number, part in enumerate(parts, 1)
    ]
