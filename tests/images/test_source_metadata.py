"""What a source says of its owner, in EXIF, IPTC, XMP and PNG text. If these break, a photographer's
name is lost, or a position and a thumbnail are published."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from ace_tasks.images import codec, source_metadata
from ace_tasks.images.source_metadata import SourceMetadata
from ace_tasks.provenance.xmp.packet import write_packet
from ace_tasks.provenance.xmp.properties import text_of, texts_of
from ace_tasks.provenance.xmp.reading import parse_xmp
from ace_tasks.settings import ImageLimits
from tests.provenance.test_xmp import EVERYTHING, TRAINED, alt
from tests.provenance.test_xmp import source as packet
from tests.support import hostile

LIMITS = ImageLimits()
TAG = ExifTags.Base


def metadata_of(data: bytes) -> SourceMetadata:
    picture = codec.decode(data, LIMITS)
    return source_metadata.read(picture.raw, picture.file)


def texts(found: SourceMetadata) -> dict[str, list[str]]:
    return {name: texts_of(value) for name, value in found.properties.items()}


def private_exif(**more: Any) -> Image.Exif:
    """EXIF as a camera writes it, with a position and a maker's notes."""
    exif = Image.Exif()
    exif[TAG.Make], exif[TAG.Model] = "Camera & Sons", "X-1"
    exif[TAG.Copyright], exif[TAG.Artist] = "(c) 2026 Nord", "Ann Other; Bo"
    exif[TAG.XResolution] = exif[TAG.YResolution] = 240.0
    exif[TAG.ResolutionUnit] = 2
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    inner[TAG.MakerNote] = b"serial number 123456"
    inner[TAG.UserComment] = b"ASCII\0\0\0private"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 30.0, 0.0)
    for tag, value in more.items():
        exif[getattr(TAG, tag)] = value
    return exif


def iptc(*datasets: tuple[int, int, bytes], more: bytes = b"") -> bytes:
    body = b"".join(
        struct.pack(">BBBH", 0x1C, record, number, len(text)) + text
        for record, number, text in datasets
    )
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(body)) + body + b"\0" * (len(body) % 2)
    return hostile.segment(0xED, b"Photoshop 3.0\0" + resource + more)


IIM = (
    (1, 90, b"\x1b%G"),
    (2, 80, "Ännchen".encode()),
    (2, 80, b"Bo"),
    (2, 110, b"Nord Credit"),
    (2, 115, b"Nord Archive"),
    (2, 116, "© Nord".encode()),
)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_alone_says_whose_it_is_and_the_camera_is_left_out(kind: str) -> None:
    found = metadata_of(hostile.file(kind, exif=private_exif()))
    assert texts(found) == {"dc:rights": ["(c) 2026 Nord"], "dc:creator": ["Ann Other", "Bo"]}
    assert (found.copyright, found.artist) == ("(c) 2026 Nord", "Ann Other; Bo")
    assert found.dpi == (240, 240)
    assert found.left_out == (
        "GPS position left out",
        "maker notes left out",
        "other EXIF left out",
    )
    made = found.exif()
    assert made is not None
    assert len(made) < 200
    exif = Image.Exif()
    exif.load(made)
    assert exif.keys() == source_metadata._CARRIED_EXIF
    assert (exif[TAG.Copyright], exif[TAG.XResolution]) == ("(c) 2026 Nord", 240)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        pytest.param(b"\xc2\xa9 Nord", "© Nord", id="utf-8"),
        pytest.param(b"\xa9 Nord", "© Nord", id="latin-1"),
        pytest.param(b"Ann\0Ed the editor", "Ann; Ed the editor", id="two-parts"),
        pytest.param(b" \0Ed the editor", "Ed the editor", id="editor-only"),
        pytest.param(b" \0", None, id="blank"),
        pytest.param(b"x" * 5000, None, id="too-long"),
    ],
)
def test_a_copyright_in_exif_is_read_as_it_was_meant(stated: bytes, expected: str | None) -> None:
    exif = Image.Exif()
    exif[TAG.Copyright] = stated
    found = metadata_of(hostile.file("JPEG", exif=exif))
    assert found.copyright == expected
    assert found.left_out == (("EXIF Copyright left out: too long",) if len(stated) > 99 else ())


def test_iptc_alone_becomes_xmp_and_exif() -> None:
    found = metadata_of(hostile.jpeg(iptc(*IIM)))
    assert texts(found) == {
        "dc:creator": ["Ännchen", "Bo"],
        "photoshop:Credit": ["Nord Credit"],
        "photoshop:Source": ["Nord Archive"],
        "dc:rights": ["© Nord"],
    }
    assert (found.copyright, found.artist) == ("© Nord", "Ännchen; Bo")
    assert found.left_out == ()
    found = metadata_of(hostile.jpeg(iptc((2, 116, b"\xa9 Nord"), (2, 25, b"a keyword"))))
    assert texts(found) == {"dc:rights": ["© Nord"]}
    assert found.left_out == ("other IPTC left out",)


