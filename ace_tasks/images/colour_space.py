"""The colour space that a file states, in whatever way, as one ICC profile of RGB data.

The first way that can be used beats the others:

    PNG   cICP, iCCP, sRGB, gAMA and cHRM, EXIF     (PNG Specification, Third Edition, 4.3)
    AVIF  ICC profile, nclx, EXIF                   (ISO/IEC 23000-22, 7.3.6.4)
    JPEG, WebP    ICC profile, EXIF

EXIF knows sRGB and, by its interoperability index R03 (or colour space 2), Adobe RGB. Where no
profile of RGB data can express the colours, the pixels are converted to sRGB. A note names
whatever is passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import ExifTags

from ace_tasks.images import colour, hdr, icc
from ace_tasks.images.rewrap import avif_stated, jpeg, png
from ace_tasks.images.rewrap.parts import CannotRewrap

if TYPE_CHECKING:
    from ace_tasks.images.source_metadata import Raw

PROFILE_LEFT_OUT = "a colour profile that cannot be used, to none"
ONE_WAY = "an input-only colour profile, to sRGB"
GREY_TO_SRGB = "a grey colour profile, to sRGB"
HDR_TO_SRGB = "HDR ({}) to sRGB: light above SDR white is clipped"
CODES_PASSED_OVER = "unknown colour codes {}/{} of {}, taken for sRGB"
NARROW_RANGE = "narrow-range levels (cICP), taken for full range"
GAMMA_PASSED_OVER = "a gAMA or cHRM that cannot be used, taken for sRGB"
UNCALIBRATED = "colours that EXIF calls uncalibrated, taken for sRGB"
UNREADABLE_HEADER = "an AVIF header that states no colours, taken for sRGB"

_UNSPECIFIED = 2  # the same code in all tables of H.273
_SRGB = (1, 13)  # primaries, transfer
_EXPONENTS = (0.1, 10.0)  # accepted range of gAMA; PNG's own test pictures have 0.4 to 2.9
_COLOUR_SPACE, _INTEROPERABILITY_INDEX = 0xA001, 1
_EXIF_SRGB, _EXIF_ADOBE, _EXIF_UNCALIBRATED = 1, 2, 0xFFFF


Convert = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class ColourSpace:
    """The colour space of a picture's RGB data.

    `profile` is its ICC profile; None means sRGB, after `to_srgb` was applied if there is one. `by`
    is where the file states its colours; None means nowhere, so they are sRGB.
    """

    profile: bytes | None = None
    to_srgb: Convert | None = None  # (H, W, 3) uint8 → the same in sRGB
    by: Literal["profile", "container", "exif"] | None = None
    converted: tuple[str, ...] = ()  # notes on what could not be kept or was passed over


SRGB = ColourSpace()


def of(raw: Raw, file: bytes) -> ColourSpace:
    """Return the colour space of an opened picture that is not CMYK.

    Never raises, whatever the file contains.
    """
    notes: list[str] = []
    ways = {"PNG": _of_png, "AVIF": _of_avif}.get(raw.format, _of_profile)
    found = ways(raw, file, notes) or _of_exif(raw, notes) or SRGB
    return replace(found, converted=(*notes, *found.converted))


def _of_profile(raw: Raw, file: bytes, notes: list[str]) -> ColourSpace | None:
    has_profile = bool(raw.info.get("icc_profile")) or (
        raw.format in ("JPEG", "MPO") and _has_profile(file)
    )
    return _by_profile(raw, notes, has_profile=has_profile, is_grey=raw.mode == "L")


def _by_profile(
    raw: Raw, notes: list[str], *, has_profile: bool, is_grey: bool
) -> ColourSpace | None:
    """Return the colour space by the ICC profile, or None without a usable one.

    `has_profile`: the file holds a profile, readable or not. `is_grey`: a grey profile fits its
    pixels.
    """
    profile = raw.info.get("icc_profile")
    if isinstance(profile, bytes):  # a PNG text may have this name
        space = profile[16:20]
        if space == b"RGB ":
            if colour.usable(profile):
                return ColourSpace(profile, by="profile")
            if colour.fits(profile, "RGB"):
                return _converted(lambda rgb: colour.to_srgb(rgb, profile), ONE_WAY)
        elif space == b"GRAY" and is_grey and colour.fits(profile, "L"):
            made = icc.of_grey(profile)
            if made and colour.usable(made):
                return ColourSpace(made, by="profile")
            return _converted(lambda rgb: colour.grey_to_srgb(rgb[..., 0], profile), GREY_TO_SRGB)
    if has_profile:
        notes.append(PROFILE_LEFT_OUT)
    return None


def _converted(to_srgb: Convert, note: str) -> ColourSpace:
    return ColourSpace(to_srgb=to_srgb, by="profile", converted=(note,))


def _has_profile(file: bytes) -> bool:
    """Return whether a JPEG holds a part of a profile, even if its other parts are missing."""
    if jpeg.PROFILE not in file:
        return False
    try:
        return any(
            marker == 0xE2 and body.startswith(jpeg.PROFILE)
            for marker, body, _ in jpeg.segments(file)
        )
    except CannotRewrap:
        return False


def _by_codes(primaries: int, transfer: int, notes: list[str], of: str) -> ColourSpace | None:
    if (primaries, transfer) == (_UNSPECIFIED, _UNSPECIFIED):
        return None
    given = primaries, transfer
    primaries = _SRGB[0] if primaries == _UNSPECIFIED else primaries
    transfer = _SRGB[1] if transfer == _UNSPECIFIED else transfer
    if (primaries, transfer) == _SRGB:
        return ColourSpace(by="container")
    chromaticities = icc.H273_PRIMARIES.get(primaries)
    if chromaticities and transfer in hdr.NAMES:
        return ColourSpace(
            to_srgb=lambda rgb: hdr.to_srgb(rgb, transfer, chromaticities),
            by="container",
            converted=(HDR_TO_SRGB.format(hdr.NAMES[transfer]),),
        )
    curve = icc.H273_CURVES.get(transfer)
    if chromaticities and curve:
        return _made(f"CICP {primaries}/{transfer}", chromaticities, curve)
    notes.append(CODES_PASSED_OVER.format(*given, of))
    return None


def _made(
    name: str,
    primaries: icc.Primaries,
    curve: bytes,
    by: Literal["container", "exif"] = "container",
) -> ColourSpace | None:
    try:
        profile = icc.profile(name, primaries, curve)
    except ValueError:
        return None
    return ColourSpace(profile, by=by) if colour.usable(profile) else None


def _of_avif(raw: Raw, file: bytes, notes: list[str]) -> ColourSpace | None:
    stated = avif_stated.stated(file)
    has_profile = bool(raw.info.get("icc_profile"))
    found = _by_profile(
        raw, notes, has_profile=has_profile, is_grey=bool(stated and stated.is_grey)
    )
    if found:
        return found
    if stated is None:
        notes.append(UNREADABLE_HEADER)
    elif stated.cicp:
        return _by_codes(*stated.cicp[:2], notes, "nclx")
    return None


def _of_png(raw: Raw, file: bytes, notes: list[str]) -> ColourSpace | None:
    chunks = dict(_colour_chunks(file))
    if b"cICP" in chunks and len(chunks[b"cICP"]) == 4:
        primaries, transfer, _, full_range = chunks[b"cICP"]
        if found := _by_codes(primaries, transfer, notes, "cICP"):
            range_notes = () if full_range else (NARROW_RANGE,)
            return replace(found, converted=found.converted + range_notes)
    if b"iCCP" in chunks:
        found = _by_profile(
            raw, notes, has_profile=True, is_grey=raw.mode in ("1", "L", "LA", "I;16")
        )
        if found:
            return found
    if b"sRGB" in chunks:
        return ColourSpace(by="container")
    return _by_gamma(chunks.get(b"gAMA"), chunks.get(b"cHRM"), notes)


def _colour_chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, content) of the colour chunks before the pixels, the first of each kind.

    PNG wants them there. The pixels were read before, so everything in front of them is whole.
    """
    seen = set()
    for kind, body in png.chunks(file):
        if kind == b"IDAT":
            return
        if kind in (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM") and kind not in seen:
            seen.add(kind)
            yield kind, body


def _by_gamma(gamma: bytes | None, points: bytes | None, notes: list[str]) -> ColourSpace | None:
    """Return the colour space by gAMA and cHRM, or None without a usable one.

    Without gAMA the curve is sRGB's, and without cHRM the primaries are.
    """
    if gamma is None and points is None:
        return None
    curve, primaries = icc.SRGB_CURVE, icc.SRGB_PRIMARIES
    try:
        if gamma is not None:
            (level_exponent,) = struct.unpack(">I", gamma)
            exponent = 100_000 / level_exponent
            if not _EXPONENTS[0] <= exponent <= _EXPONENTS[1]:
                raise ValueError
            curve = icc.gamma_curve(exponent)
        if points is not None:
            white, red, green, blue = (
                (x / 100_000, y / 100_000) for x, y in struct.iter_unpack(">II", points)
            )
            primaries = icc.Primaries(red, green, blue, white)
    except (ValueError, ZeroDivisionError, struct.error):
        notes.append(GAMMA_PASSED_OVER)
        return None
    found = _made("PNG gAMA, cHRM", primaries, curve)
    if found is None:
        notes.append(GAMMA_PASSED_OVER)
    return found


def _of_exif(raw: Raw, notes: list[str]) -> ColourSpace | None:
    try:
        space = raw.exif.get_ifd(ExifTags.IFD.Exif).get(_COLOUR_SPACE)
    except Exception:  # Pillow raises many kinds on damaged EXIF; `source_metadata` reports it
        return None
    try:
        index = raw.exif.get_ifd(ExifTags.IFD.Interop).get(_INTEROPERABILITY_INDEX)
    except Exception:  # it is missing or damaged
        index = None
    if isinstance(index, str):
        index = index.encode("latin-1", "replace")
    is_r03 = isinstance(index, bytes) and index.rstrip(b"\0 ") == b"R03"
    if space == _EXIF_ADOBE or (is_r03 and space != _EXIF_SRGB):
        return _made("Adobe RGB (EXIF)", icc.ADOBE_PRIMARIES, icc.ADOBE_CURVE, "exif")
    if space == _EXIF_SRGB:
        return ColourSpace(by="exif")
    if isinstance(space, int) and not notes:
        notes.append(UNCALIBRATED)
    return None
