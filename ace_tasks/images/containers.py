"""The parts of a file, counted before Pillow and its codecs walk over them.

Pillow reads PNG chunks and JPEG segments in a Python loop, and libjpeg goes over the whole picture
again for each scan. So a file within every other limit can keep a process busy for minutes. Real
pictures have a few dozen parts. WebP and AVIF are walked in C, which takes no noticeable time.
"""

from __future__ import annotations

import re
import zlib

from PIL.JpegImagePlugin import MARKER

from ace_tasks.errors import BadImage
from ace_tasks.images.rewrap.jpeg import AFTER_DATA
from ace_tasks.images.rewrap.png import SIGNATURE as _PNG

_MAX_PARTS = 20_000  # libpng cuts data into 8 KB: 8192 chunks in the largest accepted file
_MAX_SCANS = 50  # encoders write about ten; each takes 60 ms for 100 megapixels
_MAX_JUNK_BYTES = 65_536  # between the segments of a JPEG
_JPEG = b"\xff\xd8"
_START_OF_SCAN, _END = 0xDA, 0xD9
_SEGMENT = re.compile(rb"\xff[\x01-\xfe]")
# The markers that Pillow reads with a length. This walk must skip exactly what Pillow skips.
_LONG = frozenset(code & 0xFF for code, (_, _, handler) in MARKER.items() if handler)


def check_parts(data: bytes) -> None:
    """Raise BadImage for a PNG or JPEG of more parts than any picture has.

    Also for a PNG whose pixels do not fit their checksum, which Pillow does not compare.
    """
    if data.startswith(_PNG):
        _check_png(data)
    elif data.startswith(_JPEG):
        _check_jpeg(data)


def _check_png(data: bytes) -> None:
    at, view = len(_PNG), memoryview(data)
    for _ in range(_MAX_PARTS):
        kind = data[at + 4 : at + 8]
        if at >= len(data) or kind == b"IEND":
            return
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        stated = int.from_bytes(data[end - 4 : end], "big")
        if kind == b"IDAT" and end <= len(data) and zlib.crc32(view[at + 4 : end - 4]) != stated:
            raise BadImage("damaged picture: wrong checksum of its pixels (IDAT)")
        at = end
    raise BadImage(f"accepted: a PNG of at most {_MAX_PARTS} chunks; given more")


def _check_jpeg(data: bytes) -> None:
    at, parts, scans, junk = len(_JPEG), 0, 0, 0
    while found := (AFTER_DATA if scans else _SEGMENT).search(data, at):
        junk += 0 if scans else found.start() - at
        at, marker = found.end(), data[found.end() - 1]
        if scans and marker == _END:
            break
        if marker in _LONG:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        parts += 1
        scans += marker == _START_OF_SCAN
        if parts > _MAX_PARTS or scans > _MAX_SCANS or junk > _MAX_JUNK_BYTES:
            break
    else:
        junk += 0 if scans else len(data) - at
    for what, given, most in (
        ("segments", parts, _MAX_PARTS),
        ("scans", scans, _MAX_SCANS),
        ("bytes outside segments", junk, _MAX_JUNK_BYTES),
    ):
        if given > most:
            raise BadImage(f"accepted: a JPEG of at most {most} {what}; given more")
