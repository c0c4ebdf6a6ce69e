"""Control maps against their rules, written a second time in numpy. If these break, a model gets
maps it never learnt from, and draws something else over a whole catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ace_tasks.images import controls
from ace_tasks.specs import Control

PHOTO = Path(__file__).parents[2] / "infra" / "sample" / "photos" / "coffee.jpg"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    with Image.open(PHOTO) as picture:
        return np.asarray(picture.convert("RGB"))[40:330, 90:507]  # no multiple of 64


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def never(control: Control, picture: np.ndarray) -> np.ndarray:
    raise AssertionError(f"{control} asked for a model")


# ---------------------------------------------------------------- the rules, in numpy


def _cubic(inputs: int, outputs: int) -> np.ndarray:
    """Keys' kernel with a = -0.75 at pixels' centres, the border repeated, as a matrix."""
    matrix, a = np.zeros((outputs, inputs)), -0.75
    for row in range(outputs):
        x = (row + 0.5) * inputs / outputs - 0.5
        first, t = int(np.floor(x)), x - np.floor(x)
        for step, d in ((-1, 1 + t), (0, t), (1, 1 - t), (2, 2 - t)):
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * (d**3 - 5 * d**2 + 8 * d - 4)
            matrix[row, min(max(first + step, 0), inputs - 1)] += near if d <= 1 else far
    return matrix


def _mosaic(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    rows, columns = max(1, height // 64), max(1, width // 64)
    small = np.einsum("yh,xw,hwc->yxc", _cubic(height, rows), _cubic(width, columns), picture)
    return small.round().clip(0, 255)[np.arange(height) * rows // height][
        :, np.arange(width) * columns // width
    ]


def _canny(picture: np.ndarray, low: int, high: int) -> np.ndarray:
    """Sobel by the steepest channel, |dx| + |dy|, thinned along the gradient, then hysteresis."""
    p = np.pad(picture.astype(int), ((1, 1), (1, 1), (0, 0)), mode="edge")
    down, right = p[:-2] + 2 * p[1:-1] + p[2:], p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    dx, dy = down[:, 2:] - down[:, :-2], right[2:] - right[:-2]
    channel = (abs(dx) + abs(dy)).argmax(2)[..., None]
    dx, dy = (np.take_along_axis(each, channel, 2)[..., 0] for each in (dx, dy))
    steep = abs(dx) + abs(dy)

    def at(field: np.ndarray, y: int, x: int) -> Any:
        return np.pad(field, 1)[1 + y : 1 + y + len(field), 1 + x : 1 + x + field.shape[1]]

    def crest(first: tuple[int, int], then: tuple[int, int], strictly: bool = False) -> Any:
        other = at(steep, *then)
        return (steep > at(steep, *first)) & (steep > other if strictly else steep >= other)

    slope = np.tan(np.pi / 8)
    falling = (dx < 0) == (dy < 0)
    diagonal = np.where(falling, crest((-1, -1), (1, 1), True), crest((-1, 1), (1, -1), True))
    upright = np.where(abs(dy) > abs(dx) * (slope + 2), crest((-1, 0), (1, 0)), diagonal)
    thin = np.where(abs(dy) < abs(dx) * slope, crest((0, -1), (0, 1)), upright)
    weak, strong = thin & (steep > low), thin & (steep > high)
    while True:
        around = [at(strong, y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        grown = weak & np.any(around, axis=0)
        if np.array_equal(grown, strong):
            return strong
        strong = grown


# ---------------------------------------------------------------- the maps


@pytest.mark.parametrize(("height", "width"), [(290, 417), (64, 128), (63, 65), (16, 16)])
def test_a_mosaic_is_what_is_in_the_middle_of_its_cells(
    photo: np.ndarray, height: int, width: int
) -> None:
    picture = photo[:height, :width]
    assert np.array_equal(controls.mosaic(picture), _mosaic(picture))


def test_edges_are_cannys_between_100_and_200(photo: np.ndarray) -> None:
    lines = controls.canny(photo)
    assert np.array_equal(lines[..., 0] > 0, _canny(photo, 100, 200))
    assert set(np.unique(lines)) == {0, 255}
    assert (lines == lines[..., :1]).all()


@pytest.mark.parametrize(("step", "seen"), [(50, False), (51, True)])
def test_an_edge_begins_above_the_upper_threshold(step: int, seen: bool) -> None:
    picture = np.full((32, 32, 3), 100, np.uint8)
    picture[:, 16:, 2] += step  # one channel will do; its gradient is four steps
    assert controls.canny(picture).any() == seen


def test_gray_weighs_red_and_blue_the_other_way_round(photo: np.ndarray) -> None:
    for colour, level in (((255, 0, 0), 29), ((0, 255, 0), 150), ((0, 0, 255), 76)):
        picture = np.full((16, 16, 3), colour, np.uint8)
        assert (controls.gray(picture) == level).all()
    red, green, blue = (photo[..., n].astype(int) for n in range(3))
    expected = (3735 * red + 19235 * green + 9798 * blue + (1 << 14)) >> 15  # .114, .587, .299
    assert np.array_equal(controls.gray(photo), np.repeat(expected[..., None], 3, axis=2))


# ---------------------------------------------------------------- in the picture


def test_without_a_mask_the_map_is_all_there_is(photo: np.ndarray) -> None:
    assert np.array_equal(controls.draw("gray", photo, None, never), controls.gray(photo))
    assert controls.draw("none", photo, None, never) is photo


def test_grey_levels_of_a_mask_blend_the_map_in(photo: np.ndarray) -> None:
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[:, 100:200], mask[:, 200:] = 51, 255
    drawn = controls.draw("mosaic", photo, mask, never)
    cells = controls.mosaic(photo)
    assert np.array_equal(drawn[:, :100], photo[:, :100])
    assert np.array_equal(drawn[:, 200:], cells[:, 200:])
    fifth = 0.2 * cells[:, 100:200] + 0.8 * photo[:, 100:200]
    assert np.abs(drawn[:, 100:200] - fifth).max() <= 0.51


def test_what_needs_a_model_is_asked_for_by_name_and_blended_as_well() -> None:
    picture, far = noise(32, 48), np.full((32, 48, 3), 7, np.uint8)
    mask = np.zeros((32, 48), np.uint8)
    mask[:16] = 255
    asked: list[tuple[Control, bool]] = []

    def estimate(control: Control, shown: np.ndarray) -> np.ndarray:
        asked.append((control, shown is picture))
        return far

    drawn = controls.draw("depth", picture, mask, estimate)
    assert asked == [("depth", True)]
    assert np.array_equal(drawn[:16], far[:16])
    assert np.array_equal(drawn[16:], picture[16:])
