"""The owner and origin that an edited picture's source states, and its result must state too.

The carried properties are a list: `ace_tasks.provenance.xmp.properties`, and EXIF's Copyright,
Artist and resolution. Everything else is left out: a position, a camera's serial number, or a
thumbnail of what was cut away must not be published. Short notes name what was left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image

from ace_tasks.images.rewrap import avif_stated, jpeg
from ace_tasks.images.rewrap import exif as exif_block
from ace_tasks.provenance.xmp.properties import Array, Value, text_of, texts_of
from ace_tasks.provenance.xmp.reading import FoundXmp, parse_xmp
from ace_tasks.provenance.xmp.source_type import SOURCE_TYPE

GPS = "GPS position left out"
MAKER_NOTES = "maker notes left out"
THUMBNAIL = "thumbnail left out"
OTHER_EXIF = "other EXIF left out"
OTHER_IPTC = "other IPTC left out"
OTHER_XMP = "other XMP left out"
UNREADABLE_XMP = "unreadable XMP left out"
COMMENTS = "comments left out"
MANIFEST = "C2PA manifest left out"
UNREADABLE_EXIF = exif_block.UNREADABLE
GAIN_MAP = "HDR gain map left out"
MORE_PICTURES = "further pictures in the file left out"
ENCODED_ANEW = "pixels encoded anew"
OTHER_TYPE = "source type {} left out"
TOO_LONG = "{} left out: too long"

_MAX_EXIF_BYTES = 4000  # limit of a name or a notice; XMP may hold longer ones
_TAG = ExifTags.Base
_CARRIED_EXIF = frozenset(
    {_TAG.Copyright, _TAG.Artist, _TAG.XResolution, _TAG.YResolution, _TAG.ResolutionUnit}
)
_EXIF_NAMES = {"dc:rights": "Copyright", "dc:creator": "Artist"}
_TECHNICAL_EXIF = frozenset(
    {
        _TAG.Orientation,
        _TAG.YCbCrPositioning,
        _TAG.ExifOffset,
        _TAG.ImageWidth,
        _TAG.ImageLength,
        _TAG.ExifVersion,
        _TAG.ComponentsConfiguration,
        _TAG.FlashPixVersion,
        _TAG.ColorSpace,
        _TAG.ExifImageWidth,
        _TAG.ExifImageHeight,
        _TAG.ExifInteroperabilityOffset,
    }
)
# Photoshop's resources in a JPEG, one of which holds the datasets of IPTC's IIM 4.2.
_IPTC, _RESOLUTION, _THUMBNAILS = 0x0404, 0x03ED, (0x0409, 0x040C)
_IIM = {
    (2, 80): "dc:creator",
    (2, 110): "photoshop:Credit",
    (2, 115): "photoshop:Source",
    (2, 116): "dc:rights",
}
_IIM_TECHNICAL = {(1, 90), (2, 0)}  # character set, version
_MAX_IIM_FIELDS = 1000
# ImageMagick writes other formats' metadata into PNG texts, as hex after kind and length.
_RAW_PROFILE = "Raw profile type "
_XMP_IN_APP1 = b"http://ns.adobe.com/xap/1.0/\0"
_PNG_TEXT = {"Copyright": "dc:rights", "Author": "dc:creator"}
_JUMBF_OF_C2PA = b"jumdc2pa"
_GAIN_MAPS = (
    b"http://ns.adobe.com/hdr-gain-map/1.0/",
    b"urn:iso:std:iso:ts:21496:-1",
    b"http://ns.apple.com/HDRGainMap/1.0/",
)
_CM_PER_INCH = 2.54


@dataclass(frozen=True, eq=False)
class Raw:
    """A file's metadata as Pillow reads it, kept when its pixels are decoded."""

    format: str  # as Pillow calls it
    size_px: tuple[int, int]  # (width, height) as stored, before orientation
    mode: str
    info: Mapping[Any, Any]
    exif: Image.Exif
    text: Mapping[str, str]  # a PNG's texts
    passed_over: tuple[str, ...] = ()  # notes on parts that could not be read

    @classmethod
    def of(cls, image: Image.Image, passed_over: tuple[str, ...] = ()) -> Raw:
        exif = readable_exif(image)
        return cls(
            format=str(image.format),
            size_px=image.size,
            mode=image.mode,
            info=dict(image.info),
            exif=Image.Exif() if exif is None else exif,
            text=dict(getattr(image, "text", {})),
            passed_over=passed_over if exif is not None else (*passed_over, UNREADABLE_EXIF),
        )

    @property
    def orientation(self) -> int:
        """Return EXIF's orientation, 1 to 8. It is 1 for an AVIF, which has its own rotation."""
        found = self.exif.get(_TAG.Orientation, 1)
        return int(found) if self.format != "AVIF" and found in range(1, 9) else 1

    @property
    def xmp(self) -> bytes | None:
        found = self.info.get("xmp") or self.info.get("XML:com.adobe.xmp")
        found = found.encode() if isinstance(found, str) else found
        if found or "xmp" in (profiles := _raw_profiles(self.text)):
            return found or profiles["xmp"]
        app1 = profiles.get("APP1", b"")
        return app1.removeprefix(_XMP_IN_APP1) if app1.startswith(_XMP_IN_APP1) else None


