"""Pictures as cameras, printers and cutters write them, through a real replica and a real store.

If these break, a catalog comes back turned, in other colours, or without its transparency.
"""

from __future__ import annotations

import hashlib
import io
import struct
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ace_tasks.images import codec
from ace_tasks.images.codec import Picture
from ace_tasks.provenance.keys import record_key
from ace_tasks.provenance.outcomes import Done
from ace_tasks.provenance.record import Record
from ace_tasks.replica.replica import Replica
from ace_tasks.runs.report.cards import Entry
from ace_tasks.runs.results import Result
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import WorkItem
from ace_tasks.store import Store, join_uri
from infra.object_store import ObjectStore
from tests.conftest import BUCKET
from tests.replica.test_pixels import P3
from tests.replica.test_replica import new_replica
from tests.support import sheets

PHOTOS = Path(__file__).parents[2] / "infra/sample/photos"
LIMITS = ImageLimits()
SIZE = (120, 80)
BOX = {"box": [40, 30, 70, 60]}


def photo(name: str = "coffee") -> Image.Image:
    with Image.open(PHOTOS / f"{name}.jpg") as image:
        return image.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def p3_photo() -> bytes:
    return file(photo(), "JPEG", quality=95, subsampling=0, icc_profile=P3)


def turned_photo() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held on its side: what is stored lies, and is higher than wide
    stored = photo("astronaut").transpose(Image.Transpose.ROTATE_90)
    return file(stored, "JPEG", quality=95, subsampling=0, exif=exif)


def cmyk_photo() -> bytes:
    return file(photo("flower").convert("CMYK"), "JPEG", quality=95)


def deep_photo() -> bytes:
    """16 bits a channel, which Pillow does not write."""
    wide = np.asarray(photo("chelsea")).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in wide)

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", *SIZE, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def cutout() -> bytes:
    y, x = np.mgrid[-1 : 1 : SIZE[1] * 1j, -1 : 1 : SIZE[0] * 1j]
    distance = np.hypot(x / 0.8, y / 0.9)
    alpha = np.clip((1.05 - distance) * 20, 0, 1)
    rgba = np.dstack([np.asarray(photo()), (255 * alpha).astype(np.uint8)])
    return file(Image.fromarray(rgba), "PNG")


FILES: dict[str, Callable[[], bytes]] = {
    "p3": p3_photo,
    "turned": turned_photo,
    "cmyk": cmyk_photo,
    "deep": deep_photo,
    "cutout": cutout,
}


@pytest.fixture(scope="module")
def replica(object_store: ObjectStore, weights_dir: Path) -> Replica:
    return new_replica(weights_dir, f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}")


@pytest.fixture
def edited(
    planned: Callable[..., WorkItem], replica: Replica, store: Store, prefix: str
) -> Callable[..., tuple[WorkItem, Done, Record, Picture]]:
    """Edit one of FILES in a box; gives item, outcome, record and what was published."""
    place = replica.settings.output_uri

    def edit(name: str, **more: Any) -> tuple[WorkItem, Done, Record, Picture]:
        store.put(join_uri(prefix, f"in/{name}"), FILES[name](), "image/any")
        row = {"id": name, "task": "fill", "image": f"in/{name}", "mask": BOX, "steps": 1} | more
        item = planned(**row)
        done = replica.run(item, 0)
        assert isinstance(done, Done), done
        record = Record.model_validate_json(store.get(join_uri(place, record_key(item.item_id))))
        data = store.get(done.output_uri)
        assert hashlib.sha256(data).hexdigest() == record.output.sha256
        return item, done, record, codec.decode(data, LIMITS)

    return edit


Edited = Callable[..., tuple[WorkItem, Done, Record, Picture]]


def outside(picture: Picture) -> np.ndarray:
    """Return where a pixel lies well beyond mask and feather."""
    away = np.ones(picture.rgb.shape[:2], bool)
    away[24:66, 34:76] = False
    return away


@pytest.mark.parametrize("format_", ["png", "webp"])
@pytest.mark.parametrize("name", FILES)
def test_what_is_not_masked_comes_out_as_it_went_in(
    edited: Edited, name: str, format_: str
) -> None:
    _, _, record, out = edited(name, format=format_)
    source = codec.decode(FILES[name](), LIMITS)
    assert record.output.lossless
    assert out.size_px == source.size_px == record.output.size_px
    assert out.icc_profile == source.icc_profile
    away = outside(source)
    assert np.array_equal(out.rgb[away], source.rgb[away])
    assert (out.rgb[34:56, 44:66] != source.rgb[34:56, 44:66]).any()
    assert record.sources.image is not None
    assert record.sources.image.converted == source.converted
    if source.alpha is not None:
        assert out.alpha is not None
        assert out.straight is not None
        assert source.straight is not None
        assert np.array_equal(out.alpha, source.alpha)
        assert np.array_equal(out.straight[away], source.straight[away])


def test_each_kind_of_file_keeps_what_makes_it_its_kind(edited: Edited) -> None:
    found = {name: edited(name) for name in FILES}
    records = {name: record for name, (_, _, record, _) in found.items()}
    out = {name: picture for name, (*_, picture) in found.items()}
    assert out["p3"].icc_profile == P3
    assert out["turned"].size_px == SIZE
    upright = np.asarray(photo("astronaut")).astype(int)
    assert np.abs(out["turned"].rgb - upright)[outside(out["turned"])].mean() < 4
    assert all(record.output.format == out[name].format for name, record in records.items())
    assert [out[name].format for name in FILES] == ["jpeg", "jpeg", "jpeg", "png", "png"]
    conversions = {name: record.sources.image.converted for name, record in records.items()}  # type: ignore[union-attr]
    assert conversions == {
        "p3": (),
        "turned": (),
        "cmyk": ("CMYK to sRGB",),
        "deep": ("16 bits a channel to 8",),
        "cutout": (),
    }
    assert out["cutout"].alpha is not None
    for name, picture in out.items():  # a JPEG loses a little, everywhere alike
        source = codec.decode(FILES[name](), LIMITS)
        away = outside(source)
        error = np.abs(picture.rgb[away].astype(int) - source.rgb[away])
        assert error.mean() < 2
        assert records[name].paste is not None


@pytest.mark.parametrize("format_", ["jpeg", "webp", "avif", "png"])
def test_a_preset_and_a_quality_are_in_the_file_and_its_record(
    edited: Edited, format_: str
) -> None:
    _, _, record, out = edited("cutout", preset="white-1000", quality=90, format=format_)
    assert out.format == record.output.format == format_
    assert out.size_px == record.output.size_px == (1000, 1000)
    assert record.output.placed_px == (0, 166, 1000, 833)
    assert record.output.lossless == (format_ == "png")
    assert out.alpha is None
    assert (out.rgb[:150] >= 250).all()  # the frame
    assert (out.rgb[200:220, :20] >= 250).all()  # what was transparent
    if record.output.lossless:
        assert record.output.pixels_sha256 == codec.pixels_sha256(out.rgb)


def test_they_are_seen_on_one_contact_sheet(edited: Edited, store: Store) -> None:
    entries = []
    for line, name in enumerate(FILES):
        item, done, _, _ = edited(name)
        result = Result(
            line=line, row_id=name, task="fill", status="done", output_uri=done.output_uri
        )
        entries.append(Entry(item, result))
    (html,) = sheets.pages(sheets.sheet(entries, store, store))
    assert html.count("data:image/webp;base64,") == 2 * len(FILES)  # before, after
    assert html.count("data:image/png;base64,") == len(FILES)  # mask
    assert "cannot be read" not in html.partition("<body")[2]
