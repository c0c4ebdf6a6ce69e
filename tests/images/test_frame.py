"""The frame a marketplace wants. If these break, a listing is refused for its size or for a
background that is not quite white, or a product is cropped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ace_tasks.images import preset as frame
from ace_tasks.images.paste import Window
from ace_tasks.specs import PRESETS, Preset

SQUARE = Preset(name="t", width_px=200, height_px=200)
TALL = Preset(name="t", width_px=120, height_px=160, margin=0.1, background=(10, 200, 30))


@pytest.mark.parametrize("name", PRESETS)
@given(size=st.tuples(st.integers(16, 6000), st.integers(16, 6000)))
@example(size=(500, 300))
@example(size=(31, 6000))
@example(size=(6000, 20))
@example(size=(64, 64))
@example(size=(4001, 3001))
def test_a_picture_is_as_large_as_the_margin_lets_it_centred_and_whole(
    name: str, size: tuple[int, int]
) -> None:
    preset = PRESETS[name]
    window = frame.place(size, preset)
    width, height = window.size
    margin = round(preset.margin * min(preset.width_px, preset.height_px))
    right, bottom = preset.width_px - window.right, preset.height_px - window.bottom
    assert min(window.left, window.top, right, bottom) >= margin
    assert 0 <= right - window.left <= 1
    assert 0 <= bottom - window.top <= 1
    assert min(window.left, window.top) == margin  # it touches one pair of sides
    assert abs(width - size[0] * height / size[1]) <= max(1, size[0] / size[1])  # not distorted


def test_padding_is_the_background_and_the_picture_is_itself() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (50, 200, 3), np.uint8)
    framed, window = frame.fit(rgb, None, SQUARE)
    assert framed.shape == (200, 200, 3)
    assert window == Window(0, 75, 200, 125)
    assert np.array_equal(window.cut(framed), rgb)  # it fits without scaling
    assert (framed[:75] == 255).all()
    assert (framed[125:] == 255).all()


def test_margin_and_background_are_honoured() -> None:
    framed, window = frame.fit(np.zeros((300, 100, 3), np.uint8), None, TALL)
    assert window == Window(37, 12, 82, 148)
    outside = framed.copy()
    window.cut(outside)[:] = TALL.background
    assert (outside == TALL.background).all()
    assert not window.cut(framed).any()


def test_transparency_shows_the_background_and_no_hidden_colour() -> None:
    """Cut-outs hide any colour behind alpha 0; scaled first, it would bleed into the edges."""
    rgb = np.full((400, 400, 3), (0, 255, 0), np.uint8)
    alpha = np.zeros((400, 400), np.uint8)
    rgb[101:301, 101:301] = (200, 30, 30)
    alpha[101:301, 101:301] = 255
    framed, _ = frame.fit(rgb, alpha, SQUARE)
    assert (framed[:40] == 255).all()
    assert framed[100, 100].tolist() == [200, 30, 30]
    edge = framed[46:56, 46:56].astype(int)
    assert (edge[..., 1] <= edge[..., 0]).all()  # white to red, and no green between