def readable_exif(image: Image.Image) -> Image.Exif | None:
    """Return a picture's EXIF, or None if it cannot be read. Its pixels may still be sound."""
    block = image.info.get("exif")
    # Pillow would return a JPEG's as empty, without an error.
    if isinstance(block, bytes) and not exif_block.is_readable(block):
        return None
    try:
        return image.getexif()
    except Exception:  # Pillow raises many kinds on damaged EXIF
        return None


@dataclass(frozen=True, eq=False)
class SourceMetadata:
    """The metadata that is carried on, and notes on what is not."""

    properties: Mapping[str, Value] = field(default_factory=dict)  # XMP properties
    copyright: str | None = None  # for EXIF, like `artist`
    artist: str | None = None
    dpi: tuple[float, float] | None = None
    left_out: tuple[str, ...] = ()

    @property
    def source_type(self) -> str | None:
        """Return IPTC's URI of the source type, if the source states one."""
        return text_of(self.properties.get(SOURCE_TYPE))

    def exif(self, orientation: int = 1) -> bytes | None:
        """Return an EXIF block of this metadata alone, or None if it would be empty."""
        exif = Image.Exif()
        if orientation != 1:
            exif[_TAG.Orientation] = orientation
        for tag, text in ((_TAG.Artist, self.artist), (_TAG.Copyright, self.copyright)):
            if text:
                exif[tag] = text.encode()
        if self.dpi:
            exif[_TAG.XResolution], exif[_TAG.YResolution] = self.dpi
            exif[_TAG.ResolutionUnit] = 2
        return exif.tobytes() if len(exif) else None


def read(raw: Raw | None, file: bytes) -> SourceMetadata:
    """Read a source's metadata. Never raises: what cannot be read is left out and noted."""
    if raw is None:
        return SourceMetadata()
    left_out: list[str] = list(raw.passed_over)
    exif, resolution = _exif(raw.exif, left_out)
    found = _xmp(raw, file)
    resources = raw.info.get("photoshop")
    profiles = _raw_profiles(raw.text)
    if not isinstance(resources, dict) or not resources:
        resources = _resources(profiles.get("8bim") or profiles.get("iptc") or b"")
    iptc = _iptc(resources.get(_IPTC), left_out)
    text = {name: raw.text[key] for key, name in _PNG_TEXT.items() if raw.text.get(key)}
    properties = dict(found.properties)
    for name, value in [*iptc.items(), *_as_properties(exif), *_as_properties(text)]:
        properties.setdefault(name, value)
    left_out += [
        part
        for part, there in (
            (GPS, found.gps),
            (THUMBNAIL, found.thumbnail),
            (OTHER_XMP, found.others),
            (UNREADABLE_XMP, found.unreadable),
            (THUMBNAIL, any(each in resources for each in _THUMBNAILS)),
            (OTHER_IPTC, any(_differs(properties[name], value) for name, value in iptc.items())),
            (COMMENTS, "comment" in raw.info or bool(raw.text.keys() - _known_text(profiles))),
            (MORE_PICTURES, "mp" in raw.info),
            (GAIN_MAP, _has_gain_map(raw, file)),
            (MANIFEST, _JUMBF_OF_C2PA in file),
        )
        if there
    ]
    left_out += [TOO_LONG.format(name) for name in sorted(found.too_long)]
    return SourceMetadata(
        properties=properties,
        copyright=exif.get("dc:rights") or _short(properties, "dc:rights", "tiff:Copyright"),
        artist=exif.get("dc:creator") or _short(properties, "dc:creator", "tiff:Artist"),
        dpi=resolution or _dpi(raw, resources),
        left_out=tuple(dict.fromkeys(left_out)),
    )


