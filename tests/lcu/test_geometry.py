"""Promises about pixels that hold for whatever size, mask and references a row brings.

If these break, a product comes back shifted by a pixel, stretched, or changed beside its mask.
Pictures go all the way: `pixels.prepare`, a model that is known, `pixels.finish`.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ace_tasks.images.codec import Pictures
from ace_tasks.replica.edit import PictureEdit
from tests.support.geometry_cases import BUDGETS, EXTREMES, MAX_PX, Case, psnr, shown, sizes

MAGENTA = (255, 0, 255)


SIZES = sizes(3344, MAX_PX)  # any longer, and an aspect of 16 has more pixels


@st.composite
def cases(draw: st.DrawFn, always_masked: bool = False) -> Case:
    size, budget = draw(SIZES), draw(st.sampled_from(BUDGETS))
    if not always_masked and draw(st.booleans()):
        return Case(0, size, None, (), budget)  # what is edited whole has no references
    most = draw(st.sampled_from((9, max(size))))  # small masks are shown in a window
    left, top = (draw(st.integers(0, side - 2)) for side in size)
    right, bottom = (
        draw(st.integers(at + 2, min(side, at + most)))  # an ellipse of one pixel has none
        for at, side in zip((left, top), size, strict=True)
    )
    assume((left, top, right, bottom) != (0, 0, *size))  # a full mask is refused
    kind = draw(st.sampled_from(["box", "ellipse"]))
    shape = {kind: [float(each) for each in (left, top, right, bottom)]}
    return Case(0, size, shape, tuple(draw(st.lists(SIZES, max_size=2))), budget)


def edges(test: Callable[..., None]) -> Callable[..., None]:
    """Try every extreme size too, edited whole and beside references."""
    for size in EXTREMES:
        box = {"box": [0.0, 0.0, size[0] / 2, float(size[1])]}
        test = example(Case(1, size, box, ((333, 97), (20, 20)), 1024))(test)
        test = example(Case(1, size, None, (), 1024))(test)
    return test


def _prepared(case: Case) -> tuple[Pictures, PictureEdit]:
    pictures = case.pictures()
    return pictures, PictureEdit.prepare(case.resolved(), pictures, route="fft")


def _only_the_target(canvas: np.ndarray, prepared: PictureEdit) -> np.ndarray:
    """Paint all else magenta, which would show if the cut were off by one pixel."""
    assert prepared.geometry.target is not None
    left, top, right, bottom = prepared.geometry.target
    alone = np.empty_like(canvas)
    alone[:] = MAGENTA
    alone[top:bottom, left:right] = canvas[top:bottom, left:right]
    return alone


@edges
@given(case=cases())
def test_what_a_model_gives_back_is_where_it_was(case: Case) -> None:
    pictures, prepared = _prepared(case)
    canvas = _only_the_target(shown(prepared), prepared)
    out = prepared.finish(canvas)
    assert pictures.image is not None
    assert prepared.window is not None
    assert prepared.geometry.target is not None
    assert out.rgb.shape == pictures.image.rgb.shape
    left, top, right, bottom = prepared.geometry.target
    found = psnr(out.rgb, pictures.image.rgb)
    if prepared.window.size == (right - left, bottom - top):
        assert found == float("inf")  # not one bit; the issue asks for 45 dB
    else:
        assert found >= 45  # slow waves, down to a sixth and back


@edges
@given(case=cases(always_masked=True))
def test_beyond_mask_and_feather_nothing_changes(case: Case) -> None:
    pictures, prepared = _prepared(case)
    if prepared.mask is None:
        return
    out = prepared.finish(255 - shown(prepared))
    assert pictures.image is not None
    inside = prepared.mask > 128
    distance = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5)
    changed = (out.rgb != pictures.image.rgb).any(axis=2)
    assert not changed[distance > prepared.feather_px + 1].any()
    assert changed[inside].mean() > 0.9  # a model that inverts is seen
    assert out.difference is not None
    beside = np.abs(out.rgb[~inside].astype(int) - pictures.image.rgb[~inside])
    assert out.difference.outside_max == beside.max(initial=0)
    assert out.difference.outside_mean == pytest.approx(
        beside.mean() if beside.size else 0, abs=1e-5
    )
