"""Canvas building, against expectations written out by hand; parity as such is test_golden's.

If these break, the wrong area is repainted, references leak into outputs, or a picture of odd
size ends its item with a stack trace instead of a sentence.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from ace_tasks.errors import BadImage, BadMask
from ace_tasks.lcu.canvas import Geometry, Inputs, fit_budget
from ace_tasks.lcu.policies import build_canvas, restore_target


def _noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _left_half(width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return mask


def _inputs(**given: Any) -> Inputs:
    defaults = {
        "image": None,
        "mask": None,
        "references": (),
        "width": 64,
        "height": 48,
        "max_seq_len": 4096,
        "repainting_scale": 1.0,
        "keep_pixels_rate": None,
        "use_change": False,
        "policy": "reference",
    }
    return Inputs(**(defaults | given))


def _floats(pixels: np.ndarray) -> torch.Tensor:
    """Scale pixels by hand: 0 → -1, 255 → 1."""
    return torch.from_numpy(pixels.transpose(2, 0, 1) / 127.5 - 1).float()


# ---------------------------------------------------------------- each kind of input


@pytest.mark.parametrize(("scale", "kept"), [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_the_masked_area_is_erased_by_the_repainting_scale(scale: float, kept: float) -> None:
    image = _noise(64, 48)
    unit, geometry = build_canvas(
        _inputs(image=image, mask=_left_half(64, 48), repainting_scale=scale)
    )
    expected = _floats(image)
    expected[:, :, :32] *= kept
    assert torch.allclose(unit.edit_CHW, expected, atol=1e-6)
    assert unit.mask_1HW[0, :, :32].eq(1).all()
    assert unit.mask_1HW[0, :, 32:].eq(0).all()
    assert unit.change_CHW is None
    assert geometry == Geometry("reference", 48, 64, 0, 48, 64)
    assert geometry.tokens == 12


def test_on_448_channels_the_masked_content_moves_to_the_change() -> None:
    image = _noise(64, 48)
    unit, _ = build_canvas(
        _inputs(image=image, mask=_left_half(64, 48), repainting_scale=0.0, use_change=True)
    )
    whole = _floats(image)
    assert unit.change_CHW is not None
    assert torch.allclose(unit.change_CHW[:, :, :32], whole[:, :, :32], atol=1e-6)
    assert torch.allclose(unit.edit_CHW[:, :, 32:], whole[:, :, 32:], atol=1e-6)
    assert not unit.change_CHW[:, :, 32:].any()
    assert not unit.edit_CHW[:, :, :32].any()


def test_an_edit_without_a_mask_covers_the_whole_picture() -> None:
    unit, _ = build_canvas(_inputs(image=_noise(64, 48), repainting_scale=0.0))
    assert unit.mask_1HW.eq(1).all()
    assert torch.allclose(unit.edit_CHW, _floats(_noise(64, 48)), atol=1e-6)


def test_a_mask_is_repainted_strictly_above_128() -> None:
    mask = np.repeat(np.array([127, 128, 129, 255], np.uint8), 16)[None].repeat(48, axis=0)
    unit, _ = build_canvas(_inputs(image=_noise(64, 48), mask=mask))
    assert unit.mask_1HW[0, 0, ::16].tolist() == [0, 0, 1, 1]


def test_a_reference_alone_stands_left_of_an_empty_target() -> None:
    reference = _noise(32, 48, seed=1)
    unit, geometry = build_canvas(_inputs(references=(reference,)))
    assert torch.allclose(unit.edit_CHW[:, :, :32], _floats(reference), atol=1e-6)
    assert not unit.edit_CHW[:, :, 32:].any()  # mid grey
    assert not unit.mask_1HW[:, :, :32].any()
    assert unit.mask_1HW[:, :, 32:].eq(1).all()
    assert (geometry.slice_w, geometry.canvas_w, geometry.out_w, geometry.out_h) == (32, 96, 64, 48)


def test_try_on_joins_reference_picture_and_mask_on_one_canvas() -> None:
    image, reference = _noise(64, 48), _noise(32, 48, seed=1)
    unit, geometry = build_canvas(
        _inputs(
            image=image,
            mask=_left_half(64, 48),
            references=(reference,),
            use_change=True,
        )
    )
    assert geometry.slice_w == 32
    assert torch.allclose(unit.edit_CHW[:, :, :32], _floats(reference), atol=1e-6)
    assert not unit.edit_CHW[:, :, 32:64].any()  # erased
    assert torch.allclose(unit.edit_CHW[:, :, 64:], _floats(image)[:, :, 32:], atol=1e-6)
    assert unit.mask_1HW[0, 0].tolist() == [0] * 32 + [1] * 32 + [0] * 32
    assert unit.change_CHW is not None
    assert not unit.change_CHW.any()


def test_references_take_the_targets_height_unless_their_pixels_are_kept() -> None:
    small, large = _noise(20, 24, seed=1), _noise(40, 96, seed=2)
    for reference, rate, width in [
        (small, None, 40),  # 20·48/24
        (large, None, 20),
        (small, 0.8, 20),  # below 0.8·48: as it is
        (large, 0.8, 15),  # to int(48·0.8) = 38 high
    ]:
        unit, _ = build_canvas(
            _inputs(references=(reference,), keep_pixels_rate=rate, width=160 - width)
        )
        columns = unit.edit_CHW.abs().sum(dim=(0, 1)).nonzero().flatten()
        assert columns.max().item() + 1 == width
        rows = unit.edit_CHW.abs().sum(dim=(0, 2)).nonzero().flatten()
        high = {None: 48, 0.8: min(reference.shape[0], 38)}[rate]
        assert (rows.min().item(), len(rows)) == ((48 - high) // 2, high)


# ---------------------------------------------------------------- N references


def test_several_references_stand_side_by_side_as_each_would_alone() -> None:
    first, second = _noise(32, 48, seed=1), _noise(24, 96, seed=2)  # 32 and 12 wide at 48
    third = _noise(60, 90, seed=3)  # 32 wide
    image, mask = _noise(64, 48), _left_half(64, 48)
    given = {"image": image, "mask": mask, "use_change": True}
    alone = [build_canvas(_inputs(**given, references=(each,))) for each in (first, third)]
    both, geometry = build_canvas(_inputs(**given, references=(first, third)))
    assert geometry.slice_w == sum(each.slice_w for _, each in alone) == 64
    assert geometry.canvas_w == 64 + 64
    assert torch.equal(both.edit_CHW[:, :, :32], alone[0][0].edit_CHW[:, :, :32])
    assert torch.equal(both.edit_CHW[:, :, 32:64], alone[1][0].edit_CHW[:, :, :32])
    for name in ("edit_CHW", "change_CHW", "mask_1HW"):
        target = getattr(alone[0][0], name)[:, :, 32:]
        assert torch.equal(getattr(both, name)[:, :, 64:], target)
    _, three = build_canvas(_inputs(**given, references=(first, second, third)))
    assert three.slice_w == (32 + 12 + 32) // 16 * 16  # floored once, over the sum


def test_two_references_equal_one_that_shows_both() -> None:
    first, second = _noise(32, 48, seed=1), _noise(48, 48, seed=2)
    joined = np.concatenate([first, second], axis=1)
    for image in (None, _noise(90, 48)):
        two, geometry_two = build_canvas(_inputs(image=image, references=(first, second)))
        one, geometry_one = build_canvas(_inputs(image=image, references=(joined,)))
        assert geometry_two == geometry_one
        assert torch.equal(two.edit_CHW, one.edit_CHW)
        assert torch.equal(two.mask_1HW, one.mask_1HW)


# ---------------------------------------------------------------- aspect and budget


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param((100, 400), (100, 400), id="exactly 4"),
        pytest.param((100, 401), (100, 400), id="a row too high"),
        pytest.param((401, 100), (400, 100), id="a column too wide"),
        pytest.param((33, 191), (33, 132), id="odd sides"),
    ],
)
def test_an_aspect_above_4_is_cropped_to_its_centre(
    given: tuple[int, int], kept: tuple[int, int]
) -> None:
    (width, height), (kept_w, kept_h) = given, kept
    image = _noise(width, height)
    _, geometry = build_canvas(_inputs(image=image))
    assert (geometry.out_w, geometry.out_h) == kept
    top, left = round((height - kept_h) / 2), round((width - kept_w) / 2)
    centre = image[top : top + kept_h, left : left + kept_w]
    cropped, _ = build_canvas(_inputs(image=image, repainting_scale=0.0))
    direct, _ = build_canvas(_inputs(image=centre, repainting_scale=0.0))
    assert torch.equal(cropped.edit_CHW, direct.edit_CHW)


def test_the_budget_is_never_exceeded_and_never_wasted() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5000):
        height, width = (int(side) for side in rng.integers(16, 6000, 2))
        budget = int(rng.integers(24, 5000))
        if max(height, width) > 4 * min(height, width):
            continue
        canvas_h, canvas_w, scale = fit_budget(height, width, budget)
        assert canvas_h % 16 == canvas_w % 16 == 0
        assert (canvas_h // 16) * (canvas_w // 16) <= budget
        assert canvas_h <= height
        assert canvas_w <= width
        # One more row or column of tokens would not fit, or would enlarge.
        assert scale == 1 or (canvas_h + 16) * (canvas_w + 16) > 256 * budget


def test_whole_canvases_keep_the_budget_with_any_inputs() -> None:
    sizes = [(16, 16), (17, 61), (100, 40), (95, 203), (160, 160), (301, 99)]
    budgets = (40, 64, 1000)
    for (width, height), other, rate, budget in itertools.product(
        sizes, sizes[2:], (None, 0.8), budgets
    ):
        inputs = _inputs(
            image=_noise(width, height),
            references=(_noise(*other, seed=1),),
            keep_pixels_rate=rate,
            max_seq_len=budget,
            use_change=True,
        )
        try:
            unit, geometry = build_canvas(inputs)
        except BadImage:
            continue  # too narrow beside its reference; refused, not crashed
        assert geometry.tokens <= budget
        assert unit.change_CHW is not None
        shape = (geometry.canvas_h, geometry.canvas_w)
        assert unit.edit_CHW.shape[1:] == unit.mask_1HW.shape[1:] == unit.change_CHW.shape[1:]
        assert tuple(unit.edit_CHW.shape[1:]) == shape
        assert set(unit.mask_1HW.unique().tolist()) <= {0, 1}
        out = restore_target(np.zeros((*shape, 3), np.uint8), geometry)
        if geometry.slice_w:
            assert out.shape == (height, width, 3)


# ---------------------------------------------------------------- a sentence, not a stack trace


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        pytest.param(
            {"image": _noise(64, 48), "mask": _left_half(48, 64)},
            BadMask,
            r"accepted: a mask of its picture's size \(48, 64\).*given \(64, 48\)",
            id="a mask turned",
        ),
        pytest.param(
            {"image": _noise(330, 64), "mask": _left_half(330, 64)},
            BadImage,
            "accepted with a mask: aspect ratios up to 4; given 330×64",
            id="too wide with a mask",
        ),
        pytest.param(
            {"image": _noise(15, 30)},
            BadImage,
            "accepted: a canvas of at least 16×16 px within 4096 tokens; given 15×30",
            id="too narrow",
        ),
        pytest.param(
            {"image": _noise(64, 256), "max_seq_len": 2},
            BadImage,
            "within 2 tokens; given 64×256",
            id="no tokens for it",
        ),
        pytest.param(
            {"references": (_noise(8, 32),), "height": 3},
            BadImage,
            "a reference shrinks to nothing: 0×3 px",
            id="a reference of no width",
        ),
        pytest.param(
            {"references": (_noise(400, 100),), "width": 16, "height": 64},
            BadImage,
            "the target is too narrow beside its references: 16 px of a 272 px canvas",
            id="no room beside a reference",
        ),
    ],
)
def test_what_crashes_upstream_is_refused_in_a_sentence(
    given: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        build_canvas(_inputs(**given))


def test_a_mask_of_nothing_selects_everything_as_upstream_has_it() -> None:
    """The replica never lets such an item come this far; the reference's policy does."""
    unit, _ = build_canvas(_inputs(image=_noise(64, 48), mask=np.zeros((48, 64), np.uint8)))
    assert unit.mask_1HW.eq(1).all()


def test_inputs_are_left_as_they_were() -> None:
    image, mask = _noise(64, 48), _left_half(64, 48)
    for each in (image, mask):
        each.flags.writeable = False  # as decoded pictures are
    inputs = _inputs(image=image, mask=mask, references=(_noise(32, 48, seed=1),))
    first, _ = build_canvas(inputs)
    second, _ = build_canvas(dataclasses.replace(inputs))
    assert torch.equal(first.edit_CHW, second.edit_CHW)


# ---------------------------------------------------------------- the way back


def test_without_references_the_canvas_is_the_result() -> None:
    canvas = _noise(64, 48)
    geometry = Geometry("reference", 48, 64, 0, 50, 70)
    assert restore_target(canvas, geometry) is canvas


def test_with_references_the_target_is_cut_30_px_right_of_the_seam() -> None:
    canvas = np.zeros((64, 160, 3), np.uint8)
    canvas[:, :62] = 255  # the reference, and what the crop must not show
    geometry = Geometry("reference", 64, 160, 32, 130, 197)
    restored = restore_target(canvas, geometry)
    assert restored.shape == (130, 197, 3)
    assert not restored.any()
    canvas[:, 62] = 255
    assert restore_target(canvas, geometry).any()
