"""A copy of a file without those parts beside its pixels that cannot be read.

Pillow refuses a picture for a text that is too long or for the wrong checksum of a comment, though
every viewer shows it. In that case the parts that decide the pixels are put into a new file,
together with the other readable parts. Notes name what is left out. Damaged pixels stay damaged.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

from ace_tasks.images.rewrap import avif, avif_stated, exif, webp
from ace_tasks.images.rewrap.jpeg import AFTER_DATA, PROFILE, XMP
from ace_tasks.images.rewrap.parts import Beside, CannotRewrap
from ace_tasks.images.rewrap.png import SIGNATURE as _PNG

LEFT_OUT = "unreadable parts beside the pixels left out"
CHUNK_LEFT_OUT = "unreadable PNG chunk {} left out"
TEXT_LEFT_OUT = "a PNG text left out: too long"

_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_LENGTHS = {b"cICP": 4, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"acTL": 8}
_AS_THEY_ARE = frozenset({b"fcTL", b"fdAT", b"caBX"})
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_MAX_TEXT_BYTES = PngImagePlugin.MAX_TEXT_CHUNK
_MAX_TEXTS_BYTES = 8 * _MAX_TEXT_BYTES
_CHANNELS_BYTES = {0: 2, 2: 6}  # colour type → bytes of a tRNS
# Pillow keeps its own notes on a picture under these names, and a text of that name beats them.
_PILLOWS_NAMES = frozenset(
    (
        b"aspect background bbox blend chromaticity default_image disposal dpi duration "
        b"exif gamma icc_profile interlace loop srgb timestamp transparency xmp"
    ).split()
)
_KEYWORD = re.compile(rb"[\x20-\x7e\xa1-\xff]{1,79}")

_SEGMENT = re.compile(rb"\xff+([\x01-\xfe])")
_EXIF = b"Exif\0\0"
_LEAST_BYTES = ((0xE0, b"JFIF\0", 12), (0xEE, b"Adobe", 12), (0xE2, PROFILE, 15), (0xE1, XMP, 29))
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_SOS, _EOI, _COMMENT = 0xDA, 0xD9, 0xFE
Readable = tuple[bytes, tuple[str, ...]]  # a file, and notes on what it lacks


def without_unreadable(file: bytes) -> Readable | None:
    """Return a copy without unreadable parts, and notes on what it lacks.

    Return None if a part that decides the pixels is damaged, or if the container is not understood.
    """
    try:
        if file.startswith(_PNG):
            return _png(file)
        if file.startswith(b"\xff\xd8"):
            return _jpeg(file)
        if file[:4] == b"RIFF" and file[8:12] == b"WEBP":
            return _webp(file)
        if file[4:8] == b"ftyp":
            return _avif(file)
    except (CannotRewrap, IndexError, KeyError, struct.error, zlib.error):  # cut short
        pass
    return None


def misleads(file: bytes) -> bool:
    """Return whether a PNG text has a name by which Pillow would take it for something else."""
    at = len(_PNG)
    while file.startswith(_PNG) and at + 12 <= len(file):
        length, kind = struct.unpack_from(">I4s", file, at)
        if kind in _TEXTS and file[at + 8 : at + 88].partition(b"\0")[0] in _PILLOWS_NAMES:
            return True
        at += 12 + length
    return False


# ------------------------------------------------------------ PNG


def _png(file: bytes) -> Readable | None:
    kept, notes = [_PNG], []
    colour_type, texts_bytes = None, 0
    for kind, whole, is_sound in _chunks(file):
        body = whole[8:-4]
        if kind in _PIXEL_CHUNKS:
            if not is_sound:
                return None
            if kind == b"IHDR" and colour_type is None:
                colour_type = body[9]
        elif is_sound and kind in _TEXTS:
            # Unpacking takes time, so texts beyond the limit are not unpacked.
            is_beyond = texts_bytes > _MAX_TEXTS_BYTES
            length = _MAX_TEXT_BYTES + 1 if is_beyond else _text_bytes(kind, body)
            if length is None or length > _MAX_TEXT_BYTES:
                note = TEXT_LEFT_OUT if length else CHUNK_LEFT_OUT.format(kind.decode())
                notes.append(note)
                texts_bytes += length or 0
                continue
            texts_bytes += length
        elif not (is_sound and _can_be_read(kind, body, colour_type)):
            if is_sound and kind == b"eXIf":
                notes.append(exif.UNREADABLE)
            elif not is_sound or kind in _LENGTHS or kind in (b"iCCP", b"tRNS"):
                notes.append(CHUNK_LEFT_OUT.format(kind.decode()))
            continue
        kept.append(whole)
    return b"".join(kept), tuple(dict.fromkeys(notes))


def _chunks(file: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield (kind, the whole chunk, whether its checksum is right) up to the end.

    A chunk other than the pixels' that is cut short is yielded as unsound, and ends the walk.
    """
    at = len(_PNG)
    while at + 12 <= len(file):
        length, kind = struct.unpack_from(">I4s", file, at)
        whole = file[at : at + 12 + length]
        if not kind.isalpha():
            raise CannotRewrap
        if len(whole) < 12 + length:
            if kind in _PIXEL_CHUNKS:
                raise CannotRewrap
            yield kind, whole, False
            return
        yield kind, whole, zlib.crc32(whole[4:-4]) == int.from_bytes(whole[-4:], "big")
        if kind == b"IEND":
            return
        at += len(whole)


