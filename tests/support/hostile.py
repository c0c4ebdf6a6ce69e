"""Pictures made to break whoever opens them, and a child process that opens them.

    python -m tests.support.hostile [NAME …]     what becomes of each, in how many seconds and bytes

Each file is opened in a process of its own, which may use 15 s of CPU (more on a slow machine) and
4 GB of addresses.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
import traceback
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from ace_tasks.errors import BadImage
from ace_tasks.images import codec, source_metadata
from ace_tasks.images.rewrap.formats import rewrap
from ace_tasks.images.rewrap.parts import Beside
from ace_tasks.provenance.xmp.packet import write_packet
from ace_tasks.settings import ImageLimits
from tests.support.patience import limit_s

PNG = b"\x89PNG\r\n\x1a\n"
SCRIPT = b"<script>alert(document.cookie)</script>"
MOST_BYTES = ImageLimits().max_bytes


# ---------------------------------------------------------------- parts


def file(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    out = io.BytesIO()
    (image or Image.fromarray(noise)).save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    *more: bytes,
    size: tuple[int, int] = (64, 64),
    bits: int = 8,
    colour: int = 2,
    data: bytes | None = None,
    before: bytes = b"",
) -> bytes:
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    rows = zlib.compress(bytes((size[0] * 3 + 1) * size[1])) if data is None else data
    return (
        PNG
        + chunk(b"IHDR", header)
        + before
        + b"".join(more)
        + chunk(b"IDAT", rows)
        + chunk(b"IEND")
    )


def zeros(length: int) -> bytes:
    """A zlib stream of so many zero bytes, a thousandth as long, made without holding them."""
    step = 1 << 20
    packer = zlib.compressobj(9)
    head = packer.compress(bytes(step)) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(step)) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, wbits=-15)
    tail = packer.compress(bytes(length % step)) + packer.flush(zlib.Z_FINISH)
    adler = struct.pack(">I", (length % 65521) << 16 | 1)
    return head + block * (length // step - 1) + tail + adler


def jpeg(*segments: bytes, image: Image.Image | None = None, **options: Any) -> bytes:
    """A JPEG with bytes put in right after its first marker."""
    whole = file("JPEG", image, **options)
    return whole[:2] + b"".join(segments) + whole[2:]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def many_scans(times: int, side: int) -> bytes:
    """A progressive JPEG whose scans come again and again; each walks over all of the picture."""
    whole = file("JPEG", Image.new("L", (side, side)), progressive=True, quality=50)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * times + whole[-2:]


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    return b"VP8X", bytes([flags, 0, 0, 0]) + sides


def lossless_frame() -> tuple[bytes, bytes]:
    return b"VP8L", file("WEBP", Image.new("RGB", (32, 32)), lossless=True)[20:]


def profile(length: int = 0, tags: int | None = None) -> bytes:
    """Return sRGB's profile, made long, or with another number of tags in its table."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if tags is not None:
        made[128:132] = struct.pack(">I", tags)
    made += bytes(max(0, length - len(made)))
    made[0:4] = struct.pack(">I", len(made))
    return bytes(made)


def exif(entries: list[tuple[int, int, int, int]], order: str = "<", after: int = 0) -> bytes:
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    table = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    return (
        b"Exif\0\0"
        + head
        + struct.pack(f"{order}H", len(entries))
        + table
        + struct.pack(f"{order}I", after)
    )


def avif_of(width: int, height: int) -> bytes:
    """An AVIF whose header tells another size than its data have."""
    whole = bytearray(file("AVIF"))
    at = whole.index(b"ispe") + 8
    whole[at : at + 8] = struct.pack(">II", width, height)
    return bytes(whole)


LARGEST = (10_000, 10_000)
FILL = MOST_BYTES // 2  # bytes of flood
ROTATED = (0x0112, 3, 1, 6)

# ---------------------------------------------------------------- the files

