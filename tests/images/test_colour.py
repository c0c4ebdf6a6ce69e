"""The way of colours through an edit. If these break, whatever lies outside a mask looks otherwise
than before, or a loss is not told."""

from __future__ import annotations

import io
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ace_tasks.images import codec, colour
from ace_tasks.provenance.outcomes import Done
from ace_tasks.provenance.record import Record
from ace_tasks.replica.replica import Replica
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri
from tests.conftest import BUCKET
from tests.replica.test_publishing import nothing_to_paint
from tests.replica.test_replica import new_replica, record_of
from tests.support import colour_chart
from tests.support.colour_chart import ENCODINGS, HDR, Encoding

LIMITS = ImageLimits()
BOX = {"box": [0, 0, 16, 16]}
OUTSIDE = np.s_[24:, 24:]  # of the mask and its feather
Edit = Callable[..., tuple[bytes, Record]]


@pytest.fixture(scope="module")
def replica(weights_dir: Path) -> Replica:
    return new_replica(weights_dir, f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}")


@pytest.fixture
def edit(planned: Callable[..., WorkItem], store: Store, prefix: str, replica: Replica) -> Edit:
    """Fill a small box of a file, losslessly; gives the published file and its record."""

    def edit(file: bytes, untouched: bool = False, **row: object) -> tuple[bytes, Record]:
        store.put(join_uri(prefix, "in/source"), file, "image/any")
        lossless = {} if untouched else {"format": "png"}
        row = {"task": "fill", "mask": BOX, "steps": 1} | lossless | row
        item = planned(image="in/source", **row)
        item = nothing_to_paint(item) if untouched else item
        done = replica.run(item, 0)
        assert isinstance(done, Done), done
        return store.get(done.output_uri), record_of(store, replica.settings.output_uri, item)

    return edit


def conversions(record: Record) -> set[str]:
    """What is lost of the colours; some files have EXIF, whose other tags are no matter here."""
    assert record.sources.image is not None
    return set(record.sources.image.converted) - {"other EXIF left out"}


@pytest.mark.parametrize("encoding", [pytest.param(e, id=name) for name, e in ENCODINGS.items()])
def test_outside_the_mask_it_looks_as_before(edit: Edit, encoding: Encoding) -> None:
    out, record = edit(encoding.file)
    lost = np.abs(colour_chart.seen_in(out) - encoding.seen())[OUTSIDE]
    assert lost.max() <= 1
    assert conversions(record) == set(encoding.converted)
    picture = codec.decode(encoding.file, LIMITS)
    shown = colour.to_srgb(picture.rgb, picture.icc_profile)
    assert np.abs(shown - encoding.seen()).max() <= 1.01, "the model sees other colours"


def test_ink_becomes_srgb_and_it_is_noted(edit: Edit) -> None:
    out, record = edit(colour_chart.cmyk_file())
    seen = colour_chart.cmyk_seen(colour_chart.cmyk_file())
    assert np.abs(colour_chart.seen_in(out) - seen)[OUTSIDE].max() <= 1
    assert conversions(record) == {"CMYK to sRGB"}


@pytest.mark.parametrize("name", HDR)
def test_hdr_becomes_srgb_and_it_is_noted(edit: Edit, name: str) -> None:
    file, conversion = HDR[name]
    out, record = edit(file)
    assert conversions(record) == {conversion}
    grey = colour_chart.seen_in(out)[4, 24:, 1]  # a ramp from black to the brightest
    levels = colour_chart.levels(file)[4, 24:, 1]
    assert (np.diff(grey) >= -1).all()
    # BT.2408: the white of SDR is a level of 58 % in PQ and of 75 % in HLG.
    white = 0.58 if "PQ" in conversion else 0.75
    assert (grey[levels > 255 * (white + 0.02)] > 254.5).all()
    assert (grey[levels < 255 * (white - 0.02)] < 254.5).all()


