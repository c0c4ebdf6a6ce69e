"""Files with one change of their structure: each is a picture or a bad one, and a picture that was
read is published as it was seen. If these break, a supplier's odd export ends a replica, fails as
our own fault, or comes out otherwise than it looked.

`--hypothesis-profile=full` tries thousands of files, and others each time.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ace_tasks.errors import BadImage, BadMask
from ace_tasks.images import codec
from ace_tasks.images.codec import Picture, Pictures
from ace_tasks.masks import hints, masks
from ace_tasks.model.variants import find_variant
from ace_tasks.replica.edit import PictureEdit
from ace_tasks.replica.picture_file import File, FileMaker
from ace_tasks.settings import ImageLimits, MarkSettings
from ace_tasks.specs import (
    MaskRules,
    PixelSettings,
    Source,
    Sources,
    WorkItem,
    parse_spec,
    work_item,
)
from tests.support import hostile, odd_containers
from tests.support.odd_containers import changed

FORMATS = ("png", "jpeg", "webp", "avif")
LIMITS = ImageLimits(max_px=1_000_000)
BYTES_PER_PX = 64
MOST_BYTES = 48 << 20  # whatever the picture: what libraries take when they first work
LOSS = 8  # levels, mean: of noise at quality 95
SLOW = settings(
    print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


# ---------------------------------------------------------------- what is asked of each file


def check_file(data: bytes) -> Picture | None:
    """Open a file and publish it in every way; None where it is refused, by a plain sentence."""
    held = _peak_bytes(reset=True)
    try:
        picture = codec.decode(data, LIMITS)
    except BadImage as error:
        picture, message = None, str(error)
        assert message.startswith(("accepted: ", "damaged picture: ")), message
        assert message.isprintable(), message
        assert len(message) <= 200
    _, (width, height) = codec.header_of(data) or ("", (0, 0))
    warranted = min(width * height, LIMITS.max_px) * BYTES_PER_PX + 16 * len(data)
    assert _peak_bytes() - held <= MOST_BYTES + warranted
    if picture is None:
        return None
    assert width * height == picture.rgb[..., 0].size
    small = codec.decode(data, LIMITS, enough_px=16)  # as a contact sheet reads it
    assert small.rgb.shape[0] * picture.rgb.shape[1] == pytest.approx(
        small.rgb.shape[1] * picture.rgb.shape[0], rel=0.15
    )
    for row in ({}, {"format": "png"}):
        _check_painted(picture, row)
    _check_untouched(picture)
    _check_as_mask(picture)
    return picture


def _peak_bytes(*, reset: bool = False) -> int:
    """The most memory that this process held, since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


@cache
def _files() -> FileMaker:
    """As a replica's, but for its key."""
    return FileMaker(find_variant("toy").identity(), MarkSettings(), LIMITS, "s3://b/out")


def _item(**row: object) -> WorkItem:
    row = {
        "id": "a",
        "task": "fill",
        "image": "s3://b/i",
        "prompt": "p",
        "mask": {"box": [0.3, 0.3, 0.6, 0.6]},
        **row,
    }
    sources = Sources(image=Source(uri="s3://b/i", sha256="0" * 64))
    rules = PixelSettings(masks=MaskRules(allow_empty=True))
    return work_item(1, parse_spec(row), sources, find_variant("toy").identity(), rules)


def _check_painted(picture: Picture, row: dict[str, str]) -> None:
    """A part of it is painted over; everything else is as it was."""
    item, pictures = _item(**row), Pictures(picture, None, ())
    try:
        prepared = PictureEdit.prepare(item.resolved, pictures, route="lora")
    except BadImage:  # such as one that is far wider than high
        return
    assert prepared.geometry is not None
    assert prepared.mask is not None
    shape = prepared.geometry.canvas_h, prepared.geometry.canvas_w, 3
    finished = prepared.finish(np.full(shape, 128, np.uint8))
    made = _files().encode(prepared, finished, item.item_id, ran=True)
    side = 2 * prepared.feather_px + 3
    near = cv2.dilate(prepared.mask, np.ones((side, side), np.uint8))
    _check_same(picture, made, near == 0)


def _check_untouched(picture: Picture) -> None:
    """Its mask selects nothing, so it is published as it is."""
    item, pictures = _item(mask_grow=-1024), Pictures(picture, None, ())
    prepared = PictureEdit.prepare(item.resolved, pictures, route="lora")
    finished = prepared.finish(None)
    made = _files().encode(prepared, finished, item.item_id, ran=False)
    _check_same(picture, made, np.ones(picture.rgb.shape[:2], bool))


def _check_as_mask(picture: Picture) -> None:
    """It serves as its own mask, or is refused; and is looked at, whatever it is."""
    resolved = _item().resolved.model_copy(update={"mask": "file"})
    mask = None
    with suppress(BadMask):
        mask = masks.build(resolved, picture, picture)
    assert hints.find(resolved, picture, picture, mask).keys() <= hints.CODES.keys()


def _check_same(picture: Picture, made: File, where: np.ndarray) -> None:
    seen = codec.decode(made.data, ImageLimits())
    assert seen.rgb.shape == picture.rgb.shape
    assert seen.icc_profile == picture.icc_profile
    opaque = picture.alpha is None or bool((picture.alpha == 255).all())
    if made.format != "jpeg" and not opaque:
        assert seen.alpha is not None
    planes = [(seen.rgb, picture.rgb)]
    if seen.alpha is not None and not opaque:
        planes += [(seen.alpha, picture.alpha), (seen.straight, picture.straight)]
    for ours, theirs in planes if made.lossless else planes[:1]:
        assert ours is not None
        assert theirs is not None
        if made.lossless:
            assert np.array_equal(ours[where], theirs[where])
        else:
            difference = np.abs(ours[where].astype(np.int16) - theirs[where])
            assert difference.mean() <= LOSS


# ---------------------------------------------------------------- the files


@pytest.mark.parametrize("format_", FORMATS)
@SLOW
@given(data=st.data())
def test_a_change_of_structure_leaves_a_picture_or_a_reason(
    format_: str, data: st.DataObject
) -> None:
    event("refused" if check_file(data.draw(changed(format_)).data) is None else "a picture")


# ---------------------------------------------------------------- what was found so


@pytest.mark.parametrize("format_", ["WEBP", "JPEG", "PNG"])
def test_a_long_profile_is_published_as_one_that_can_be_read(format_: str) -> None:
    """Pillow wrote profiles of more than 1 MB into PNGs that it would not open again."""
    picture = check_file(hostile.file(format_, icc_profile=hostile.profile(3 << 20)))
    assert picture is not None
    assert picture.icc_profile is not None


@pytest.mark.parametrize("format_", FORMATS)
def test_what_pillow_writes_is_read_taken_apart_and_put_together(format_: str) -> None:
    """Or else the test above would change nothing that matters."""
    for name in odd_containers.names(format_):
        data = odd_containers.file(name)
        assert odd_containers.joined(odd_containers.parts_of(format_, data)) == data
        assert (check_file(data) is None) == name.endswith("-animated")
