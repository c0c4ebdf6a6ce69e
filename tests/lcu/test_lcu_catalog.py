"""Policy `catalog`: what goes in comes out, in its own size and place.

If these break, pictures come back shifted, stretched or cropped, and the paste-back hides it
outside the mask only.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ace_tasks.errors import BadImage, BadMask
from ace_tasks.images.canvas_size import TOKEN_PX, at_scale, lay_out
from ace_tasks.lcu.canvas import Inputs
from ace_tasks.lcu.policies import build_canvas, restore_target
from tests.support.geometry_cases import answer, picture, psnr, sizes


def _inputs(**overrides: Any) -> Inputs:
    defaults: dict[str, Any] = {
        "image": None,
        "mask": None,
        "references": (),
        "width": 64,
        "height": 48,
        "max_seq_len": 4096,
        "repainting_scale": 0.0,
        "keep_pixels_rate": None,
        "use_change": True,
    }
    return Inputs(**(defaults | overrides))


def _noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


RATES = st.sampled_from((None, 0.8))


@given(
    target=sizes(6000),
    references=st.lists(sizes(3000), max_size=2),
    budget=st.integers(128, 4096),
    rate=RATES,
)
@example(target=(6000, 375), references=[], budget=128, rate=None)
@example(target=(375, 6000), references=[(3000, 200), (31, 31)], budget=4096, rate=0.8)
@example(target=(16, 16), references=[(512, 31)], budget=128, rate=None)
@example(target=(97, 20), references=[], budget=4096, rate=None)
def test_any_layout_keeps_its_promises(
    target: tuple[int, int], references: list[tuple[int, int]], budget: int, rate: float | None
) -> None:
    layout = lay_out(target, references, budget, rate)
    assert layout.tokens <= budget
    assert layout.scale <= 1
    assert all(side % TOKEN_PX == 0 for side in (*layout.frame, layout.seam))
    (left, top), (width, height), frame = layout.offset, layout.target, layout.frame
    assert left + width <= frame[0]
    assert top + height <= frame[1]
    assert max(frame) <= 4 * min(frame)
    # Nothing is distorted by more than half a pixel of the canvas.
    for placed, size in zip(
        (layout.target, *layout.references), (target, *references), strict=True
    ):
        scale = max(placed) / max(size)
        assert abs(min(placed) - min(size) * scale) <= 1
    # A little larger would not fit, unless nothing had to be scaled.
    if layout.scale < 1:
        more = at_scale(layout.scale * 1.05 + 0.02, target, references, rate)
        assert more.tokens > budget


# Larger pictures take longer and prove no more.
@given(
    size=sizes(1000),
    references=st.lists(sizes(512), max_size=2),
    budget=st.sampled_from((128, 1024, 4096)),
    rate=RATES,
)
@example(size=(3000, 500), references=[(333, 64)], budget=128, rate=None)
@example(size=(64, 97), references=[(512, 31), (97, 200)], budget=4096, rate=0.8)
@example(size=(16, 20), references=[], budget=4096, rate=None)
def test_a_perfect_model_gives_the_picture_back(
    size: tuple[int, int], references: list[tuple[int, int]], budget: int, rate: float | None
) -> None:
    image = picture(size, seed=0).rgb
    unit, geometry = build_canvas(
        _inputs(
            image=image,
            references=tuple(picture(each, seed=1).rgb for each in references),
            max_seq_len=budget,
            keep_pixels_rate=rate,
        )
    )
    assert unit.edit_CHW.shape == (3, geometry.canvas_h, geometry.canvas_w)
    out = restore_target(answer(unit), geometry)
    assert out.shape == image.shape
    left, top, right, bottom = geometry.target or (0, 0, 0, 0)
    if (right - left, bottom - top) == size:
        assert np.array_equal(out, image)  # nothing was scaled: not one bit
    else:
        assert psnr(out, image) > 30


def test_a_seam_one_pixel_off_would_be_seen() -> None:
    image, reference = _noise(64, 48), _noise(50, 48, seed=1)
    unit, geometry = build_canvas(_inputs(image=image, references=(reference,)))
    shown = answer(unit)
    assert np.array_equal(restore_target(shown, geometry), image)
    assert np.array_equal(shown[:, 14:64], reference)  # ends at the seam; its edge goes on left
    assert np.array_equal(shown[:, :14], np.repeat(reference[:, :1], 14, axis=1))
    assert not np.array_equal(restore_target(np.roll(shown, 1, axis=1), geometry), image)


def test_upstream_keeps_less_of_the_width_on_the_same_pictures() -> None:
    kept = []
    for width, height, *beside in itertools.product((100, 333, 512), repeat=4):
        image, reference = (np.zeros((*each, 3), np.uint8) for each in ((height, width), beside))
        try:
            _, upstream = build_canvas(
                _inputs(image=image, references=(reference,), policy="reference")
            )
        except BadImage:  # so narrow a target that upstream has none of it left
            continue
        _, ours = build_canvas(_inputs(image=image, references=(reference,)))
        assert ours.target is not None
        assert (ours.out_w, ours.out_h) == (width, height)
        scale = upstream.canvas_h / height
        kept.append((upstream.canvas_w - upstream.slice_w - 30) / (width * scale))
    assert len(kept) > 20
    assert np.mean(np.minimum(kept, 1)) < 0.97


def test_a_thin_line_of_a_mask_is_not_lost_when_scaled() -> None:
    mask = np.zeros((1500, 1500), np.uint8)
    mask[750] = 255
    unit, geometry = build_canvas(
        _inputs(image=np.zeros((1500, 1500, 3), np.uint8), mask=mask, max_seq_len=256)
    )
    left, _, right, _ = geometry.target or (0, 0, 0, 0)
    assert unit.mask_1HW.sum() >= right - left
    assert unit.mask_1HW[0].any(dim=0).sum() == right - left


def test_padding_is_not_painted_and_goes_on_as_the_edge_was() -> None:
    image = _noise(40, 20)
    mask = np.full((20, 40), 255, np.uint8)
    unit, geometry = build_canvas(_inputs(image=image, mask=mask))
    assert (geometry.canvas_w, geometry.canvas_h) == (48, 32)
    assert geometry.target == (0, 0, 40, 20)
    assert unit.mask_1HW[0, :20, :40].all()
    assert not unit.mask_1HW[0, 20:].any()
    assert not unit.mask_1HW[0, :, 40:].any()
    shown = answer(unit)
    assert np.array_equal(shown[:20, 40:], np.repeat(image[:, -1:], 8, axis=1))
    assert np.array_equal(shown[20:, :40], np.repeat(image[-1:], 12, axis=0))


def test_a_banner_is_padded_to_an_aspect_of_four_and_comes_back_whole() -> None:
    image = _noise(640, 40)
    unit, geometry = build_canvas(_inputs(image=image))
    assert (geometry.canvas_w, geometry.canvas_h) == (640, 160)
    assert geometry.target == (0, 48, 640, 88)  # on the tokens' grid
    assert np.array_equal(restore_target(answer(unit), geometry), image)


def test_without_a_picture_all_is_painted_in_the_size_asked_for() -> None:
    unit, geometry = build_canvas(
        _inputs(width=100, height=70, references=(_noise(30, 30),), repainting_scale=1.0)
    )
    assert (geometry.out_w, geometry.out_h) == (100, 70)
    seam = geometry.slice_w
    assert unit.mask_1HW[0, :, seam:].all()
    assert not unit.mask_1HW[0, :, :seam].any()
    assert not unit.edit_CHW[:, :, seam:].any()


def test_references_keep_their_pixels_below_the_rate() -> None:
    layout = lay_out((512, 512), [(100, 200), (1000, 1000)], 4096, 0.8)
    assert layout.references == ((100, 200), (409, 409))
    assert lay_out((512, 512), [(100, 200)], 4096, None).references == ((256, 512),)


def test_what_cannot_be_placed_is_reported() -> None:
    image = _noise(64, 64)
    with pytest.raises(BadMask, match="accepted: a mask of its picture's size"):
        build_canvas(_inputs(image=image, mask=np.ones((64, 63), np.uint8)))
    with pytest.raises(BadMask, match="selects no pixel"):
        build_canvas(_inputs(image=image, mask=np.full((64, 64), 128, np.uint8)))
    with pytest.raises(BadImage, match="at most 4 tokens"):
        build_canvas(_inputs(image=image, references=(image,) * 8, max_seq_len=4))


def test_all_channels_agree_on_what_is_masked() -> None:
    image, mask = _noise(64, 48), np.zeros((48, 64), np.uint8)
    mask[10:20, 10:30] = 255
    unit, _ = build_canvas(_inputs(image=image, mask=mask, repainting_scale=0.5, use_change=False))
    assert unit.change_CHW is None
    whole, _ = build_canvas(_inputs(image=image))
    full = answer(whole)
    inside = torch.tensor(full[10:20, 10:30]).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(unit.edit_CHW[:, 10:20, 10:30], inside * 0.5, atol=1e-6)
