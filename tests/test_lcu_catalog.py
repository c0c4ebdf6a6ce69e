"""Policy `catalog`: what goes in comes out, in its own size and place.

If these break, pictures come back shifted, stretched or cropped, and the paste-back hides it
outside the mask only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ace_tasks import lcu
from ace_tasks.errors import BadImage, BadMask
from ace_tasks.layout import at_scale, lay_out

SIDES = (16, 20, 31, 64, 97, 200, 333, 512, 1000, 3000, 6000)


def _inputs(**given: Any) -> lcu.Inputs:
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
    return lcu.Inputs(**(defaults | given))


def _smooth(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A picture that survives scaling: three slow waves, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin(2 * np.pi * (a * x / width + b * y / height) + c) for a, b, c in rng.random((3, 3))
    ]
    return np.stack([np.round(127 + 120 * wave) for wave in waves], axis=-1).astype(np.uint8)


def _noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _perfect_model(unit: lcu.LCU) -> np.ndarray:
    """Gives back the canvas it was shown."""
    assert unit.change_CHW is not None
    shown = unit.edit_CHW + unit.change_CHW
    return ((shown + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def _cases(count: int) -> list[tuple[tuple[int, int], list[tuple[int, int]], int, float | None]]:
    """Random (target, references, budget, rate) incl. odd sizes and aspects up to 16."""
    rng = np.random.default_rng(7)
    cases = []
    while len(cases) < count:
        width, height = (int(each) for each in rng.choice(SIDES, 2))
        if max(width, height) > 16 * min(width, height):
            continue
        references = [
            (int(w), int(h)) for w, h in rng.choice(SIDES[2:9], (int(rng.integers(0, 3)), 2))
        ]
        budget = int(rng.choice([128, 1024, 4096]))
        cases.append(((width, height), references, budget, rng.choice([None, 0.8])))
    return cases


@pytest.mark.parametrize("case", _cases(200))
def test_any_layout_keeps_its_promises(
    case: tuple[tuple[int, int], list[tuple[int, int]], int, float | None],
) -> None:
    target, references, budget, rate = case
    layout = lay_out(target, references, budget, rate)
    assert layout.tokens <= budget
    assert layout.scale <= 1
    assert all(side % lcu.TOKEN_PX == 0 for side in (*layout.frame, layout.seam))
    (left, top), (width, height), frame = layout.offset, layout.target, layout.frame
    assert left + width <= frame[0]
    assert top + height <= frame[1]
    assert max(frame) <= 4 * min(frame)
    # Nothing is distorted by more than half a pixel of the canvas.
    for placed, given in zip(
        (layout.target, *layout.references), (target, *references), strict=True
    ):
        scale = max(placed) / max(given)
        assert abs(min(placed) - min(given) * scale) <= 1
    # A little larger would not fit, unless nothing had to be scaled.
    if layout.scale < 1:
        more = at_scale(layout.scale * 1.05 + 0.02, target, references, rate)
        assert more.tokens > budget


def _handy_cases(count: int) -> list[Any]:
    """Those whose pictures are quickly made and scaled; larger ones prove no more."""
    return [each for each in _cases(3 * count) if np.prod(each[0]) <= 1_600_000][:count]


@pytest.mark.parametrize("case", _handy_cases(30))
def test_a_perfect_model_gives_the_picture_back(
    case: tuple[tuple[int, int], list[tuple[int, int]], int, float | None],
) -> None:
    (width, height), references, budget, rate = case
    image = _smooth(width, height)
    unit, geometry = lcu.build(
        _inputs(
            image=image,
            references=tuple(_smooth(*size, seed=1) for size in references),
            max_seq_len=budget,
            keep_pixels_rate=rate,
        )
    )
    assert unit.edit_CHW.shape == (3, geometry.canvas_h, geometry.canvas_w)
    out = lcu.restore(_perfect_model(unit), geometry)
    assert out.shape == image.shape
    left, top, right, bottom = geometry.target or (0, 0, 0, 0)
    if (right - left, bottom - top) == (width, height):
        assert np.array_equal(out, image)  # nothing was scaled: not one bit
    else:
        assert _psnr(out, image) > 30


def test_a_seam_one_pixel_off_would_be_seen() -> None:
    image, reference = _noise(64, 48), _noise(50, 48, seed=1)
    unit, geometry = lcu.build(_inputs(image=image, references=(reference,)))
    shown = _perfect_model(unit)
    assert np.array_equal(lcu.restore(shown, geometry), image)
    assert np.array_equal(shown[:, 14:64], reference)  # ends at the seam; its edge goes on left
    assert np.array_equal(shown[:, :14], np.repeat(reference[:, :1], 14, axis=1))
    assert not np.array_equal(lcu.restore(np.roll(shown, 1, axis=1), geometry), image)


def test_upstream_keeps_less_of_the_width_on_the_same_pictures() -> None:
    kept = []
    for (width, height), references, _, _ in _handy_cases(200):
        if not references or max(width, height) > 4 * min(width, height) or width < 100:
            continue
        image = np.zeros((height, width, 3), np.uint8)
        beside = tuple(np.zeros((h, w, 3), np.uint8) for w, h in references)
        given = {"image": image, "references": beside, "max_seq_len": 4096}
        try:
            _, upstream = lcu.build(_inputs(**given, policy="reference"))
        except BadImage:  # so narrow a target that upstream has none of it left
            continue
        _, ours = lcu.build(_inputs(**given))
        assert ours.target is not None
        assert (ours.out_w, ours.out_h) == (width, height)
        scale = upstream.canvas_h / height
        kept.append((upstream.canvas_w - upstream.slice_w - 30) / (width * scale))
    assert len(kept) > 20
    assert np.mean(np.minimum(kept, 1)) < 0.97


def test_a_thin_line_of_a_mask_is_not_lost_when_scaled() -> None:
    mask = np.zeros((3000, 3000), np.uint8)
    mask[1500] = 255
    unit, geometry = lcu.build(
        _inputs(image=np.zeros((3000, 3000, 3), np.uint8), mask=mask, max_seq_len=1024)
    )
    left, _, right, _ = geometry.target or (0, 0, 0, 0)
    assert unit.mask_1HW.sum() >= right - left
    assert unit.mask_1HW[0].any(dim=0).sum() == right - left


def test_padding_is_not_painted_and_goes_on_as_the_edge_was() -> None:
    image = _noise(40, 20)
    mask = np.full((20, 40), 255, np.uint8)
    unit, geometry = lcu.build(_inputs(image=image, mask=mask))
    assert (geometry.canvas_w, geometry.canvas_h) == (48, 32)
    assert geometry.target == (0, 0, 40, 20)
    assert unit.mask_1HW[0, :20, :40].all()
    assert not unit.mask_1HW[0, 20:].any()
    assert not unit.mask_1HW[0, :, 40:].any()
    shown = _perfect_model(unit)
    assert np.array_equal(shown[:20, 40:], np.repeat(image[:, -1:], 8, axis=1))
    assert np.array_equal(shown[20:, :40], np.repeat(image[-1:], 12, axis=0))


def test_a_banner_is_padded_to_an_aspect_of_four_and_comes_back_whole() -> None:
    image = _noise(640, 40)
    unit, geometry = lcu.build(_inputs(image=image))
    assert (geometry.canvas_w, geometry.canvas_h) == (640, 160)
    assert geometry.target == (0, 48, 640, 88)  # on the tokens' grid
    assert np.array_equal(lcu.restore(_perfect_model(unit), geometry), image)


def test_without_a_picture_all_is_painted_in_the_size_asked_for() -> None:
    unit, geometry = lcu.build(
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


def test_what_cannot_be_placed_is_told() -> None:
    image = _noise(64, 64)
    with pytest.raises(BadMask, match="accepted: a mask of its picture's size"):
        lcu.build(_inputs(image=image, mask=np.ones((64, 63), np.uint8)))
    with pytest.raises(BadMask, match="selects no pixel"):
        lcu.build(_inputs(image=image, mask=np.full((64, 64), 128, np.uint8)))
    with pytest.raises(BadImage, match="fits in 4 tokens"):
        lcu.build(_inputs(image=image, references=(image,) * 8, max_seq_len=4))


def test_all_channels_agree_on_what_is_masked() -> None:
    image, mask = _noise(64, 48), np.zeros((48, 64), np.uint8)
    mask[10:20, 10:30] = 255
    unit, _ = lcu.build(_inputs(image=image, mask=mask, repainting_scale=0.5, use_change=False))
    assert unit.change_CHW is None
    whole, _ = lcu.build(_inputs(image=image))
    full = _perfect_model(whole)
    inside = torch.tensor(full[10:20, 10:30]).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(unit.edit_CHW[:, 10:20, 10:30], inside * 0.5, atol=1e-6)
