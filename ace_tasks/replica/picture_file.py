"""The file of a finished picture: encoded, with marks and its source's own metadata."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from ace_tasks import __version__
from ace_tasks.errors import BadImage
from ace_tasks.images import codec, colour, colour_space, source_metadata
from ace_tasks.images.codec import FileMetadata, Picture
from ace_tasks.images.rewrap.formats import rewrap
from ace_tasks.images.rewrap.parts import Beside
from ace_tasks.images.source_metadata import Raw, SourceMetadata
from ace_tasks.provenance import c2pa_marks
from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.xmp.packet import marks_of, write_packet
from ace_tasks.provenance.xmp.source_type import SOURCE_TYPE, after_edit, by_a_model
from ace_tasks.replica.edit import EditedPixels, PictureEdit
from ace_tasks.settings import ImageLimits, MarkSettings
from ace_tasks.specs import EXTENSIONS, MEDIA_TYPES, ImageFormat, ModelIdentity, Resolved
from ace_tasks.store import join_uri

_TO_SRGB = "colour profile to sRGB, as the preset asks"


@dataclass(frozen=True, eq=False)
class File:
    """An encoded picture."""

    format: ImageFormat
    data: bytes
    lossless: bool = False  # whether it holds exactly the pixels that it was made from
    source_type: str | None = None  # IPTC's URI, in its XMP
    converted: tuple[str, ...] = ()  # sentences about what of its source could not be kept

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def extension(self) -> str:
        return EXTENSIONS[self.format]

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.format]


@dataclass(frozen=True, eq=False)
class FileMaker:
    """Makes the files of one model's pictures."""

    identity: ModelIdentity
    marks: MarkSettings
    limits: ImageLimits
    output_uri: str | None = None  # None: pictures have no records that marks could name
    signs: bool = False  # whether files are signed afterwards

    def encode(self, edit: PictureEdit, pixels: EditedPixels, item_id: str, *, ran: bool) -> File:
        """Encode a finished picture, with its marks and its source's metadata.

        `ran` says whether a model ran. Raises BadImage.
        """
        image = edit.pictures.image
        source = _metadata(image) if image else SourceMetadata()
        source_type = self._source_type(edit.resolved.task, source, ran=ran)
        ours = self._ours(edit.resolved, item_id, ran=ran) if self.marks.xmp else {}
        packet, too_long = write_packet(ours, source_type, source.properties)
        file = None if ran else _rewrapped(edit, packet, source, self.limits)
        file = file or _encoded(edit, pixels, packet, source, ran=ran)
        converted = list(file.converted)
        if pixels.placed and image and image.icc_profile:
            converted.append(_TO_SRGB)
        converted += [each for each in source.left_out if not self._kept(each)]
        converted += [source_metadata.TOO_LONG.format(name) for name in too_long]
        if source.source_type not in (None, source_type):
            converted.append(source_metadata.OTHER_TYPE.format(source.source_type))
        converted += pixels.left_out
        return replace(file, source_type=source_type, converted=tuple(dict.fromkeys(converted)))

    def _source_type(self, task: str, source: SourceMetadata, *, ran: bool) -> str | None:
        """Return the source type for the XMP; without our marks, the source's if still true."""
        if self.marks.xmp:
            return after_edit(task, source.source_type, ran=ran)
        kept = not ran or by_a_model(source.source_type)
        return source.source_type if kept else None

    def _kept(self, left_out: str) -> bool:
        """Return whether signing keeps it: a source's manifest is an ingredient of the new one."""
        return left_out == source_metadata.MANIFEST and self.signs

    def _ours(self, resolved: Resolved, item_id: str, *, ran: bool) -> dict[str, str]:
        output_uri = self.output_uri
        speed = ", speed fast (lossy)" if resolved.shortcuts else ""
        return marks_of(
            tool=f"ace-catalog {__version__}",
            item_id=item_id,
            record_uri=join_uri(output_uri, record_key(item_id)) if output_uri else None,
            system=f"ACE++, variant {self.identity.variant}{speed}" if ran else None,
            system_version=self.identity.fingerprint,
            prompt=resolved.prompt if self.marks.prompt else None,
        )


