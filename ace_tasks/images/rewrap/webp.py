"""WebP: the chunks of pixels and of transparency are copied (RFC 9649)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from ace_tasks.images.rewrap.parts import Beside, CannotRewrap

PROFILE, ALPHA, EXIF, XMP = 0x20, 0x10, 0x08, 0x04  # flags of VP8X
_LOSSLESS_ALPHA = 0x10  # in the fifth byte of VP8L, after its 28 bits of size


def rewrap(file: bytes, beside: Beside) -> bytes:
    """Copy the coded pixels into a new file with the metadata of `beside`. Raises CannotRewrap."""
    chunks: dict[bytes, bytes] = {}
    for kind, body in _chunks(file):
        if kind in chunks:
            raise CannotRewrap
        chunks[kind] = body
    coded = [each for each in (b"ALPH", b"VP8 ", b"VP8L") if each in chunks]
    if len({b"VP8 ", b"VP8L"} & chunks.keys()) != 1 or b"ANIM" in chunks:
        raise CannotRewrap
    flags = chunks[b"VP8X"][0] & ALPHA if b"VP8X" in chunks else 0
    if b"VP8X" not in chunks and b"VP8L" in chunks:
        flags = ALPHA if chunks[b"VP8L"][4] & _LOSSLESS_ALPHA else 0
    beside_chunks = []
    for flag, kind, given in (
        (PROFILE, b"ICCP", beside.profile),
        (EXIF, b"EXIF", beside.tiff),
        (XMP, b"XMP ", beside.xmp),
    ):
        if given:
            flags |= flag
            beside_chunks.append((kind, given))
    width, height = ((side - 1).to_bytes(3, "little") for side in beside.size_px)
    parts = [(b"VP8X", bytes([flags, 0, 0, 0]) + width + height)]
    parts += [each for each in beside_chunks if each[0] == b"ICCP"]
    parts += [(kind, chunks[kind]) for kind in coded]
    parts += [each for each in beside_chunks if each[0] != b"ICCP"]
    return riff(parts)


def _chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks that matter. Whatever lies beyond RIFF's own length is ignored."""
    (length,) = struct.unpack_from("<I", file, 4)
    at, end = 12, min(len(file), 8 + length)
    while at + 8 <= end:
        kind, size = struct.unpack_from("<4sI", file, at)
        if at + 8 + size > end:
            raise CannotRewrap
        if kind in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM"):
            yield kind, file[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def riff(parts: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a WebP file of these chunks, each a kind and a content."""
    whole = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2) for kind, body in parts
    )
    return b"RIFF" + struct.pack("<I", len(whole)) + whole