@pytest.mark.parametrize(
    "kind",
    ["p3-by-cicp", "p3-by-nclx", "gama-chrm", "adobe-by-exif-r03", "grey-by-gama", "grey-by-icc"],
)
def test_what_is_not_painted_keeps_its_look_too(edit: Edit, kind: str) -> None:
    """Its coded pixels are copied, with what says their colours."""
    encoding = ENCODINGS[kind]
    out, record = edit(encoding.file, untouched=True, mask={"box": [0, 0, 1, 1]})
    assert record.output.lossless
    picture = codec.decode(out, LIMITS)
    shown = colour.to_srgb(picture.rgb, picture.icc_profile)
    assert np.abs(shown - encoding.seen()).max() <= 1.01
    assert not {each for each in conversions(record) if "sRGB" in each or "profile" in each}


def test_a_profile_that_only_reads_is_applied_and_noted() -> None:
    """A scanner's has no way back, so the pixels become sRGB."""
    file = colour_chart.encoded(colour_chart.chart(), "PNG", icc_profile=one_way_profile())
    picture = codec.decode(file, LIMITS)
    assert picture.icc_profile is None
    assert picture.converted == ("an input-only colour profile, to sRGB",)
    assert not np.array_equal(picture.rgb, colour_chart.chart())


def one_way_profile() -> bytes:
    """Of RGB data by a table to Lab, without the table back."""
    identity = bytes(range(256))
    corners = bytes(
        value
        for r, g, b in np.ndindex(2, 2, 2)
        for value in (85 * (r + g + b), 128 + 60 * (r - g), 128 + 60 * (g - b))
    )
    head = b"mft1\0\0\0\0\x03\x03\x02\0"
    matrix = b"".join((65536 * (n % 4 == 0)).to_bytes(4, "big") for n in range(9))
    table = head + matrix + identity * 3 + corners + identity * 3
    return colour_chart.icc(b"RGB ", {b"A2B0": table}, b"Lab ", b"scnr")


def test_a_lost_part_of_a_profile_is_noted() -> None:
    profile = colour_chart.P3_ICC
    file = colour_chart.encoded(colour_chart.chart(), "JPEG", icc_profile=profile)
    at = file.index(b"ICC_PROFILE\0") + 12
    assert file[at : at + 2] == b"\1\1"
    file = file[:at] + b"\1\2" + file[at + 2 :]  # the first of two
    picture = codec.decode(file, LIMITS)
    assert picture.icc_profile is None
    assert picture.converted == ("a colour profile that cannot be used, to none",)


def test_the_same_colours_give_the_same_profile() -> None:
    profiles = {
        codec.decode(ENCODINGS[name].file, LIMITS).icc_profile
        for name in ("adobe-by-exif-2", "adobe-by-exif-r03")
    }
    assert len(profiles) == 1
    with Image.open(io.BytesIO(ENCODINGS["adobe-by-exif-2"].file)) as image:
        assert "icc_profile" not in image.info


def decoded(file: bytes) -> tuple[bytes | None, tuple[str, ...]]:
    """The profile that a file is taken to have, and what is told of it."""
    picture = codec.decode(file, LIMITS)
    return picture.icc_profile, picture.converted


WHITE, RED, GREEN, BLUE = (0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)
NO_COLOURS: dict[str, tuple[tuple[float, float], ...]] = {  # cHRM: white, red, green, blue
    "two-primaries-alike": (WHITE, RED, RED, BLUE),
    "primaries-beyond-all-light": ((0.50, 0.482), (0.02, 12.84), (0.12, 0.10), (7.74, 0.75)),
    "white-outside": ((0.20, 0.55), RED, GREEN, BLUE),
    "white-without-light": ((0.30, 0), RED, GREEN, BLUE),
    "white-that-eyes-do-not-see": ((0.10, 0.01), RED, GREEN, (0.10, 0)),
    "white-that-eyes-hardly-see": (
        (0.35297, 0.61916),
        (0.05085, 0.89148),
        (0.55514, 0.43678),
        (0.17112, 0.78324),
    ),
}


@pytest.mark.parametrize("name", NO_COLOURS)
def test_primaries_that_span_no_colours_are_passed_over_and_told(name: str) -> None:
    body = struct.pack(">8I", *(round(xy * 100_000) for point in NO_COLOURS[name] for xy in point))
    note = ("a gAMA or cHRM that cannot be used, taken for sRGB",)
    assert decoded(colour_chart.png((b"cHRM", body))) == (None, note)


