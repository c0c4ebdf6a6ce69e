"""What is kept of a picture that is repainted in a part: the window, the feather, the paste.

If these break, products change colour outside the mask, seams show, or large photographs come
back blurred.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ace_tasks.images import paste
from ace_tasks.images.canvas_size import lay_out
from ace_tasks.images.paste import Window
from ace_tasks.specs import PasteSettings

PASTE = PasteSettings()


def _noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    width, height = size
    left, top, right, bottom = box
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def _window(
    size: tuple[int, int], box: tuple[int, int, int, int], budget: int = 4096, **settings: object
) -> Window:
    return paste.choose_window(
        _mask(size, box),
        lambda target: lay_out(target, (), budget, None).scale,
        PASTE.model_copy(update=settings),
    )


# ---------------------------------------------------------------- windows


def test_a_picture_that_fits_is_seen_whole() -> None:
    assert _window((1000, 800), (10, 10, 30, 30)) == paste.whole(1000, 800)


def test_a_small_mask_in_a_large_photo_gets_the_whole_budget_at_full_resolution() -> None:
    window = _window((4000, 3000), (1500, 1200, 1800, 1500))
    assert window.left <= 1500 - 64
    assert window.right >= 1800 + 64
    tokens = lay_out(window.size, (), 4096, None)
    assert tokens.scale == 1
    assert tokens.tokens > 0.9 * 4096
    more = Window(window.left - 8, window.top - 8, window.right + 8, window.bottom + 8)
    assert lay_out(more.size, (), 4096, None).scale < 1


def test_a_window_stays_in_its_picture() -> None:
    window = _window((4000, 3000), (0, 2800, 100, 3000))
    assert (window.left, window.bottom) == (0, 3000)
    assert window.right <= 4000
    assert window.top >= 0


@given(st.data(), st.integers(300, 3000), st.integers(300, 3000))
def test_a_mask_is_never_cut_and_keeps_its_margin(
    data: st.DataObject, width: int, height: int
) -> None:
    left, top = (data.draw(st.integers(0, side - 1)) for side in (width, height))
    right = data.draw(st.integers(left + 1, width))
    bottom = data.draw(st.integers(top + 1, height))
    window = _window((width, height), (left, top, right, bottom), budget=256)
    margin = max(64, round(0.5 * max(right - left, bottom - top)))
    assert window.left <= max(0, left - margin)
    assert window.top <= max(0, top - margin)
    assert window.right >= min(width, right + margin)
    assert window.bottom >= min(height, bottom + margin)


def test_a_window_that_gains_little_is_not_worth_less_context() -> None:
    large = (200, 200, 3800, 2800)
    assert _window((4000, 3000), large) == paste.whole(4000, 3000)
    assert _window((4000, 3000), (1500, 1200, 1800, 1500), crop_to_mask=False) == paste.whole(
        4000, 3000
    )


# ---------------------------------------------------------------- feather and blend


@pytest.mark.parametrize("feather_px", [0, 1, 8, 40])
def test_weights_are_one_in_the_mask_and_zero_beyond_the_feather(feather_px: int) -> None:
    mask = _mask((200, 150), (60, 50, 120, 90))
    weights = paste.feathered(mask, feather_px)
    assert (weights[mask > 0] == 1).all()
    y, x = np.mgrid[:150, :200]
    distance = np.hypot(
        np.maximum(np.maximum(60 - x, x - 119), 0), np.maximum(np.maximum(50 - y, y - 89), 0)
    )
    assert (weights[distance > feather_px] == 0).all()
    band = (distance > 0) & (distance <= feather_px)
    assert (weights[band] > 0).all()
    assert (weights[band] < 1).all()
    if feather_px:
        along = weights[70, 119 : 119 + feather_px + 2]
        assert (np.diff(along) < 0).all()  # falls without a step back
        assert along[1] - along[2] < 0.6  # and without a jump


def test_a_full_mask_takes_everything() -> None:
    weights = paste.feathered(np.full((20, 30), 255, np.uint8), 8)
    assert (weights == 1).all()
    original, made = _noise(30, 20), _noise(30, 20, seed=1)
    assert np.array_equal(paste.blend(original, made, weights), made)


def test_grey_at_the_threshold_is_not_masked() -> None:
    mask = np.full((20, 20), 128, np.uint8)
    mask[:, :3] = 129
    assert (paste.feathered(mask, 0)[:, :3] == 1).all()
    assert not paste.feathered(mask, 0)[:, 3:].any()


def test_nothing_changes_outside_bit_for_bit() -> None:
    original, made = _noise(200, 150), _noise(200, 150, seed=1)
    mask = _mask((200, 150), (60, 50, 120, 90))
    weights = paste.feathered(mask, 8)
    out = paste.blend(original, made, weights)
    assert np.array_equal(out[weights == 0], original[weights == 0])
    assert np.array_equal(out[mask > 0], made[mask > 0])
    found = paste.difference(original, out, made, mask, int((mask == 0).sum()))
    outside = np.abs(out[mask == 0].astype(int) - original[mask == 0])
    assert found.outside_max == outside.max()
    assert found.outside_mean == pytest.approx(outside.mean(), abs=1e-5)
    assert found.model_outside_mean > 10 * found.outside_mean


def test_light_is_mixed_as_light() -> None:
    """Half of white light and half of black is 188 in sRGB, not 128."""
    black, white = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)
    out = paste.blend(black, white, np.full((1, 1), 0.5, np.float32))
    assert out.tolist() == [[[188, 188, 188]]]


def test_equal_pictures_blend_to_themselves() -> None:
    picture = _noise(64, 64)
    for weight in (0.001, 0.3, 0.5, 0.999):
        out = paste.blend(picture, picture, np.full((64, 64), weight, np.float32))
        assert np.array_equal(out, picture)


def test_the_feather_is_a_share_of_what_the_model_sees() -> None:
    assert paste.feather_px(PASTE, paste.whole(1024, 800)) == 11
    assert paste.feather_px(PASTE, paste.whole(64, 64)) == 1
    assert paste.feather_px(PASTE.model_copy(update={"feather": 0.0}), paste.whole(64, 64)) == 0