def _can_be_read(kind: bytes, body: bytes, colour_type: int | None) -> bool:
    if kind in _LENGTHS:
        return len(body) == _LENGTHS[kind]
    if kind == b"tRNS":
        return len(body) == _CHANNELS_BYTES.get(colour_type or 0, len(body)) and len(body) <= 256
    if kind == b"iCCP":
        name, _, packed = body.partition(b"\0")
        return bool(name) and packed[:1] == b"\0" and _unpacked_bytes(packed[1:]) is not None
    if kind == b"eXIf":
        return exif.is_readable(body)
    return kind in _AS_THEY_ARE


def _text_bytes(kind: bytes, body: bytes) -> int | None:
    """Return the length of a text once it is unpacked, or None if it is no valid text."""
    keyword, found, rest = body.partition(b"\0")
    if not found or not _KEYWORD.fullmatch(keyword):
        return None
    if keyword in _PILLOWS_NAMES:
        return None
    if kind == b"tEXt":
        return len(rest)
    if kind == b"zTXt":
        return _unpacked_bytes(rest[1:]) if rest[:1] == b"\0" else None
    if len(rest) < 2 or rest[2:].count(b"\0") < 2:
        return None
    text = rest[2:].split(b"\0", 2)[2]
    if rest[0] == 0:
        return len(text)
    return _unpacked_bytes(text) if rest[1] == 0 else None


def _unpacked_bytes(packed: bytes) -> int | None:
    """Return the unpacked length, or None if it cannot be unpacked.

    Whatever is longer than accepted counts as one more than accepted.
    """
    try:
        return len(zlib.decompressobj().decompress(packed, _MAX_TEXT_BYTES + 1))
    except zlib.error:
        return None


def _jpeg(file: bytes) -> Readable:
    """Copy a JPEG's readable parts. Like libjpeg, pass over bytes between two segments."""
    kept, notes, at = [b"\xff\xd8"], [], 2
    scans, ended = 0, False
    while found := _SEGMENT.search(file, at):
        at, marker = found.end(), found[1][0]
        if marker == _EOI:
            ended = True
            break
        if marker in _ALONE:
            continue
        length = max(2, int.from_bytes(file[at : at + 2], "big"))
        body, at = file[at + 2 : at + length], at + length
        if len(body) < length - 2:
            raise CannotRewrap
        if 0xE0 <= marker <= 0xEF or marker == _COMMENT:
            if marker == 0xE1 and body.startswith(_EXIF):
                if not exif.is_readable(body):
                    notes.append(exif.UNREADABLE)
                    continue
            elif not any(
                marker == code and body.startswith(start) and len(body) >= least
                for code, start, least in _LEAST_BYTES
            ):
                notes.append(LEFT_OUT)
                continue
        segment = struct.pack(">BBH", 0xFF, marker, length) + body
        if marker == _SOS:
            scans += 1
            end = AFTER_DATA.search(file, at)
            until = end.start() if end else len(file)
            segment, at = segment + file[at:until], until
        kept.append(segment)
    if not scans or not ended:
        raise CannotRewrap
    notes = notes or [LEFT_OUT]  # bytes outside segments
    return b"".join([*kept, b"\xff\xd9"]), tuple(dict.fromkeys(notes))


def _webp(file: bytes) -> Readable | None:
    chunks = _riff_chunks(file)
    if b"ANIM" in chunks or len({b"VP8 ", b"VP8L"} & chunks.keys()) != 1:
        return None
    header, note = chunks.get(b"VP8X"), LEFT_OUT
    if not exif.is_readable(chunks.get(b"EXIF", b"")):
        note = exif.UNREADABLE
        del chunks[b"EXIF"]
    order: tuple[bytes, ...] = (b"ICCP", b"ALPH", b"VP8 ", b"VP8L", b"EXIF", b"XMP ")
    parts = [(kind, chunks[kind]) for kind in order if kind in chunks]
    if header is None:  # the simple format holds pixels only
        return webp.riff(each for each in parts if each[0] in (b"VP8 ", b"VP8L")), (note,)
    flags = header[0] & webp.ALPHA
    for kind, flag in ((b"ICCP", webp.PROFILE), (b"EXIF", webp.EXIF), (b"XMP ", webp.XMP)):
        flags |= flag if kind in chunks else 0
    return webp.riff([(b"VP8X", bytes([flags]) + header[1:10]), *parts]), (note,)


def _riff_chunks(file: bytes) -> dict[bytes, bytes]:
    """Return the first chunk of each kind, up to one that is cut short.

    RIFF's own length is ignored.
    """
    found: dict[bytes, bytes] = {}
    at = 12
    while at + 8 <= len(file):
        kind, size = struct.unpack_from("<4sI", file, at)
        if at + 8 + size > len(file):
            break
        found.setdefault(kind, file[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return found


def _avif(file: bytes) -> Readable:
    stated = avif_stated.stated(file)
    beside = Beside(size_px=(0, 0), profile=stated.profile if stated else None)
    return avif.rewrap(file, beside), (LEFT_OUT,)