def test_xmp_comes_before_iptc_and_that_before_exif() -> None:
    exif = Image.Exif()
    exif[TAG.Copyright] = "by EXIF"
    rights = packet(f"<dc:rights>{alt(x_default='by XMP')}</dc:rights>")
    data = hostile.jpeg(iptc((2, 116, b"by IPTC"), (2, 80, b"Bo")), exif=exif, xmp=rights)
    found = metadata_of(data)
    assert texts(found) == {"dc:rights": ["by XMP"], "dc:creator": ["Bo"]}
    assert found.copyright == "by EXIF"  # each stays where it stood
    assert found.left_out == ("other IPTC left out",)
    cut_short = hostile.jpeg(iptc((2, 116, b"by XM")), xmp=rights)
    assert metadata_of(cut_short).left_out == ()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(iptc((2, 80, b"A"))[:-3], id="cut"),
        pytest.param(iptc(more=b"8BIM\x04\x04\0\0\xff\xff\xff\xff"), id="of-4-gb"),
        pytest.param(iptc((9, 9, b"\xff" * 99)), id="binary"),
        pytest.param(hostile.segment(0xED, b"Photoshop 3.0\0" + b"8BIM" * 1000), id="resources"),
        pytest.param(hostile.segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"), id="exif-nowhere"),
        pytest.param(hostile.exif([(0x8298, 2, 1 << 30, 8)]), id="exif-of-a-gigabyte"),
        pytest.param(
            hostile.segment(0xE1, hostile.exif([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8)], after=8)),
            id="exif-in-a-circle",
        ),
        pytest.param(
            hostile.segment(0xE1, hostile.exif([(0x011A, 5, 1, 0), (0x8298, 5, 9, 9)])),
            id="exif-of-other-types",
        ),
    ],
)
def test_damaged_metadata_never_costs_the_picture(data: bytes) -> None:
    if not data.startswith(b"\xff"):
        data = hostile.segment(0xE1, data)
    found = metadata_of(hostile.jpeg(data))
    assert found.copyright is None
    assert found.exif() is None


def with_text() -> bytes:
    info = PngInfo()
    info.add_text("Author", "Ann; Bo")
    info.add_itxt("Copyright", "© Nord")
    info.add_text("Comment", "private")
    return hostile.file("PNG", pnginfo=info)


def test_png_texts_name_the_owner_as_well() -> None:
    found = metadata_of(with_text())
    assert texts(found) == {"dc:rights": ["© Nord"], "dc:creator": ["Ann", "Bo"]}
    assert found.left_out == ("comments left out",)


def behind_the_pixels() -> bytes:
    data = hostile.file("PNG")
    text = hostile.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + EVERYTHING)
    return data[:-12] + text + data[-12:]


def in_two_segments() -> bytes:
    """XMP of a JPEG that did not fit, as Photoshop writes it."""
    rest = EVERYTHING[EVERYTHING.index(b"<x:xmpmeta") :]
    half = len(rest) // 2
    more = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32
    head = packet(f"<ext:DigitalSourceType>{TRAINED}</ext:DigitalSourceType>")
    return hostile.jpeg(
        hostile.segment(0xE1, more + struct.pack(">II", len(rest), half) + rest[half:]),
        hostile.segment(0xE1, more + struct.pack(">II", len(rest), 0) + rest[:half]),
        xmp=head,
    )


def raw_profile(kind: str, body: bytes) -> bytes:
    """A PNG as ImageMagick writes it, with metadata of a JPEG."""
    info = PngInfo()
    info.add_text(f"Raw profile type {kind}", f"\n{kind}\n{len(body):8}\n{body.hex()}\n", zip=True)
    return hostile.file("PNG", pnginfo=info)


@pytest.mark.parametrize("kind", ["iptc", "8bim"])
@pytest.mark.parametrize("resource", [True, False], ids=["resources", "iim-alone"])
def test_iptc_is_read_from_the_texts_of_a_png(kind: str, resource: bool) -> None:
    body = iptc(*IIM)
    body = body[body.index(b"8BIM") if resource else body.index(b"\x1c") :]
    found = metadata_of(raw_profile(kind, body))
    assert (found.copyright, found.artist) == ("© Nord", "Ännchen; Bo")
    assert text_of(found.properties["photoshop:Credit"]) == "Nord Credit"
    assert found.left_out == ()
    for broken in (b"8BIM\x04\x04\xff", b"8BIM\x04\x04\0\0\xff\xff\xff\xff", b"8BIM" * 9):
        assert metadata_of(raw_profile(kind, broken)).properties == {}
    info = PngInfo()
    info.add_text(f"Raw profile type {kind}", "\nno hex\n")
    assert metadata_of(hostile.file("PNG", pnginfo=info)).left_out == ("comments left out",)