def _xmp(raw: Raw, file: bytes) -> FoundXmp:
    found = parse_xmp(raw.xmp) if raw.xmp else FoundXmp()
    more = jpeg.more_xmp(file) if raw.format in ("JPEG", "MPO") else None
    return found.with_more(parse_xmp(more)) if more else found


def _has_gain_map(raw: Raw, file: bytes) -> bool:
    """Return whether a second picture in the file makes an HDR picture of it.

    It may be Ultra HDR, ISO 21496-1, or Apple's.
    """
    if raw.format == "AVIF":
        stated = avif_stated.stated(file)
        return stated is not None and stated.has_gain_map
    return raw.format in ("JPEG", "MPO") and any(each in file for each in _GAIN_MAPS)


def _known_text(profiles: Mapping[str, bytes]) -> set[str]:
    read = {kind for kind, body in profiles.items() if kind != "APP1" or _XMP_IN_APP1 in body}
    raw = {_RAW_PROFILE + kind for kind in {"exif", *read}}
    return {*_PNG_TEXT, "XML:com.adobe.xmp", *raw}


def _raw_profiles(texts: Mapping[str, str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for kind in ("xmp", "APP1", "iptc", "8bim"):
        parts = texts.get(_RAW_PROFILE + kind, "").split(maxsplit=2)
        with suppress(ValueError):
            if len(parts) == 3:
                found[kind] = bytes.fromhex(parts[2])
    return found


def _resources(data: bytes) -> dict[int, bytes]:
    """Parse Photoshop's resources: `8BIM`, number, name, length, content.

    Name and content are padded to an even length. Some programs write only the content of the IPTC
    resource, without the rest.
    """
    if data.startswith(b"\x1c"):
        return {_IPTC: data}
    found: dict[int, bytes] = {}
    at = 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        number = int.from_bytes(data[at + 4 : at + 6], "big")
        at += 6 + (data[at + 6] + 2) // 2 * 2
        length = int.from_bytes(data[at : at + 4], "big")
        found.setdefault(number, data[at + 4 : at + 4 + length])
        at += 4 + (length + 1) // 2 * 2
    return found


def _short(properties: Mapping[str, Value], *names: str) -> str | None:
    """Return the first of these properties that exists, if it is not too long for EXIF."""
    text = next(filter(None, (text_of(properties.get(name)) for name in names)), None)
    return text if text and len(text.encode()) <= _MAX_EXIF_BYTES else None


def _as_properties(texts: Mapping[str, str]) -> Iterator[tuple[str, Value]]:
    """Yield texts of EXIF or PNG as XMP properties.

    One text may hold several names, separated by semicolons.
    """
    for name, text in texts.items():
        if name == "dc:creator":
            names = tuple((None, each.strip()) for each in text.split(";") if each.strip())
            yield name, Array("Seq", names)
        else:
            yield name, Array("Alt", (("x-default", text),))


# ------------------------------------------------------------ EXIF


_Resolution = tuple[float, float]


def _exif(exif: Image.Exif, left_out: list[str]) -> tuple[dict[str, str], _Resolution | None]:
    """Return copyright and artist, by the equivalent XMP properties' names, and the resolution.

    Adds notes on other tags to `left_out`.
    """
    try:
        tags = set(exif)
        inner = exif.get_ifd(ExifTags.IFD.Exif) if ExifTags.IFD.Exif in tags else {}
        thumbnail = bool(exif.get_ifd(ExifTags.IFD.IFD1))
        carried = {tag: exif.get(tag) for tag in _CARRIED_EXIF}
    except Exception:  # Pillow raises many kinds on damaged EXIF
        left_out.append(OTHER_EXIF)
        return {}, None
    texts = {
        "dc:rights": _exif_text(carried[_TAG.Copyright]),
        "dc:creator": _exif_text(carried[_TAG.Artist]),
    }
    others = tags | inner.keys()
    if ExifTags.IFD.GPSInfo in others:
        left_out.append(GPS)
    if _TAG.MakerNote in others:
        left_out.append(MAKER_NOTES)
    if thumbnail:
        left_out.append(THUMBNAIL)
    if others - _CARRIED_EXIF - _TECHNICAL_EXIF - {ExifTags.IFD.GPSInfo, _TAG.MakerNote}:
        left_out.append(OTHER_EXIF)
    too_long = {name for name, text in texts.items() if len(text.encode()) > _MAX_EXIF_BYTES}
    left_out += [TOO_LONG.format(f"EXIF {_EXIF_NAMES[name]}") for name in sorted(too_long)]
    kept = {name: text for name, text in texts.items() if text and name not in too_long}
    down = carried[_TAG.YResolution]
    across = carried[_TAG.XResolution]
    inches = {2: 1.0, 3: _CM_PER_INCH}.get(carried[_TAG.ResolutionUnit] or 2, 0.0)
    return kept, _pair(across, across if down is None else down, inches)


def _exif_text(value: Any) -> str:
    if isinstance(value, str):  # Pillow decoded it as Latin-1
        value = value.encode("latin-1", "replace")
    # A photographer's and an editor's copyright are separated by a zero byte.
    parts = _decoded(value).split("\0") if isinstance(value, bytes) else []
    return "; ".join(each.strip() for each in parts if each.strip())


def _decoded(data: bytes) -> str:
    """Decode a text of EXIF or IIM.

    Their specifications say ASCII. Programs write UTF-8, or Latin-1 if they are older.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _dpi(raw: Raw, resources: Mapping[Any, Any]) -> _Resolution | None:
    """Return pixels per inch, across and down, from the container or Photoshop's resource."""
    found = None
    # Pillow reports 72 dpi for a JPEG that states none.
    if raw.format == "PNG" or raw.info.get("jfif_unit") in (1, 2):
        across, down = raw.info.get("dpi", (None, None))
        found = _pair(across, down, 1.0)
    stated = resources.get(_RESOLUTION)
    if not found and isinstance(stated, dict):  # its unit is for display only
        found = _pair(stated.get("XResolution"), stated.get("YResolution"), 1.0)
    return found


def _pair(across: Any, down: Any, factor: float) -> _Resolution | None:
    try:
        pair = float(across) * factor, float(down) * factor
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # A JPEG holds it in two bytes.
    return pair if all(math.isfinite(each) and 1 <= each <= 65_535 for each in pair) else None


def _iptc(data: Any, left_out: list[str]) -> dict[str, Value]:
    """Return the datasets that have an equivalent XMP property (IIM 4.2, chapter 3)."""
    if not isinstance(data, bytes):
        return {}
    found: dict[str, list[str]] = {}
    for dataset, text in _datasets(data):
        if dataset in _IIM and text.strip("\0 "):
            found.setdefault(_IIM[dataset], []).append(text.strip("\0 "))
        elif dataset not in _IIM_TECHNICAL:
            left_out.append(OTHER_IPTC)
    values: dict[str, Value] = {}
    for name, texts in found.items():
        if name == "dc:creator":
            values[name] = Array("Seq", tuple((None, each) for each in texts))
        elif name == "dc:rights":
            values[name] = Array("Alt", (("x-default", texts[0]),))
        else:
            values[name] = texts[0]
    return values


def _datasets(data: bytes) -> Iterator[tuple[tuple[int, int], str]]:
    at = 0
    for _ in range(_MAX_IIM_FIELDS):
        if data[at : at + 1] != b"\x1c" or at + 5 > len(data):
            return
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if length & 0x8000:  # an extended dataset, which holds no text
            return
        yield (data[at + 1], data[at + 2]), _decoded(data[at + 5 : at + 5 + length])
        at += 5 + length


def _differs(kept: Value, of_iptc: Value) -> bool:
    """Return whether IIM states something that the kept value does not. It cuts texts short."""
    ours = " ".join(texts_of(kept))
    return not all(text in ours for text in texts_of(of_iptc))
