"""From a small map to a picture's own outline. If these break, a cut-out has steps or a halo."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ace_tasks.images import matting


def refined(rgb: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    return matting.soften(rgb, matting.outline(rgb, saliency))


def disc(side: int, ground: int = 235) -> tuple[np.ndarray, np.ndarray]:
    """A dark disc on a pale background, its edge two pixels soft; and its opacity, float."""
    y, x = np.mgrid[:side, :side] + 0.5
    away = np.hypot(x - 0.55 * side, y - 0.45 * side)
    opacity = np.clip(0.5 + (0.3 * side - away) / 2, 0, 1)
    rgb = np.float32((60, 30, 20)) * opacity[..., None] + ground * (1 - opacity[..., None])
    rgb += np.random.default_rng(0).normal(0, 2, rgb.shape)
    return rgb.clip(0, 255).astype(np.uint8), opacity


def seen_small(opacity: np.ndarray, side: int) -> np.ndarray:
    small = cv2.resize(np.float32(opacity), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(small, (0, 0), 0.7))


@pytest.mark.parametrize("side", [600, 1500])
def test_the_outline_is_the_pictures(side: int) -> None:
    rgb, opacity = disc(side)
    coarse = seen_small(opacity, side // 8)
    found = refined(rgb, coarse) / 255
    enlarged = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR)
    error = np.abs(found - opacity).mean()
    assert error < np.abs(enlarged - opacity).mean() / 3
    far = np.abs(enlarged - 0.5) > 0.499
    assert np.abs(found - opacity)[far].max() < 0.1


def test_a_large_picture_is_worked_on_in_strips_that_do_not_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rgb, opacity = disc(1400)
    coarse = seen_small(opacity, 160)
    whole = refined(rgb, coarse)
    monkeypatch.setattr(matting, "_STRIP_PX", 1400 * 37)
    assert np.array_equal(refined(rgb, coarse), whole)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 900), (900, 16), (17, 23)])
def test_the_smallest_pictures_have_an_outline(height: int, width: int) -> None:
    rgb = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ramp = np.tile(np.linspace(0, 1, 320, dtype=np.float32), (320, 1))
    alpha = refined(rgb, ramp)
    assert alpha.shape == (height, width)
    assert alpha.dtype == np.uint8


def test_nothing_and_all_stay_so() -> None:
    rgb, _ = disc(200)
    assert not refined(rgb, np.zeros((320, 320), np.float32)).any()
    assert (refined(rgb, np.ones((320, 320), np.float32)) == 255).all()


def test_grain_stands_not_out_of_an_edge() -> None:
    """A table of wood behind a cup: no whiskers where its grain meets the edge."""
    rgb, opacity = disc(400, ground=120)
    grain = np.random.default_rng(1).normal(0, 45, (400, 400, 1)).repeat(3, axis=2)
    rgb = (rgb + grain * (1 - opacity[..., None])).clip(0, 255).astype(np.uint8)
    away = cv2.distanceTransform(np.uint8(opacity < 0.5), cv2.DIST_L2, 5)
    beyond = (away > 3) & (away < 12)
    found = matting.soften(rgb, opacity > 0.5)
    assert (found[beyond] > 32).mean() < 0.005  # 0.02 by the grain itself