@pytest.mark.parametrize("exponent", [0.05, 20])
def test_a_gamma_that_no_screen_has_is_passed_over_and_told(exponent: float) -> None:
    body = struct.pack(">I", round(100_000 / exponent))
    note = ("a gAMA or cHRM that cannot be used, taken for sRGB",)
    assert decoded(colour_chart.png((b"gAMA", body))) == (None, note)


def test_a_grey_profile_that_one_curve_cannot_tell_is_applied_and_told() -> None:
    """A scanner's, by a table to Lab: dark below and light above its middle."""
    steps = bytes(64) + bytes([255] * 192)
    head = b"mft1\0\0\0\0\x01\x03\x02\0"
    matrix = b"".join((65536 * (n % 4 == 0)).to_bytes(4, "big") for n in range(9))
    table = head + matrix + steps + bytes([0, 128, 128, 255, 128, 128]) + bytes(range(256)) * 3
    for tags in ({b"A2B0": table}, {b"A2B0": table, b"kTRC": b"none" + bytes(12)}):
        profile = colour_chart.icc(b"GRAY", tags, b"Lab ", b"scnr")
        file = colour_chart.encoded(colour_chart.GREY, "PNG", icc_profile=profile)
        assert decoded(file) == (None, ("a grey colour profile, to sRGB",))
        rgb = codec.decode(file, LIMITS).rgb
        assert (rgb[colour_chart.GREY < 56] == 0).all()
        assert (rgb[colour_chart.GREY > 72] == 255).all()


def test_a_grey_profile_cut_anywhere_is_whole_or_told() -> None:
    whole = colour_chart.grey_icc(1.8)
    note = {
        decoded(colour_chart.encoded(colour_chart.GREY, "JPEG", icc_profile=whole[:end]))[1]
        for end in range(100, len(whole) - 2)
    }
    assert note == {("a colour profile that cannot be used, to none",)}


def test_a_comment_that_names_a_profile_is_none() -> None:
    """Behind the pixels, the file is cut short."""
    data = colour_chart.encoded(colour_chart.chart(), "JPEG")
    comment = b"see ICC_PROFILE\0"
    part = struct.pack(">BBH", 0xFF, 0xFE, len(comment) + 2) + comment
    file = data[:2] + part + data[2:-2] + b"\xff\xe5\x7f\xff\xff\xd9"
    assert decoded(file) == (None, ())


def test_an_avif_without_colours_is_srgb_and_a_header_that_is_not_read_is_told() -> None:
    """More boxes stand in front of the header than are looked at."""
    file = colour_chart.avif(12, 13)
    assert decoded(file.replace(b"colrnclx", b"freenclx")) == (None, ())
    boxes = struct.pack(">I4s", 8, b"free") * 10_000
    head, data_at = int.from_bytes(file[:4], "big"), file.index(b"mdat") + 4
    far = struct.pack(">I", data_at + len(boxes))
    moved = (file[:head] + boxes + file[head:]).replace(struct.pack(">I", data_at), far)
    note = ("an AVIF header that states no colours, taken for sRGB",)
    assert decoded(moved) == (None, note)


def _exif(kind: int, entry: bytes, tail: bytes = b"") -> bytes:
    """TIFF with a pointer to the EXIF tags, which is of this kind."""
    first = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x8769, kind, 1) + entry
    return first + bytes(4) + tail


SIGNED, UNSIGNED, SHORT = 9, 4, 3
NOWHERE = struct.pack("<i", -16)
INSIDE = struct.pack("<HHHIHHHHI", 2, 0xA001, SHORT, 1, 0xFFFF, 0, 0xA005, SIGNED, 1) + NOWHERE
BROKEN_EXIF = {
    "tags-nowhere": (_exif(SIGNED, NOWHERE), ()),
    "index-nowhere": (
        _exif(UNSIGNED, struct.pack("<I", 26), INSIDE + bytes(4)),
        ("colours that EXIF calls uncalibrated, taken for sRGB",),
    ),
}


@pytest.mark.parametrize("name", BROKEN_EXIF)
def test_exif_that_points_nowhere_says_what_can_be_read_of_it(name: str) -> None:
    block, note = BROKEN_EXIF[name]
    data = colour_chart.encoded(colour_chart.chart(), "JPEG", exif=b"Exif\0\0" + block)
    assert decoded(data) == (None, note)
