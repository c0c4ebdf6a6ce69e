"""AVIF: the items of the picture and of its transparency are copied into a new file.

    ftyp, meta (hdlr, pitm, iinf, iref, iprp, idat, iloc), mdat

ISO/IEC 14496-12, clause 8.11, and 23008-12 (HEIF); AV1 Image File Format 1.1. EXIF and XMP are
items as well. Any other item is left behind: a thumbnail, a depth map, a gain map. The properties
`irot` and `imir` say how the picture is turned; they are copied.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from ace_tasks.images.rewrap.parts import Beside, CannotRewrap

_BRANDS = (b"avif", b"mif1", b"miaf", b"MA1A", b"MA1B", b"mif2", b"1pic")
_PICTURES = frozenset({b"av01", b"grid"})
_PROPERTIES = frozenset(
    b"ispe pixi av1C colr auxC pasp irot imir clap clli mdcv a1op lsel a1lx".split()
)
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")
_HANDLER = b"\0\0\0\0" + b"\0\0\0\0pict" + bytes(12) + b"\0"
_MAX_PARTS = 10_000  # for boxes, items and references each


@dataclass
class _Item:
    kind: bytes
    flags: int
    content_type: bytes = b""
    in_idat: bool = False
    data: bytes = b""
    properties: list[tuple[int, bytes]] = field(default_factory=list)  # (essential 0 or 1, box)


@dataclass
class _Meta:
    primary: int
    items: dict[int, _Item]
    references: list[tuple[bytes, int, list[int]]]  # (kind, from, to)


def rewrap(file: bytes, beside: Beside) -> bytes:
    """Copy the coded pixels into a new file with the metadata of `beside`. Raises CannotRewrap."""
    boxes = _top_boxes(file)
    if b"ftyp" not in boxes or b"meta" not in boxes or b"moov" in boxes:
        raise CannotRewrap
    brands = _brands(boxes[b"ftyp"])
    meta = _parse(boxes[b"meta"], file)
    kept = _kept(meta)
    items = {number: meta.items[number] for number in sorted(kept)}
    references = [
        (kind, source, [each for each in to if each in kept])
        for kind, source, to in meta.references
        if source in kept and kind in (b"dimg", b"auxl", b"prem")
    ]
    for kind, content_type, data in (
        (b"Exif", b"", beside.tiff and b"\0\0\0\0" + beside.tiff),
        (b"mime", b"application/rdf+xml\0", beside.xmp),
    ):
        if data:
            number = max(*meta.items, *items) + 1
            items[number] = _Item(kind, 0, content_type, data=data)
            references.append((b"cdsc", number, [meta.primary]))
    if max(items) > 0xFFFF:
        raise CannotRewrap
    _check_profile(items, beside.profile)
    made = _Meta(meta.primary, items, [each for each in references if each[2]])
    head = _box(b"ftyp", brands)
    start = len(head) + len(_written(made, 0)) + 8
    return head + _written(made, start) + _box(b"mdat", _data(made, in_idat=False))


def _top_boxes(file: bytes) -> dict[bytes, bytes]:
    """Return the boxes of a file by kind. Trailing bytes that are no box are left behind."""
    found: dict[bytes, bytes] = {}
    try:
        for kind, body in boxes_of(file, 0, len(file)):
            found[kind] = body
    except (CannotRewrap, struct.error):
        if not {b"ftyp", b"meta", b"mdat"} <= found.keys():
            raise
    return found


def boxes_of(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, content) of each box. Raises CannotRewrap and struct.error."""
    for _ in range(_MAX_PARTS):
        if at >= end:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        elif size == 0:
            size = end - at
        if size < head or at + size > end:
            raise CannotRewrap
        yield kind, data[at + head : at + size]
        at += size
    raise CannotRewrap


def _brands(body: bytes) -> bytes:
    given = [body[:4], *(body[at : at + 4] for at in range(8, len(body), 4))]
    kept = [each for each in _BRANDS if each in given]
    if given[0] not in (b"avif", b"mif1") or b"avif" not in kept:
        raise CannotRewrap
    return given[0] + b"\0\0\0\0" + b"".join(kept)


