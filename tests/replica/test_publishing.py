"""What is published of a source's own words, and of a picture in which nothing is painted.

If these break, the mark that a model made a picture is lost, its owner's name goes, or a file that
was to stay as it is comes out worse.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from ace_tasks.images import codec
from ace_tasks.provenance import c2pa_marks
from ace_tasks.provenance.record import Record
from ace_tasks.provenance.xmp.packet import read_marks
from ace_tasks.replica.replica import Replica
from ace_tasks.runs.reproduce import Asked, Reproducer
from ace_tasks.settings import ImageLimits, MarkSettings, read_environment
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri
from infra.object_store import ObjectStore
from tests.conftest import BUCKET
from tests.images.test_rewrap import stored
from tests.images.test_source_metadata import (
    IIM,
    TAG,
    iptc,
    metadata_of,
    private_exif,
    texts,
    with_text,
)
from tests.provenance.test_signing import made_by, manifest
from tests.provenance.test_xmp import EVERYTHING, IPTC, PART, TRAINED, alt, seen
from tests.provenance.test_xmp import source as packet
from tests.replica.test_replica import new_replica
from tests.scenarios.test_real_pictures import FILES
from tests.support import hostile, signing_keys
from tests.support.processes import run
from tests.support.signing_keys import SigningKeys

LIMITS = ImageLimits()
BOX = {"box": [0.1, 0.1, 0.4, 0.4]}
MARKED = packet(f"<ext:DigitalSourceType>{TRAINED}</ext:DigitalSourceType>")
RIGHTS = packet(
    f"<dc:rights>{alt(x_default='(c) 2026 Studio Nord')}</dc:rights>"
    "<dc:creator><rdf:Seq><rdf:li>A. Photographer</rdf:li></rdf:Seq></dc:creator>",
    'photoshop:Credit="Studio Nord" xmpRights:WebStatement="https://shop.test/licence"',
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SigningKeys:
    return signing_keys.make(tmp_path_factory.mktemp("ca"), "Shop")


@pytest.fixture(scope="module")
def replica(object_store: ObjectStore, weights_dir: Path) -> Replica:
    return new_replica(weights_dir, f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}", torch_threads=1)


def nothing_to_paint(item: WorkItem) -> WorkItem:
    """The same item with a mask that selects nothing, and may."""
    steps = item.resolved.mask_steps
    assert steps is not None
    steps = steps.model_copy(update={"allow_empty": True, "invert": True})
    resolved = item.resolved.model_copy(update={"mask_steps": steps})
    return item.model_copy(update={"resolved": resolved, "item_id": item.item_id[::-1]})


Publish = Callable[..., tuple[bytes, Record]]


@pytest.fixture
def published(
    planned: Callable[..., WorkItem], replica: Replica, store: Store, prefix: str
) -> Publish:
    """Publish a source, edited in a box or untouched; gives file and record."""

    def publish(
        data: bytes, untouched: bool = False, by: Replica = replica, **row: Any
    ) -> tuple[bytes, Record]:
        store.put(join_uri(prefix, "in/source"), data, "image/any")
        mask = {"box": [0, 0, 1, 1]} if untouched else BOX
        row = {"task": "fill", "image": "in/source", "mask": mask, "steps": 1} | row
        item = planned(**row)
        item = nothing_to_paint(item) if untouched else item
        return made_by(by, item, store, by.settings.output_uri)

    return publish


def converted(record: Record) -> tuple[str, ...]:
    assert record.sources.image is not None
    return record.sources.image.converted


def marked_as(data: bytes, record: Record) -> str | None:
    """The source type, which XMP and record must say alike."""
    found = codec.xmp_of(data)
    assert record.marks is not None
    assert read_marks(found).source_type == record.marks.digital_source_type
    return record.marks.digital_source_type


# ---------------------------------------------------------------- marks that a model made it


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp", "avif"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_generated_picture_stays_marked_as_one(
    published: Publish, kind: str, format_: str
) -> None:
    data = generated(kind)
    for more in ({}, {"untouched": True}, {"untouched": True, "preset": "white-1000"}):
        out, record = published(data, format=format_, **more)
        assert marked_as(out, record) == TRAINED, more
        assert (record.sampling is None) == ("untouched" in more)


def generated(kind: str) -> bytes:
    if kind != "PNG":
        return hostile.file(kind, xmp=MARKED)
    data = hostile.file("PNG")
    text = hostile.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + MARKED)
    return data[:33] + text + data[33:]


def test_a_photograph_becomes_a_composite_and_its_own_type_is_named(published: Publish) -> None:
    capture = packet(attributes=f'ext:DigitalSourceType="{IPTC}digitalCapture"')
    out, record = published(hostile.file("JPEG", xmp=capture))
    assert marked_as(out, record) == PART
    assert converted(record) == (f"source type {IPTC}digitalCapture left out",)
    out, record = published(hostile.file("JPEG", xmp=capture), untouched=True)
    assert marked_as(out, record) == f"{IPTC}digitalCapture"
    assert converted(record) == ()
    out, record = published(hostile.file("JPEG"), untouched=True)
    assert marked_as(out, record) is None


def test_a_mark_in_c2pa_alone_is_carried_on(
    published: Publish,
    planned: Callable[..., WorkItem],
    made: SigningKeys,
    weights_dir: Path,
    prefix: str,
    store: Store,
) -> None:
    """Some generators mark their pictures by a signed manifest and by nothing else."""
    marks = MarkSettings(key=str(made.key), certificates=str(made.chain), xmp=False)
    signer = new_replica(weights_dir, join_uri(prefix, "signed"), marks=marks)
    new = planned(task="reference", reference="in/ref.png", width=96, height=64, format="jpeg")
    whole, record = made_by(signer, new, store, signer.settings.output_uri)
    assert codec.xmp_of(whole) is None
    assert c2pa_marks.source_type(whole, "jpeg") == TRAINED
    out, record = published(whole)
    assert marked_as(out, record) == TRAINED
    assert converted(record) == ("C2PA manifest left out",)
    part, record = published(whole, by=signer)
    assert codec.xmp_of(part) is not None  # what the source says is carried on all the same
    assert converted(record) == ()
    assert c2pa_marks.source_type(part, "jpeg") == TRAINED
    photograph, _ = published(hostile.file("JPEG"), by=signer)
    assert c2pa_marks.source_type(photograph, "jpeg") == PART
    assert c2pa_marks.source_type(hostile.file("JPEG"), "jpeg") is None
    assert c2pa_marks.source_type(whole.replace(b"cbor", b"cbos"), "jpeg") in (None, TRAINED)


def test_without_our_marks_what_the_source_says_stays_if_it_is_still_true(
    published: Publish, weights_dir: Path, prefix: str
) -> None:
    silent = new_replica(weights_dir, prefix, marks=MarkSettings(xmp=False))
    out, record = published(hostile.file("JPEG", xmp=MARKED), by=silent)
    assert record.marks is not None
    assert (record.marks.xmp, record.marks.digital_source_type) == (False, TRAINED)
    found = codec.xmp_of(out)
    assert found is not None
    assert TRAINED.encode() in found
    assert b"ace" not in found
    capture = packet(attributes=f'ext:DigitalSourceType="{IPTC}digitalCapture"')
    out, record = published(hostile.file("JPEG", xmp=capture), by=silent)
    assert codec.xmp_of(out) is None


# ---------------------------------------------------------------- rights


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp", "avif"])
def test_rights_and_resolution_are_in_the_result(published: Publish, format_: str) -> None:
    exif = Image.Exif()
    exif[TAG.Copyright], exif[TAG.Artist] = "(c) 2026 Studio Nord", "A. Photographer"
    data = hostile.file("JPEG", xmp=RIGHTS, exif=exif, dpi=(300, 300))
    out, record = published(data, format=format_)
    assert converted(record) == ()
    with Image.open(io.BytesIO(out)) as image:
        assert image.getexif()[TAG.Copyright] == "(c) 2026 Studio Nord"
        assert image.getexif()[TAG.Artist] == "A. Photographer"
        assert image.getexif()[TAG.XResolution] == 300
        if format_ in ("png", "jpeg"):
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
    found = codec.xmp_of(out)
    assert found is not None
    rdf = seen(found)["RDF"]["Description"]
    assert rdf["rights"]["Alt"]["li"] == {"lang": "x-default", "text": "(c) 2026 Studio Nord"}
    assert rdf["creator"]["Seq"]["li"] == "A. Photographer"
    assert (rdf["Credit"], rdf["WebStatement"]) == ("Studio Nord", "https://shop.test/licence")
    assert marked_as(out, record) == PART
    assert rdf["Item"] == record.item_id


ONLY_IN = {
    "exif": lambda: hostile.file("WEBP", exif=private_exif()),
    "iptc": lambda: hostile.jpeg(iptc(*IIM)),
    "png-text": with_text,
    "everything": lambda: hostile.jpeg(iptc(*IIM), xmp=EVERYTHING, exif=private_exif()),
}


@pytest.mark.parametrize("untouched", [False, True], ids=["edited", "untouched"])
@pytest.mark.parametrize("place", ONLY_IN)
def test_what_stands_in_one_place_is_carried_and_private_things_are_not(
    published: Publish, place: str, untouched: bool
) -> None:
    data = ONLY_IN[place]()
    out, record = published(data, untouched)
    before, after = metadata_of(data), metadata_of(out)
    assert (after.copyright, after.artist) == (before.copyright, before.artist)
    for name, value in before.properties.items():
        assert after.properties[name] == value
    assert after.left_out == ()
    assert converted(record) == before.left_out
    with Image.open(io.BytesIO(out)) as image:
        exif = image.getexif()
        assert ExifTags.IFD.GPSInfo not in exif
        assert ExifTags.IFD.Exif not in exif
        assert not exif.get_ifd(ExifTags.IFD.IFD1)
    for private in (b"serial number", b"private", b"Camera &", b"52,30N"):
        assert private not in out


def test_broken_and_hostile_xmp_is_named_and_costs_nothing_else(published: Publish) -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "b">]>' + RIGHTS
    for bad in (bomb, b"\xff" * 99, RIGHTS[:300]):
        out, record = published(hostile.jpeg(iptc(*IIM), xmp=bad))
        assert "unreadable XMP left out" in converted(record)
        assert texts(metadata_of(out))["dc:rights"] == ["© Nord"]
        assert b"DOCTYPE" not in out


# ---------------------------------------------------------------- nothing to be painted

UNTOUCHED = {
    "jpeg": lambda: hostile.file("JPEG", quality=70),
    "png": lambda: hostile.file("PNG"),
    "webp": lambda: hostile.file("WEBP", quality=40),
    "avif": lambda: hostile.file("AVIF", quality=40),
} | FILES


@pytest.mark.parametrize("name", UNTOUCHED)
def test_where_nothing_is_painted_the_coded_pixels_stay(published: Publish, name: str) -> None:
    data = UNTOUCHED[name]()
    out, record = published(data, untouched=True, quality=30)
    assert stored(out) == stored(data)
    before, after = codec.decode(data, LIMITS), codec.decode(out, LIMITS)
    assert np.array_equal(before.rgb, after.rgb)
    assert after.size_px == record.output.size_px
    assert record.output.lossless
    straight = after.rgb if after.straight is None else after.straight
    assert record.output.pixels_sha256 == codec.pixels_sha256(straight, after.alpha)
    assert converted(record) == ()  # not even 16 bits are lost
    assert read_marks(codec.xmp_of(out)).item_id == record.item_id


def test_an_untouched_phone_picture_keeps_its_first_view_only(published: Publish) -> None:
    views = [Image.new("RGB", (64, 48), each) for each in ("red", "blue")]
    out = io.BytesIO()
    views[0].save(out, "MPO", save_all=True, append_images=views[1:])
    made, record = published(out.getvalue(), untouched=True)
    assert stored(made) == stored(out.getvalue())
    assert converted(record) == ("further pictures in the file left out",)
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, image.info.get("mp")) == ("JPEG", None)


def test_a_picture_that_is_turned_by_xmp_alone_stays_turned(published: Publish) -> None:
    """Pillow goes by it where EXIF says nothing; the XMP that said so is not carried."""
    turned = packet(attributes='tiff:Orientation="6"', tiff="http://ns.adobe.com/tiff/1.0/")
    data = hostile.file("JPEG", xmp=turned)
    out, record = published(data, untouched=True)
    assert record.output.size_px == codec.decode(data, LIMITS).size_px == (64, 96)
    assert np.array_equal(codec.decode(out, LIMITS).rgb, codec.decode(data, LIMITS).rgb)
    with Image.open(io.BytesIO(out)) as image:
        assert image.getexif()[TAG.Orientation] == 6


def test_another_format_or_frame_is_encoded(published: Publish) -> None:
    out, record = published(FILES["cmyk"](), untouched=True, format="png")
    assert converted(record) == ("CMYK to sRGB",)
    out, record = published(FILES["turned"](), untouched=True, preset="white-1000")
    with Image.open(io.BytesIO(out)) as image:
        assert (image.size, image.getexif().get(TAG.Orientation)) == ((1000, 1000), None)
    assert not record.output.lossless
    data = hostile.file("PNG", icc_profile=hostile.profile())
    out, record = published(data, untouched=True, preset="white-1000")
    assert converted(record) == ("colour profile to sRGB, as the preset asks",)
    assert codec.decode(out, LIMITS).icc_profile is None


def test_only_a_profile_that_fits_stays_with_untouched_pixels(published: Publish) -> None:
    broken = hostile.profile()[:200]
    for kind in ("JPEG", "PNG", "WEBP"):
        data = hostile.file(kind, icc_profile=broken)
        out, record = published(data, untouched=True)
        assert stored(out) == stored(data)
        assert b"acsp" not in out
        assert converted(record) == ("a colour profile that cannot be used, to none",)
    grey = bytearray(hostile.profile())
    grey[16:20] = b"GRAY"  # of grey it has no curve, so it cannot be used
    _, record = published(
        hostile.file("PNG", Image.new("L", (96, 64)), icc_profile=bytes(grey)), untouched=True
    )
    assert converted(record) == ("a colour profile that cannot be used, to none",)


def test_an_odd_container_is_encoded_anew_and_it_is_named(published: Publish) -> None:
    odd = hostile.file("AVIF", icc_profile=hostile.profile()[:200])
    _, record = published(odd, untouched=True)
    assert converted(record) == (
        "a colour profile that cannot be used, to none",
        "pixels encoded anew",
    )
    assert not record.output.lossless


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "avif", "turned"])
def test_an_untouched_picture_is_signed_and_made_again(
    published: Publish,
    made: SigningKeys,
    weights_dir: Path,
    prefix: str,
    name: str,
) -> None:
    marks = MarkSettings(key=str(made.key), certificates=str(made.chain))
    signer = new_replica(weights_dir, prefix, marks=marks, torch_threads=1)
    data = UNTOUCHED[name]()
    out, record = published(data, untouched=True, by=signer)
    proof = c2pa_marks.read(out, record.output.format)
    assert (proof.state, proof.seal) == ("Valid", record.seal)
    assert stored(out) == stored(data)
    assert record.output.lossless
    (parent,) = manifest(out, record.output.format)["ingredients"]
    assert parent["relationship"] == "parentOf"
    uri = join_uri(prefix, f"records/{record.item_id[:2]}/{record.item_id}.json")
    again = Reproducer(read_environment(), "cpu", Asked()).reproduce(uri)
    assert (again.identical, again.psnr_db, again.largest_difference) == (True, None, 0)


# ---------------------------------------------------------------- another reader


@pytest.mark.thorough
@pytest.mark.skipif(
    not shutil.which("exiftool") and not os.environ.get("CI"), reason="needs exiftool"
)
@pytest.mark.parametrize("untouched", [False, True], ids=["edited", "untouched"])
@pytest.mark.parametrize("format_", ["png", "jpeg", "webp", "avif"])
def test_exiftool_reads_what_was_carried(
    published: Publish, tmp_path: Path, format_: str, untouched: bool
) -> None:
    kind = format_.upper()
    data = hostile.file(kind, exif=private_exif(), dpi=(240, 240))
    if kind == "PNG":
        text = hostile.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + EVERYTHING)
        data = data[:33] + text + data[33:]
    else:
        data = hostile.file(kind, exif=private_exif(), xmp=EVERYTHING)
    out, _ = published(data, untouched)
    file = tmp_path / f"picture.{format_}"
    file.write_bytes(out)
    (tags,) = json.loads(
        run(["exiftool", "-json", "-G1", "-struct", "-warning", "-all:all", str(file)]).stdout
    )
    assert tags["XMP-dc:Rights"] == "© Nord"
    assert tags["XMP-dc:Rights-de"] == "© Nord GmbH"
    assert tags["XMP-dc:Creator"] == ["Ann & Co", "Bo <b>"]
    assert tags["XMP-cc:License"] == "https://creativecommons.org/licenses/by/4.0/"
    assert tags["XMP-plus:Licensor"][0]["LicensorURL"] == "https://nord.test/buy?a=1&b=2"
    assert tags["XMP-xmpMM:History"][0]["SoftwareAgent"] == "Model 3"
    assert (tags["IFD0:Copyright"], tags["IFD0:XResolution"]) == ("(c) 2026 Nord", 240)
    assert not [each for each in tags if "GPS" in each or "Thumbnail" in each or "Make" in each]
    assert "ExifTool:Warning" not in tags, tags["ExifTool:Warning"]
