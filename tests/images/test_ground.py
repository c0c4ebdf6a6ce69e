"""A product laid on another background. If these break, it has a halo, a colour of the old one, or a
shadow that nobody cast."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ace_tasks.images import ground

WHITE = np.array((255, 255, 255), np.uint8)


def sphere(
    side: int = 300, ground_level: float = 230.0, shadow: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A red disc on a lit, greenish background: the picture, its opacity, and the shadow, 1: none."""
    y, x = np.mgrid[:side, :side] + 0.5
    opacity = np.clip(0.5 + (0.22 * side - np.hypot(x - side / 2, y - side / 2)) / 3, 0, 1)
    fallen = np.exp(
        -(((x - 0.5 * side) / (0.24 * side)) ** 2 + ((y - 0.74 * side) / (0.08 * side)) ** 2)
    )
    shade = 1 - shadow * fallen
    lit = (ground_level + 10 * (0.5 - y / side)) * shade
    old = lit[..., None] * np.array((0.92, 1.0, 0.9))
    rgb = np.array((190, 20, 30)) * opacity[..., None] + old * (1 - opacity[..., None])
    rgb += np.random.default_rng(0).normal(0, 1, rgb.shape)
    return rgb.clip(0, 255).astype(np.uint8), np.round(255 * opacity).astype(np.uint8), shade


def test_no_colour_of_the_old_ground_is_left_at_the_edge() -> None:
    rgb, opacity, _ = sphere()
    found = ground.laid(ground.own_colours(rgb, opacity), opacity, WHITE, None)
    share = opacity[..., None] / 255
    wanted = np.array((190, 20, 30)) * share + 255 * (1 - share)
    edge = (opacity > 0) & (opacity < 255)
    assert edge.sum() > 500
    assert np.abs(found - wanted)[edge].mean() < 4
    spoilt = ground.laid(rgb, opacity, WHITE, None)
    assert np.abs(spoilt - wanted)[edge].mean() > 12


def test_what_is_all_product_keeps_its_very_pixels() -> None:
    rgb, opacity, _ = sphere()
    found = ground.laid(ground.own_colours(rgb, opacity), opacity, WHITE, None)
    assert np.array_equal(found[opacity == 255], rgb[opacity == 255])
    assert (found[opacity == 0] == 255).all()


def test_a_large_picture_is_worked_on_in_rows_that_do_not_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rgb, opacity, shade = sphere(shadow=0.5)
    levels = np.round(255 * shade).astype(np.uint8)
    whole = ground.own_colours(rgb, opacity), ground.laid(rgb, opacity, WHITE, levels)
    monkeypatch.setattr(ground, "_ROWS", 37)
    parts = ground.own_colours(rgb, opacity), ground.laid(rgb, opacity, WHITE, levels)
    assert np.abs(whole[0].astype(int) - parts[0]).max() <= 1
    assert np.array_equal(whole[1], parts[1])


def test_a_shadow_on_lit_ground_is_seen_and_lies_on_the_new_one() -> None:
    rgb, opacity, wanted = sphere(side=600, shadow=0.5)
    shade = ground.shadow(rgb, opacity)
    assert shade is not None
    seen = cv2.erode((opacity == 0).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert np.abs(shade / 255 - wanted)[seen].mean() < 0.03
    assert shade[seen].min() < 160
    assert (shade[:60] > 250).all()  # a lit background is no shadow
    found = ground.laid(ground.own_colours(rgb, opacity), opacity, WHITE, shade)
    assert np.abs(found[seen] / 255 - wanted[seen][..., None]).mean() < 0.03


def test_without_a_shadow_none_is_made_up() -> None:
    rgb, opacity, _ = sphere(side=600)
    shade = ground.shadow(rgb, opacity)
    assert shade is not None
    assert (shade > 250).mean() > 0.99


@pytest.mark.parametrize("what", ["dark", "pattern", "filled"])
def test_where_no_shadow_can_be_discerned_there_is_none(what: str) -> None:
    rgb, opacity, _ = sphere(ground_level=60 if what == "dark" else 230, shadow=0.5)
    if what == "pattern":
        stripes = (np.arange(300) // 20 % 2 == 0)[:, None] & (opacity == 0)
        rgb[stripes] = (90, 140, 200)
    if what == "filled":
        opacity[:, :280] = 255
    assert ground.shadow(rgb, opacity) is None


def test_on_nothing_a_shadow_is_black_as_opaque_as_it_is_dark() -> None:
    rgb, opacity, shade = sphere(shadow=0.5)
    product = ground.own_colours(rgb, opacity)
    straight, alpha = ground.on_nothing(product, opacity, None)
    assert straight is product
    assert alpha is opacity
    levels = np.round(255 * shade).astype(np.uint8)
    straight, alpha = ground.on_nothing(product, opacity, levels)
    seen = straight * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255)
    wanted = ground.laid(product, opacity, WHITE, levels)
    assert np.abs(seen - wanted).max() < 3