LARGE: dict[str, Callable[[], bytes]] = {  # within every limit, and so to be borne
    "png-rgb-100mp": lambda: png(size=LARGEST, data=zeros(30_001 * 10_000)),
    "png-rgba-100mp-turned": lambda: png(
        chunk(b"eXIf", exif([ROTATED])[6:]), size=LARGEST, colour=6, data=zeros(40_001 * 10_000)
    ),
    "png-16-bit-100mp": lambda: png(size=LARGEST, bits=16, colour=0, data=zeros(20_001 * 10_000)),
    "png-16-bit-rgba-100mp": lambda: png(
        size=LARGEST, bits=16, colour=6, data=zeros(80_001 * 10_000)
    ),
    "png-bilevel-100mp": lambda: png(size=LARGEST, bits=1, colour=0, data=zeros(1251 * 10_000)),
    "jpeg-100mp": lambda: jpeg(image=Image.new("L", LARGEST), quality=10),
    "jpeg-as-many-scans-as-may-be": lambda: many_scans(40, 8000),
    "webp-100mp": lambda: file(
        "WEBP", Image.new("RGBA", LARGEST), lossless=True, quality=0, method=0
    ),
    "avif-100mp": lambda: avif_of(*LARGEST),
}
BOMBS: dict[str, Callable[[], bytes]] = {
    "png-data-behind-the-picture": lambda: png(data=zeros(20 << 30)),
    "png-text": lambda: png(chunk(b"zTXt", b"Comment\0\0" + zeros(1 << 32))),
    "png-international-text": lambda: png(chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros(1 << 32))),
    "png-many-texts": lambda: png(*[chunk(b"zTXt", b"C\0\0" + zeros(1 << 20))] * 5000),
    "png-profile": lambda: png(chunk(b"iCCP", b"p\0\0" + zeros(1 << 32))),
    "png-exif": lambda: png(chunk(b"eXIf", exif([ROTATED] * 65_535)[6:] + bytes(FILL - 800_000))),
    "png-chunk-flood": lambda: png(chunk(b"teSt") * (FILL // 12)),
    "png-idat-flood": lambda: png(chunk(b"IDAT") * (FILL // 12)),
    "png-flood-behind-the-picture": lambda: png() + chunk(b"teSt") * (FILL // 12),
    "jpeg-scans": lambda: many_scans(4000, 2000),
    "jpeg-segment-flood": lambda: jpeg(segment(0xEB, b"") * (FILL // 4)),
    "jpeg-restart-flood": lambda: jpeg(b"\xff\xd0" * (FILL // 2)),
    "jpeg-fill-flood": lambda: jpeg(b"\xff" * FILL),
    "jpeg-junk-flood": lambda: jpeg(segment(0xEB, b"") + b"\0" * FILL),
    "jpeg-escape-flood": lambda: jpeg(b"\xff\0" * (FILL // 2)),
    "jpeg-profile-of-16-mb": lambda: file("JPEG", icc_profile=profile(255 * 65_519)),
    "webp-chunk-flood": lambda: riff(
        canvas(32, 32, 0x04), lossless_frame(), *[(b"JUNK", b"")] * (FILL // 40)
    ),
    "webp-profile-of-60-mb": lambda: file("WEBP", icc_profile=profile(60 << 20)),
    "webp-canvas-100mp": lambda: riff(canvas(*LARGEST), lossless_frame()),
    "webp-canvas-268mp": lambda: riff(canvas(16_384, 16_384), lossless_frame()),
    "webp-canvas-16m-wide": lambda: riff(canvas(1 << 24, 1 << 24), lossless_frame()),
    "avif-16m-wide": lambda: avif_of(1 << 24, 1 << 24),
    "avif-profile-of-60-mb": lambda: file("AVIF", icc_profile=profile(60 << 20)),
}
LIES: dict[str, Callable[[], bytes]] = {
    "png-0x0": lambda: png(size=(0, 0), data=zlib.compress(b"")),
    "png-0-high": lambda: png(size=(64, 0), data=zlib.compress(b"")),
    "png-negative": lambda: png(size=(0xFFFFFFF0, 0xFFFFFFF0), data=b""),
    "png-of-17-bits": lambda: png(bits=17),
    "png-palette-of-16-bits": lambda: png(bits=16, colour=3),
    "png-palette-missing": lambda: png(colour=3, data=zeros((1 << 20) + 64 * 65)),
    "png-palette-of-20000": lambda: png(
        chunk(b"PLTE", bytes(60_000)), colour=3, data=zlib.compress(b"\xff" * 65 * 64)
    ),
    "png-chunk-of-4-gb": lambda: PNG + b"\xff\xff\xff\xffIHDR" + bytes(100),
    "png-two-headers": lambda: png(
        before=chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    ),
    "png-wrong-checksum": lambda: png()[:40] + b"\0\0\0\0" + png()[44:],
    "png-named-jpeg": lambda: file("JPEG")[:3] + png(),
    "jpeg-0-high": lambda: file("JPEG").replace(b"\x00\x40\x00\x60\x03", b"\x00\x00\x00\x60\x03"),
    "jpeg-0-wide": lambda: file("JPEG").replace(b"\x00\x40\x00\x60\x03", b"\x00\x40\x00\x00\x03"),
    "jpeg-65535-square": lambda: file("JPEG").replace(
        b"\x00\x40\x00\x60\x03", b"\xff\xff\xff\xff\x03"
    ),
    "jpeg-of-255-layers": lambda: file("JPEG").replace(
        b"\x00\x40\x00\x60\x03", b"\x00\x40\x00\x60\xff"
    ),
    "jpeg-many-views": lambda: jpeg(
        segment(0xE2, b"MPF\0" + exif([(0xB001, 4, 1, 1 << 31), (0xB002, 7, 1 << 31, 8)])[6:])
    ),
    "jpeg-exif-in-a-circle": lambda: jpeg(
        segment(
            0xE1, exif([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8), ROTATED], after=8)
        )
    ),
    "jpeg-exif-outside": lambda: jpeg(
        segment(0xE1, exif([(0x010F, 2, 1 << 31, 1 << 31), (0x8769, 4, 1, 1 << 31)]))
    ),
    "jpeg-exif-cut": lambda: jpeg(segment(0xE1, exif([ROTATED] * 50)[:40])),
    "jpeg-profile-of-4g-tags": lambda: file("JPEG", icc_profile=profile(tags=0xFFFFFFFF)),
    "webp-0-frames": lambda: riff(canvas(64, 64, 0x02), (b"ANIM", bytes(6))),
    "webp-riff-of-4-gb": lambda: b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\xff" + bytes(100),
    "avif-without-data": lambda: file("AVIF")[:200],
    "avif-box-of-0": lambda: file("AVIF")[:32] + bytes(400),
    "heic-named-avif": lambda: file("AVIF").replace(b"ftypavif", b"ftypheic"),
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">' + SCRIPT,
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/etc/passwd) run",
    "zip": lambda: b"PK\x03\x04" + bytes(2000),
}
POLYGLOTS: dict[str, Callable[[], bytes]] = {
    "png-and-html": lambda: png(chunk(b"tEXt", b"Comment\0" + SCRIPT)) + SCRIPT,
    "jpeg-and-html": lambda: jpeg(segment(0xFE, SCRIPT)) + SCRIPT,
    "jpeg-and-zip": lambda: file("JPEG") + b"PK\x03\x04" + SCRIPT + b"PK\x05\x06" + bytes(18),
    "webp-and-html": lambda: riff(canvas(32, 32, 0x04), lossless_frame(), (b"XMP ", SCRIPT)),
    "jpeg-with-a-script-in-exif": lambda: jpeg(
        segment(0xE1, exif([(0x010E, 2, len(SCRIPT), 26)]) + SCRIPT)
    ),
}
FILES = LARGE | BOMBS | LIES | POLYGLOTS


# ---------------------------------------------------------------- the child


def open_file(data: bytes) -> dict[str, Any]:
    """Return why it is refused; or its size, and whether its script is gone from what we write."""
    try:
        picture = codec.decode(data, ImageLimits())
    except BadImage as error:
        return {"refused": str(error)}
    assert picture.raw is not None
    metadata = source_metadata.read(picture.raw, picture.file)
    packet, _ = write_packet({}, metadata.source_type, metadata.properties)
    beside = Beside(picture.raw.size_px, packet, metadata.exif(picture.raw.orientation))
    kept = rewrap(picture.file, picture.format, beside)
    if picture.rgb.size > 10**6:
        return {"size_px": picture.size_px}
    profile = codec.FileMetadata(picture.icc_profile)
    clean = SCRIPT not in (kept or b"") and all(
        SCRIPT not in codec.encode(picture.rgb, format_, None, metadata=profile)
        for format_ in ("png", "jpeg", "webp", "avif")
    )
    return {"size_px": picture.size_px, "clean": clean}


def measured(make: Callable[[], bytes]) -> dict[str, Any]:
    """`open_file` in a process of its own, with its seconds of CPU and its peak of memory."""
    most_s = round(limit_s(15))
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        data = make()
        resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s))
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")  # what making it took does not count
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        try:
            found = open_file(data)
        except BaseException:
            found = {"crashed": traceback.format_exc(limit=-1)}
        seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        with open("/proc/self/status") as lines:
            status = lines.read()
        peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
        found |= {"bytes": len(data), "cpu_s": round(seconds, 2), "peak_mb": round(peak_mb)}
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status_ = os.waitpid(child, 0)
    return dict(json.loads(answer)) if answer else {"crashed": f"ended by {status_}"}


def main() -> None:
    for name in sys.argv[1:] or FILES:
        print(json.dumps({"name": name} | measured(FILES[name])), flush=True)


if __name__ == "__main__":
    main()