def test_exifs_fields_in_xmp_name_the_owner() -> None:
    space = 'xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
    named = f"<tiff:Copyright {space}>© Nord</tiff:Copyright><tiff:Artist {space}>Ann</tiff:Artist>"
    found = metadata_of(hostile.file("JPEG", xmp=packet(named)))
    assert texts(found) == {"tiff:Copyright": ["© Nord"], "tiff:Artist": ["Ann"]}
    assert (found.copyright, found.artist) == ("© Nord", "Ann")
    both = packet(named + f"<dc:rights>{alt(x_default='by XMP')}</dc:rights>")
    assert metadata_of(hostile.file("JPEG", xmp=both)).copyright == "by XMP"


def test_a_label_of_gb_45438_is_carried() -> None:
    label = '{"Label":"1","ContentProducer":"Model 3"}'
    space = 'xmlns:TC260="http://www.tc260.org.cn/ns/AIGC/1.0/"'
    found = metadata_of(
        hostile.file("JPEG", xmp=packet(f"<TC260:AIGC {space}>{label}</TC260:AIGC>"))
    )
    assert texts(found) == {"TC260:AIGC": [label]}
    written, _ = write_packet({}, None, found.properties)
    assert parse_xmp(written or b"").properties == found.properties


PLACES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: hostile.file("JPEG", xmp=EVERYTHING),
    "jpeg-in-two-segments": in_two_segments,
    "png-behind-the-pixels": behind_the_pixels,
    "png-in-a-raw-profile": lambda: raw_profile("xmp", EVERYTHING),
    "png-in-a-raw-segment": lambda: raw_profile("APP1", source_metadata._XMP_IN_APP1 + EVERYTHING),
    "webp": lambda: hostile.file("WEBP", xmp=EVERYTHING),
    "avif": lambda: hostile.file("AVIF", xmp=EVERYTHING),
}


@pytest.mark.parametrize("place", PLACES)
def test_xmp_is_found_in_every_kind_of_file(place: str) -> None:
    found = metadata_of(PLACES[place]())
    assert texts(found)["dc:rights"] == ["© Nord", "© Nord GmbH"]
    assert (found.copyright, found.artist) == ("© Nord", "Ann & Co; Bo <b>")
    assert found.left_out == (
        "GPS position left out",
        "thumbnail left out",
        "other XMP left out",
    )
    assert found.source_type == (TRAINED if "two" in place else None)


@pytest.mark.parametrize(
    ("data", "dpi"),
    [
        pytest.param(hostile.file("JPEG", dpi=(300, 150)), (300, 150), id="jfif"),
        pytest.param(hostile.file("PNG", dpi=(300, 300)), (299.9994, 299.9994), id="png"),
        pytest.param(hostile.file("JPEG"), None, id="none"),
        pytest.param(hostile.file("JPEG", exif=private_exif(Artist="A")), (240, 240), id="exif"),
        pytest.param(
            hostile.file(
                "WEBP", exif=private_exif(XResolution=100.0, YResolution=50.0, ResolutionUnit=3)
            ),
            (254, 127),
            id="centimetres",
        ),
        pytest.param(hostile.file("JPEG", exif=private_exif(ResolutionUnit=1)), None, id="no-unit"),
        pytest.param(hostile.file("WEBP", exif=private_exif(XResolution=0.0)), None, id="zero"),
    ],
)
def test_resolution_is_what_the_file_states(data: bytes, dpi: tuple[float, float] | None) -> None:
    found = metadata_of(data).dpi
    assert found == (pytest.approx(dpi, abs=0.001) if dpi else None)


def test_other_pictures_in_the_file_are_named() -> None:
    views = [Image.new("RGB", (32, 32), each) for each in ("red", "blue")]
    out = io.BytesIO()
    views[0].save(out, "MPO", save_all=True, append_images=views[1:])
    assert metadata_of(out.getvalue()).left_out == ("further pictures in the file left out",)
    small = b"8BIM\x04\x0c\0\0\0\0\0\4abcd"
    assert metadata_of(hostile.jpeg(iptc(more=small))).left_out == ("thumbnail left out",)
    assert metadata_of(hostile.file("JPEG", comment=b"x")).left_out == ("comments left out",)


GAIN = b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(hostile.file("JPEG", xmp=packet(attributes=GAIN.decode())), id="Ultra HDR"),
        pytest.param(
            hostile.file("JPEG") + hostile.file("JPEG", xmp=b"http://ns.apple.com/HDRGainMap/1.0/"),
            id="Apple",
        ),
    ],
)
def test_a_gain_map_is_noted(data: bytes) -> None:
    """Without it the result is the SDR picture that it was made for."""
    assert source_metadata.GAIN_MAP in metadata_of(data).left_out
    assert source_metadata.GAIN_MAP not in metadata_of(hostile.file("JPEG")).left_out


def test_a_gain_map_of_an_avif_is_noted() -> None:
    data = hostile.file("AVIF", exif=private_exif())
    assert source_metadata.GAIN_MAP not in metadata_of(data).left_out
    at = data.index(b"Exif", data.index(b"iinf"))  # an item of another kind
    found = source_metadata.read(
        codec.decode(data, LIMITS).raw, data[:at] + b"tmap" + data[at + 4 :]
    )
    assert source_metadata.GAIN_MAP in found.left_out
