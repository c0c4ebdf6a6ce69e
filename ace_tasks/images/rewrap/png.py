"""PNG: header, palette and data are copied, and the chunks that decide how colours look.

PNG Specification, Third Edition. The data are unpacked once to find their end. Whatever a file
hides after it is left behind.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from ace_tasks.images.rewrap.parts import Beside, CannotRewrap

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BEFORE = (b"cICP", b"gAMA", b"cHRM", b"sRGB", b"sBIT")  # chunks before the palette
_BEHIND = (b"tRNS", b"bKGD")
_MAX_BYTES = {  # limit of a chunk's body; a palette has 256 colours
    b"PLTE": 768,
    b"tRNS": 256,
    b"bKGD": 6,
    b"cICP": 4,
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
    b"sBIT": 4,
}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_STEP_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16  # of packed data; zlib copies what it has not yet unpacked
_M_PER_INCH = 0.0254


def rewrap(file: bytes, beside: Beside) -> bytes:
    """Copy the coded pixels into a new file with the metadata of `beside`. Raises CannotRewrap."""
    kept: dict[bytes, bytes] = {}
    header, data = b"", []
    for kind, body in chunks(file):
        if kind == b"IHDR" and not header:
            header = body
        elif kind == b"IDAT":
            data.append(body)
        elif kind in _MAX_BYTES:
            if len(body) > _MAX_BYTES[kind] or kind in kept:
                raise CannotRewrap
            kept[kind] = body
    if len(header) != 13 or not data:
        raise CannotRewrap
    if beside.profile:  # a picture has either a profile or sRGB
        kept.pop(b"sRGB", None)
    out = [SIGNATURE, _chunk(b"IHDR", header)]
    out += [_chunk(kind, kept[kind]) for kind in _BEFORE if kind in kept]
    if beside.profile:
        out.append(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(beside.profile)))
    if b"PLTE" in kept:
        out.append(_chunk(b"PLTE", kept[b"PLTE"]))
    out += [_chunk(kind, kept[kind]) for kind in _BEHIND if kind in kept]
    out += _metadata(beside)
    out += [_chunk(b"IDAT", each) for each in _up_to_the_end(data, _raw_bytes(header))]
    return b"".join([*out, _chunk(b"IEND", b"")])


def chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, content) of each chunk before the end. Raises CannotRewrap and struct.error."""
    at = len(SIGNATURE)
    while at < len(file):
        length, kind = struct.unpack_from(">I4s", file, at)
        if kind == b"IEND":
            return
        if at + 12 + length > len(file):
            raise CannotRewrap
        yield kind, file[at + 8 : at + 8 + length]
        at += 12 + length
    raise CannotRewrap


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _metadata(beside: Beside) -> Iterator[bytes]:
    if beside.dpi:
        across, down = (round(each / _M_PER_INCH) for each in beside.dpi)
        yield _chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
    if beside.tiff:
        yield _chunk(b"eXIf", beside.tiff)
    if beside.xmp:  # uncompressed, so that any program finds it
        yield _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + beside.xmp)


def _raw_bytes(header: bytes) -> int:
    """Return the length of the unpacked data: a filter byte and the pixels of every row."""
    width, height, bits, colour, *_, interlaced = struct.unpack(">IIBBBBB", header)
    if colour not in _CHANNELS:
        raise CannotRewrap
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, step_x, step_y in passes:
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits * _CHANNELS[colour] // 8))
    return total


def _up_to_the_end(data: list[bytes], raw_bytes: int) -> Iterator[bytes]:
    """Yield the data without what follows their end.

    Raises CannotRewrap if they unpack to more or less than the pixels.
    """
    unpacker, length = zlib.decompressobj(), 0
    for body in data:
        at = 0
        while at < len(body) and not unpacker.eof:
            rest = body[at : at + _PIECE_BYTES]
            at += len(rest)
            while rest and not unpacker.eof:
                length += len(unpacker.decompress(rest, _STEP_BYTES))
                rest = unpacker.unconsumed_tail
                if length > raw_bytes:
                    raise CannotRewrap
        yield body[: at - len(unpacker.unused_data)]
        if unpacker.eof:
            break
    while not unpacker.eof and (more := unpacker.decompress(b"", _STEP_BYTES)):
        length += len(more)
    if length != raw_bytes or not unpacker.eof:
        raise CannotRewrap