def _metadata(image: Picture) -> SourceMetadata:
    """Return the metadata of a source. Some models mark their pictures only by C2PA."""
    found = source_metadata.read(image.raw, image.file)
    if source_metadata.MANIFEST in found.left_out and not by_a_model(found.source_type):
        by_manifest = c2pa_marks.source_type(image.file, image.format)
        if by_manifest:
            return replace(found, properties={**found.properties, SOURCE_TYPE: by_manifest})
    return found


def _encoded(
    edit: PictureEdit, pixels: EditedPixels, xmp: bytes | None, source: SourceMetadata, *, ran: bool
) -> File:
    """Encode a picture as the row asks, or in its source's format. Raises BadImage."""
    resolved, image, format_ = edit.resolved, edit.pictures.image, _format(edit)
    rgb, alpha = pixels.rgb, pixels.alpha
    if alpha is not None and format_ == "jpeg":
        rgb, alpha = codec.on_white(rgb, alpha), None
    metadata = FileMetadata(pixels.icc_profile, xmp, source.exif(), source.dpi)
    data = codec.encode(rgb, format_, resolved.quality, alpha, metadata)
    lossless = codec.is_lossless(format_, resolved.quality)
    converted = image.converted if image else ()
    untouched = not (ran or resolved.preset or resolved.background)
    if untouched and not lossless and image is not None and image.format == format_:
        converted += (source_metadata.ENCODED_ANEW,)
    return File(format_, data, lossless, converted=converted)


def _rewrapped(
    edit: PictureEdit, xmp: bytes | None, source: SourceMetadata, limits: ImageLimits
) -> File | None:
    """Return the source's own coded pixels with other metadata, if the row does not change them.

    None means that the row changes them, or that the source's container is an unusual one.
    """
    resolved, image, format_ = edit.resolved, edit.pictures.image, _format(edit)
    if image is None or image.raw is None or format_ != image.format:
        return None
    if resolved.preset or resolved.background is not None:
        return None
    raw = image.raw
    profile = _profile_beside(image, raw)
    if image.space.by == "exif" and profile and not colour.fits(profile, raw.mode):
        # Its EXIF colour space is not kept, and grey pixels cannot have the profile it stands for.
        return None
    beside = Beside(
        size_px=raw.size_px,
        xmp=xmp,
        exif=source.exif(raw.orientation),
        dpi=source.dpi,
        profile=profile,
    )
    data = rewrap(image.file, format_, beside)
    if data is None or not _looks_the_same(data, image, limits):
        return None
    is_lost = raw.info.get("icc_profile") and not profile
    converted = (colour_space.PROFILE_LEFT_OUT,) if is_lost else ()
    return File(format_, data, lossless=True, converted=converted)


def _profile_beside(image: Picture, raw: Raw) -> bytes | None:
    """Return the profile for a file with the same coded pixels.

    Colour information in parts of their own, such as PNG's chunks, is kept with the pixels.
    """
    stated = raw.info.get("icc_profile")
    if image.space.by == "exif":
        return image.icc_profile
    return stated if image.space.by == "profile" or colour.fits(stated, raw.mode) else None


def _format(edit: PictureEdit) -> ImageFormat:
    if edit.resolved.format != "source":
        return edit.resolved.format
    assert edit.pictures.image is not None  # `resolve` gives PNG where there is no source
    return edit.pictures.image.format


def _looks_the_same(data: bytes, image: Picture, limits: ImageLimits) -> bool:
    """Return whether a file decodes to exactly the pixels of a picture, with the same profile."""
    try:
        found = codec.decode(data, limits)
    except BadImage:
        return False
    planes = ((found.rgb, image.rgb), (found.alpha, image.alpha), (found.straight, image.straight))
    return found.icc_profile == image.icc_profile and all(
        np.array_equal(ours, theirs) if ours is not None and theirs is not None else ours is theirs
        for ours, theirs in planes
    )
