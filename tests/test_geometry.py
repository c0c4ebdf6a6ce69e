"""Promises about pixels that hold for whatever size, mask and references a row brings.

If these break, a product comes back shifted by a pixel, stretched, or changed beside its mask.
Pictures go all the way: `pixels.prepare`, a model that is known, `pixels.finish`.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ace_tasks import pixels
from ace_tasks.pixels import Prepared
from tests.geometry_cases import Case, draw_case, psnr, shown

CASES = 200
MAGENTA = (255, 0, 255)

each_case = pytest.mark.parametrize("number", range(CASES))


def _prepared(number: int) -> tuple[Case, pixels.Pictures, Prepared]:
    case = draw_case(number)
    pictures = case.pictures()
    return case, pictures, pixels.prepare(case.resolved(), pictures, use_change=True)


def _only_the_target(canvas: np.ndarray, prepared: Prepared) -> np.ndarray:
    """All else in magenta, which would show if the cut were off by one pixel."""
    assert prepared.geometry.target is not None
    left, top, right, bottom = prepared.geometry.target
    alone = np.empty_like(canvas)
    alone[:] = MAGENTA
    alone[top:bottom, left:right] = canvas[top:bottom, left:right]
    return alone


@each_case
def test_what_a_model_gives_back_is_where_it_was(number: int) -> None:
    case, pictures, prepared = _prepared(number)
    canvas = _only_the_target(shown(prepared), prepared)
    out = pixels.finish(case.resolved(), pictures, prepared, canvas)
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


@each_case
def test_beyond_mask_and_feather_nothing_changes(number: int) -> None:
    case, pictures, prepared = _prepared(number)
    if prepared.mask is None:
        return
    out = pixels.finish(case.resolved(), pictures, prepared, 255 - shown(prepared))
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
