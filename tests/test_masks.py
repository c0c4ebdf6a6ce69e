"""Masks of every kind. If these break, the wrong part of a product picture is repainted, or all
of it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ace_tasks import images, masks
from ace_tasks.errors import BadMask
from ace_tasks.images import Picture
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import Box, Ellipse, Polygon

WIDTH, HEIGHT = 80, 40


def _picture(pixels: np.ndarray) -> Picture:
    """Through a real file, as a mask comes from a catalog."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return images.decode(out.getvalue(), ImageLimits())


def _photo(alpha: np.ndarray | None = None) -> Picture:
    rgb = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return _picture(rgb if alpha is None else np.dstack([rgb, alpha]))


def _build(mask: Any, file: Picture | None = None, photo: Picture | None = None) -> np.ndarray:
    built = masks.build(mask, photo or _photo(), file)
    assert built is not None
    assert built.shape == (HEIGHT, WIDTH)
    assert built.dtype == np.uint8
    return built


def _area(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[top:bottom, left:right] = 255
    return expected


# ---------------------------------------------------------------- shapes


def test_a_box_in_pixels_excludes_its_right_and_bottom() -> None:
    assert np.array_equal(_build(Box(box=(10, 5, 30, 20))), _area(5, 20, 10, 30))
    assert np.array_equal(_build(Box(box=(0, 0, WIDTH, HEIGHT))), _area(0, HEIGHT, 0, WIDTH))
    assert np.array_equal(_build(Box(box=(7, 7, 8, 8))), _area(7, 8, 7, 8))


def test_a_box_in_fractions_scales_with_its_picture() -> None:
    assert np.array_equal(_build(Box(box=(0.25, 0.5, 0.75, 1))), _area(20, 40, 20, 60))
    assert np.array_equal(_build(Box(box=(0, 0, 1, 1))), _area(0, HEIGHT, 0, WIDTH))


@pytest.mark.parametrize("bounds", [(10, 4, 50, 36), (0.125, 0.1, 0.625, 0.9)])
def test_an_ellipse_fills_its_box_but_not_the_corners(bounds: Any) -> None:
    built = _build(Ellipse(ellipse=bounds))
    rows, columns = np.nonzero(built)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (4, 36, 10, 50)
    assert built[4, 10] == built[35, 49] == 0
    assert built[20, 30] == 255
    share = (built > 0).sum() / (32 * 40)
    assert abs(share - np.pi / 4) < 0.03


@pytest.mark.parametrize(
    "corners", [((10, 5), (50, 5), (10, 35)), ((0.125, 0.125), (0.625, 0.125), (0.125, 0.875))]
)
def test_a_polygon_is_filled(corners: Any) -> None:
    built = _build(Polygon(polygon=corners))
    assert built[6, 11] == built[33, 10] == built[6, 46] == 255
    assert built[30, 40] == built[0, 0] == built[20, 5] == 0
    assert abs((built > 0).sum() / (40 * 30 / 2) - 1) < 0.1


@pytest.mark.parametrize(
    "shape",
    [
        Box(box=(10, 10, WIDTH + 1, 20)),
        Box(box=(10, 10, 20, HEIGHT + 1)),
        Ellipse(ellipse=(70, 10, 90, 20)),
        Polygon(polygon=((0, 0), (WIDTH + 5, 0), (0, 10))),
    ],
)
def test_a_shape_outside_its_picture_is_refused(shape: Any) -> None:
    with pytest.raises(BadMask, match=f"outside its picture of {WIDTH}×{HEIGHT}"):
        masks.build(shape, _photo(), None)


# ---------------------------------------------------------------- files


def test_a_mask_file_is_taken_as_it_is() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    assert np.array_equal(_build("file", _picture(grey)), grey)
    white = _area(5, 20, 10, 30)
    assert np.array_equal(_build("file", _picture(white[:, :, None].repeat(3, axis=2))), white)
    opaque = np.dstack([white, white, white, np.full_like(white, 255)])
    assert np.array_equal(_build("file", _picture(opaque)), white)


def test_a_mask_of_another_size_names_both() -> None:
    turned = _picture(np.full((WIDTH, HEIGHT), 255, np.uint8))
    with pytest.raises(BadMask, match="of its picture's size, 80×40; given 40×80"):
        masks.build("file", _photo(), turned)


def test_a_transparent_mask_is_refused() -> None:
    """Upstream drops its alpha, so a cut-out on black would repaint what it shows, or nothing."""
    white = _area(5, 20, 10, 30)
    cut_out = np.dstack([white, white, white, white])
    with pytest.raises(BadMask, match="without transparency"):
        masks.build("file", _photo(), _picture(cut_out))


@pytest.mark.parametrize("level", [0, 1, 128])
def test_a_mask_that_selects_nothing_is_refused(level: int) -> None:
    """Upstream would repaint everything."""
    with pytest.raises(BadMask, match="selects no pixel"):
        masks.build("file", _photo(), _picture(np.full((HEIGHT, WIDTH), level, np.uint8)))


def test_one_pixel_above_128_is_enough() -> None:
    pixels = np.full((HEIGHT, WIDTH), 128, np.uint8)
    pixels[3, 4] = 129
    assert _build("file", _picture(pixels))[3, 4] == 129


# ---------------------------------------------------------------- alpha, auto, none


def test_alpha_repaints_what_is_transparent() -> None:
    alpha = 255 - _area(5, 20, 10, 30)
    assert np.array_equal(_build("alpha", photo=_photo(alpha)), _area(5, 20, 10, 30))


def test_alpha_of_an_opaque_picture_is_refused() -> None:
    with pytest.raises(BadMask, match='"alpha" needs a picture with an alpha channel'):
        masks.build("alpha", _photo(), None)
    with pytest.raises(BadMask, match="selects no pixel"):
        masks.build("alpha", _photo(np.full((HEIGHT, WIDTH), 255, np.uint8)), None)


def test_auto_says_that_it_needs_a_model() -> None:
    with pytest.raises(BadMask, match='"auto" needs a segmentation model'):
        masks.build("auto", _photo(), None)


def test_no_mask_is_none() -> None:
    assert masks.build(None, _photo(), None) is None