class _BoxReader:
    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def number(self, size: int) -> int:
        if self.at + size > len(self.data):
            raise CannotRewrap
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")

    def head(self) -> tuple[int, int]:
        """Read the version and flags of a full box."""
        return self.number(1), self.number(3)

    def rest(self) -> bytes:
        return self.data[self.at :]


def _parse(body: bytes, file: bytes) -> _Meta:
    inside: dict[bytes, bytes] = {}
    for kind, each in boxes_of(body, 4, len(body)):
        if kind in inside:
            raise CannotRewrap
        inside[kind] = each
    if not {b"pitm", b"iloc", b"iinf", b"iprp"} <= inside.keys():
        raise CannotRewrap
    reader = _BoxReader(inside[b"pitm"])
    version, _ = reader.head()
    primary = reader.number(4 if version else 2)
    items = _infos(inside[b"iinf"])
    _locate(_BoxReader(inside[b"iloc"]), items, file, inside.get(b"idat", b""))
    _associate(inside[b"iprp"], items)
    return _Meta(primary, items, list(item_references(inside.get(b"iref"))))


def _infos(body: bytes) -> dict[int, _Item]:
    reader = _BoxReader(body)
    version, _ = reader.head()
    reader.number(4 if version else 2)
    items = {}
    for kind, each in boxes_of(reader.rest(), 0, len(reader.rest())):
        info = _BoxReader(each)
        version, flags = info.head()
        if kind != b"infe" or version not in (2, 3):
            raise CannotRewrap
        number = info.number(4 if version == 3 else 2)
        info.number(2)
        items[number] = _Item(info.rest()[:4], flags & 1)
    return items


def item_kinds(body: bytes) -> dict[int, bytes]:
    """Return number → kind of each item of an iinf box."""
    return {number: item.kind for number, item in _infos(body).items()}


def _locate(reader: _BoxReader, items: dict[int, _Item], file: bytes, idat: bytes) -> None:
    version, _ = reader.head()
    if version > 2:
        raise CannotRewrap
    sizes, more = reader.number(1), reader.number(1)
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, more >> 4
    index_size = more & 15 if version else 0
    if not length_size:  # any number of extents would then take no bytes at all
        raise CannotRewrap
    for _ in range(min(reader.number(4 if version == 2 else 2), _MAX_PARTS)):
        item = items.get(reader.number(4 if version == 2 else 2))
        method = reader.number(2) & 15 if version else 0
        outside = reader.number(2)
        base = reader.number(base_size)
        parts: list[bytes] = []
        for _ in range(reader.number(2)):
            reader.number(index_size)
            at, length = base + reader.number(offset_size), reader.number(length_size)
            holder = idat if method == 1 else file
            if item is None or item.kind not in _PICTURES:
                continue  # it is left behind, so it may lie anywhere
            if method > 1 or outside or not length or at + length > len(holder):
                raise CannotRewrap
            if sum(len(each) for each in parts) + length > len(file):  # it repeats the same bytes
                raise CannotRewrap
            parts.append(holder[at : at + length])
        if item is not None and item.kind in _PICTURES:
            item.in_idat, item.data = method == 1, b"".join(parts)


def _associate(body: bytes, items: dict[int, _Item]) -> None:
    for number, essential, found in associations(body):
        item = items.get(number)
        if item is None or item.kind not in _PICTURES:
            continue
        if found is None:
            raise CannotRewrap
        kind, content = found
        if kind in _PROPERTIES:
            item.properties.append((essential, _box(kind, content)))
        elif essential:
            raise CannotRewrap


def associations(body: bytes) -> Iterator[tuple[int, int, tuple[bytes, bytes] | None]]:
    """Yield (item, essential 0 or 1, (kind, content)) of each property of an item.

    The last is None if there is no such property.
    """
    properties: list[tuple[bytes, bytes]] = []
    for kind, each in boxes_of(body, 0, len(body)):
        if kind == b"ipco":
            properties = list(boxes_of(each, 0, len(each)))
            continue
        reader = _BoxReader(each)
        version, flags = reader.head()
        wide = flags & 1
        for _ in range(min(reader.number(4), _MAX_PARTS)):
            number = reader.number(4 if version else 2)
            for _ in range(reader.number(1)):
                value = reader.number(2 if wide else 1)
                essential, index = value >> (15 if wide else 7), value & (0x7FFF if wide else 0x7F)
                if index:  # 0: none
                    there = 1 <= index <= len(properties)
                    yield number, essential, properties[index - 1] if there else None


