"""Files made to break whoever opens them. If these break, one supplier's upload takes a replica
along, holds it for minutes, or leaves its script in what we publish.

What is merely no picture, cut short at each tenth, animated or huge by its header is in
test_images; bad rows in a real run are in test_bad_items.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from ace_tasks.errors import BadImage
from ace_tasks.images import codec
from ace_tasks.settings import ImageLimits
from tests.support import hostile
from tests.support.patience import limit_s
from tests.support.processes import run_python

# Each takes seconds; one that took minutes would be a way to hold a replica.
MOST_S, MOST_MB = 60, 2000
# Odd, and yet what a browser would show.
PICTURES = {
    "png-data-behind-the-picture",
    "png-exif",
    "png-flood-behind-the-picture",
    "jpeg-profile-of-16-mb",
    "webp-chunk-flood",
    "webp-profile-of-60-mb",
    "avif-profile-of-60-mb",
    "jpeg-many-views",
    "jpeg-exif-in-a-circle",
    "jpeg-exif-outside",
    "jpeg-exif-cut",
    "jpeg-profile-of-4g-tags",
    "png-international-text",
    "png-many-texts",
    "png-text",
    *hostile.POLYGLOTS,
}
QUICK = hostile.BOMBS | hostile.LIES | hostile.POLYGLOTS


def opened(*names: str) -> dict[str, dict[str, Any]]:
    """Return what becomes of each file, opened in a process of its own, under limits."""
    child = run_python("-m", "tests.support.hostile", *names)
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    return {line.pop("name"): line for line in lines}


@pytest.fixture(scope="module")
def large() -> dict[str, dict[str, Any]]:
    return opened(*hostile.LARGE)


@pytest.fixture(scope="module")
def findings() -> dict[str, dict[str, Any]]:
    return opened(*QUICK)


@pytest.mark.thorough
@pytest.mark.parametrize("name", hostile.LARGE)
def test_the_largest_pictures_are_borne(large: dict[str, dict[str, Any]], name: str) -> None:
    found = large[name]
    assert "size_px" in found, found
    assert found["cpu_s"] < limit_s(MOST_S)
    assert found["peak_mb"] < MOST_MB


@pytest.mark.parametrize("name", QUICK)
def test_it_neither_crashes_nor_hangs_nor_eats_the_memory(
    findings: dict[str, dict[str, Any]], name: str
) -> None:
    found = findings[name]
    assert "crashed" not in found, found
    assert found["cpu_s"] < limit_s(MOST_S)
    assert found["peak_mb"] < MOST_MB
    assert found["bytes"] <= ImageLimits().max_bytes  # else the store would not have given it


@pytest.mark.parametrize("name", sorted(set(QUICK) - PICTURES))
def test_it_is_refused_in_a_sentence(findings: dict[str, dict[str, Any]], name: str) -> None:
    reason = findings[name]["refused"]
    assert reason.startswith(("accepted: ", "damaged picture: "))
    assert "\n" not in reason
    assert len(reason) <= 200


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_a_picture_all_the_same_is_opened_and_leaves_nothing_behind(
    findings: dict[str, dict[str, Any]], name: str
) -> None:
    assert "size_px" in findings[name], findings[name]
    assert findings[name].get("clean", True)


def test_real_files_have_few_parts() -> None:
    """The limits on parts must not meet an honest file: every chunk of 8 KB, every scan of ten."""
    limits = ImageLimits()
    chunks = [hostile.chunk(b"IDAT")] * 8192
    assert codec.decode(hostile.png(*chunks), limits).size_px == (64, 64)
    restarts = hostile.file("JPEG", restart_marker_blocks=1, progressive=True)
    assert restarts.count(b"\xff\xd3") >= 5
    assert codec.decode(restarts, limits).size_px == (96, 64)
    with pytest.raises(BadImage, match="a PNG of at most 20000 chunks; given more"):
        codec.decode(hostile.png(*chunks * 3), limits)


def test_a_profile_beyond_reason_is_left_out_and_noted() -> None:
    small, large = hostile.profile(3 << 20), hostile.profile(5 << 20)
    picture = codec.decode(hostile.file("WEBP", icc_profile=large), ImageLimits())
    assert picture.icc_profile is None
    assert picture.converted == ("a colour profile that cannot be used, to none",)
    picture = codec.decode(hostile.file("WEBP", icc_profile=small), ImageLimits())
    assert picture.icc_profile == small