def item_references(body: bytes | None) -> Iterator[tuple[bytes, int, list[int]]]:
    """Yield (kind, from, to) of each reference between items."""
    if body is None:
        return
    reader = _BoxReader(body)
    size = 4 if reader.head()[0] else 2
    for kind, each in boxes_of(reader.rest(), 0, len(reader.rest())):
        inside = _BoxReader(each)
        source = inside.number(size)
        yield kind, source, [inside.number(size) for _ in range(inside.number(2))]


def _kept(meta: _Meta) -> set[int]:
    """Return the numbers of the picture, its tiles, its transparency and the tiles of that."""
    kept, to_do = set[int](), [meta.primary]
    while to_do:
        number = to_do.pop()
        item = meta.items.get(number)
        if number in kept or item is None:
            continue
        if item.kind not in _PICTURES or not item.data:
            raise CannotRewrap
        kept.add(number)
        for kind, source, to in meta.references:
            if kind == b"dimg" and source == number:
                to_do += to
            elif kind == b"auxl" and number in to and _is_alpha(meta.items.get(source)):
                to_do.append(source)
    if meta.primary not in kept:
        raise CannotRewrap
    return kept


def _is_alpha(item: _Item | None) -> bool:
    return item is not None and any(
        box[4:8] == b"auxC" and box[12:] in _ALPHA for _, box in item.properties
    )


def _check_profile(items: dict[int, _Item], profile: bytes | None) -> None:
    """Raise CannotRewrap if an item has a profile other than `profile`.

    Profiles are among the properties that are copied, but an unusable one must not be.
    """
    for item in items.values():
        for _, box in item.properties:
            if box[4:12] in (b"colrprof", b"colrrICC") and box[12:] != profile:
                raise CannotRewrap


def _box(kind: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full(kind: bytes, version: int, flags: int, *bodies: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *bodies)


def _data(meta: _Meta, *, in_idat: bool) -> bytes:
    return b"".join(each.data for each in meta.items.values() if each.in_idat == in_idat)


def _written(meta: _Meta, data_at: int) -> bytes:
    """Write the box `meta`. Its length is the same for every `data_at`."""
    infos = [
        _full(
            b"infe",
            2,
            each.flags,
            struct.pack(">HH", number, 0),
            each.kind,
            b"\0",
            each.content_type,
        )
        for number, each in meta.items.items()
    ]
    references = [
        _box(kind, struct.pack(f">HH{len(to)}H", source, len(to), *to))
        for kind, source, to in meta.references
    ]
    parts = [
        _box(b"hdlr", _HANDLER),
        _full(b"pitm", 0, 0, struct.pack(">H", meta.primary)),
        _locations(meta, data_at),
        _full(b"iinf", 0, 0, struct.pack(">H", len(infos)), *infos),
    ]
    if references:
        parts.append(_full(b"iref", 0, 0, *references))
    parts.append(_properties(meta))
    if in_idat := _data(meta, in_idat=True):
        parts.append(_box(b"idat", in_idat))
    return _full(b"meta", 0, 0, *parts)


def _locations(meta: _Meta, data_at: int) -> bytes:
    """Write the box `iloc`: offsets and lengths of four bytes, one extent per item."""
    found, at = [], {False: data_at, True: 0}
    for number, item in meta.items.items():
        place = (number, int(item.in_idat), 0, 1, at[item.in_idat], len(item.data))
        found.append(struct.pack(">HHHHII", *place))
        at[item.in_idat] += len(item.data)
    return _full(b"iloc", 1, 0, b"\x44\x00", struct.pack(">H", len(found)), *found)


def _properties(meta: _Meta) -> bytes:
    boxes: dict[bytes, int] = {}
    found = []
    for number, item in meta.items.items():
        if item.properties:
            values = [
                essential << 15 | boxes.setdefault(box, len(boxes) + 1)
                for essential, box in item.properties
            ]
            count = len(values)
            found.append(struct.pack(f">HB{count}H", number, count, *values))
    associations = _full(b"ipma", 0, 1, struct.pack(">I", len(found)), *found)
    return _box(b"iprp", _box(b"ipco", *boxes), associations)
