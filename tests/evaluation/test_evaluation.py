"""Scores. If these break, a table of success rates says something about the score, not the model:
right pictures must pass, slightly spoilt ones too, and what a model does by doing nothing must not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ace_tasks.evaluation import scoring
from ace_tasks.evaluation.baselines import copy_input, inpaint, mean_fill
from ace_tasks.evaluation.metrics import mean_error, ssim
from ace_tasks.evaluation.scoring import PARTS, score
from ace_tasks.images.closeness import psnr
from ace_tasks.training.world import scene as world
from ace_tasks.training.world.scene import PALETTE, PATTERNS, Paint, Scene, render
from ace_tasks.training.world.world_tasks import ALL_TASKS, Example
from tests.support.drawn import examples

Spoil = Callable[[Example], np.ndarray]


@cache
def held_out(task: str, count: int = 32, size_px: int = 64) -> tuple[Example, ...]:
    return tuple(examples(5, count, size_px, split="test", tasks=(task,)))


def chance(example: Example) -> np.random.Generator:
    """Return numbers that depend on the example alone, not on which tests ran before."""
    return np.random.default_rng(zlib.crc32(example.target.tobytes()))


def rate(task: str, spoil: Spoil, count: int) -> float:
    return float(np.mean([score(e, spoil(e)).success for e in held_out(task)[:count]]))


def blurred(picture: np.ndarray, sigma_px: float) -> np.ndarray:
    reach = np.arange(-4, 5)
    kernel = np.exp(-(reach**2) / 2 / sigma_px**2)
    kernel /= kernel.sum()
    padded = np.pad(picture.astype(np.float64), ((4, 4), (4, 4), (0, 0)), mode="edge")
    rows = sum(k * padded[n : n + picture.shape[0]] for n, k in enumerate(kernel))
    return sum(k * rows[:, n : n + picture.shape[1]] for n, k in enumerate(kernel))


def spoilt(example: Example) -> np.ndarray:
    noisy = blurred(example.target, 0.7) + chance(example).normal(0, 6, example.target.shape)
    return np.rint(np.clip(noisy, 0, 255)).astype(np.uint8)


def noise(example: Example) -> np.ndarray:
    return chance(example).integers(0, 256, example.target.shape, dtype=np.uint8)


def made_as(example: Example, scene: Scene) -> np.ndarray:
    """Another scene, in all that an edit may touch."""
    other = render(scene, len(example.target)).picture
    if example.mask is None or example.task == "background":
        return other
    return np.where(example.mask[:, :, None] > 0, other, example.target)


def other_paint(example: Example, **changes: str) -> np.ndarray:
    scene = example.truth.after
    return made_as(example, replace(scene, paint=replace(scene.paint, **changes)))


def wrong_colour(example: Example) -> np.ndarray:
    others = [name for name in PALETTE if name != example.truth.after.paint.colour]
    return other_paint(example, colour=others[chance(example).integers(len(others))])


def wrong_pattern(example: Example) -> np.ndarray:
    others = [name for name in PATTERNS if name != example.truth.after.paint.pattern]
    return other_paint(example, pattern=others[chance(example).integers(len(others))])


@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_answer_always_succeeds(task: str) -> None:
    for example in held_out(task):
        scores = score(example, example.target)
        assert scores.success, (scores, example.truth)
        assert set(scores.parts) == set(PARTS[task])
        assert (scores.psnr, scores.ssim) == (float("inf"), pytest.approx(1))


@pytest.mark.parametrize("task", ALL_TASKS)
def test_answers_succeed_at_the_larger_size_too(task: str) -> None:
    assert all(score(e, e.target).success for e in held_out(task, 8, 128))


def test_mild_blur_and_noise_are_forgiven() -> None:
    """Otherwise a model would be scored by its autoencoder."""
    rates = {task: rate(task, spoilt, 20) for task in ALL_TASKS}
    assert np.mean(list(rates.values())) >= 0.97, rates
    assert min(rates.values()) >= 0.92, rates


@pytest.mark.parametrize("baseline", [copy_input, mean_fill, noise])
def test_doing_nothing_filling_and_noise_fail(baseline: Spoil) -> None:
    rates = {task: rate(task, baseline, 20) for task in ALL_TASKS}
    assert max(rates.values()) <= 0.05, rates


def test_classical_inpainting_can_remove_from_a_smooth_background_and_nothing_else() -> None:
    """It is the floor for removing: half of it needs no model."""
    rates = {task: rate(task, inpaint, 20) for task in ALL_TASKS}
    assert 0.2 <= rates.pop("remove") <= 0.8
    assert max(rates.values()) <= 0.05, rates


@pytest.mark.parametrize("baseline", [wrong_colour, wrong_pattern])
def test_a_wrong_colour_or_pattern_fails(baseline: Spoil) -> None:
    rates = {task: rate(task, baseline, 20) for task in ALL_TASKS if task != "remove"}
    assert max(rates.values()) <= 0.05, rates


def test_the_tone_of_a_pattern_counts() -> None:
    for example in held_out("try_on"):
        paint = example.truth.after.paint
        if paint.pattern != "plain":
            tone = "black" if paint.tone == "white" else "white"
            assert not score(example, other_paint(example, tone=tone)).parts["pattern"]


def test_each_part_fails_alone_when_only_it_is_wrong() -> None:
    """A part that always agrees with another one would explain nothing."""
    example = held_out("reference")[0]
    scene = example.truth.after
    kind = "chair" if scene.kind != "chair" else "mug"
    spoils = {
        "shape": replace(scene, kind=kind),
        "background": replace(scene, background="snow" if scene.background != "snow" else "grass"),
    }
    for part, wrong in spoils.items():
        parts = score(example, render(wrong, 64).picture).parts
        assert not parts[part]
    assert score(example, render(spoils["background"], 64).picture).parts["colour"]
    for task in ("recolour", "add", "try_on"):
        edit = held_out(task)[0]
        assert edit.mask is not None
        around = edit.target.copy()
        around[edit.mask == 0] //= 2
        assert [p for p, right in score(edit, around).parts.items() if not right] == ["kept"]


def test_an_erased_surround_is_not_a_fitted_garment() -> None:
    """Try-on masks are often boxes: what else they took must be painted again."""
    boxed = [e for e in held_out("try_on") if e.mask is not None and (e.mask > 0).mean() > 0.25]
    assert boxed
    for example in boxed:
        hollow = example.target.copy()
        garment = render(example.truth.after, 64).painted > 0
        assert example.mask is not None
        hollow[(example.mask > 0) & ~garment] = 128
        assert not score(example, hollow).parts["background"]


def test_a_pattern_may_lie_otherwise_where_nothing_shows_how() -> None:
    """Which stripe comes first is nobody's fault in a new picture; in a hole it is visible."""
    scene = Scene("bag", Paint("green", "checked", "white"), "studio")
    region = render(scene, 64).painted > 250
    shifted = render(scene, 64).picture.copy()
    shifted[:, :-3] = shifted[:, 3:]
    inside = region & np.roll(region, -3, axis=1)
    assert scoring.fit_paint(shifted, scene, inside).pattern == "checked"
    assert scoring.fit_paint(shifted, scene, inside, offsets=(0.0,)).unexplained > 42


def test_a_paint_fit_recovers_what_was_rendered() -> None:
    for colour, rgb in PALETTE.items():
        for pattern in PATTERNS:
            for tone in world.TONES if pattern != "plain" else ("white",):
                scene = Scene("shirt", Paint(colour, pattern, tone), "studio")
                made = render(scene, 64)
                fit = scoring.fit_paint(made.picture, scene, made.painted > 250)
                assert (fit.pattern, fit.tone) == (pattern, tone)
                assert np.linalg.norm(fit.colour_RGB - rgb) < 15


def test_psnr_and_ssim_have_their_known_values() -> None:
    """Reference values: scikit-image 0.26's, of the same two arrays."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) // 2 + rng.integers(0, 60, a.shape), 0, 255).astype(np.uint8)
    assert ssim(a, b) == pytest.approx(0.7305587082805424, abs=1e-9)
    assert psnr(a, b) == pytest.approx(13.546902562291761, abs=1e-4)
    assert ssim(a, a) == pytest.approx(1)
    grey, dark = np.full((2, 16, 16, 3), (100,), np.uint8)
    dark = dark // 2
    constant = (0.01 * 255) ** 2
    wanted = (2 * 100 * 50 + constant) / (100**2 + 50**2 + constant)
    assert ssim(grey, dark) == pytest.approx(wanted)
    assert psnr(grey, grey + 1) == pytest.approx(48.1308, abs=1e-3)


def test_psnr_in_the_mask_ignores_the_rest() -> None:
    example = held_out("inpaint")[0]
    output = example.target.copy()
    assert example.mask is not None
    output[example.mask == 0] = 0
    assert score(example, output).psnr_in_mask == float("inf")
    assert score(example, output).psnr < 30
    assert score(held_out("control")[0], held_out("control")[0].target).psnr_in_mask is None


def test_the_error_outside_the_mask_is_of_the_outside_only() -> None:
    example = held_out("inpaint")[0]
    assert example.mask is not None
    output = np.where(example.mask[:, :, None] > 0, 0, np.minimum(example.target, 250) + 5)
    off = score(example, output.astype(np.uint8)).outside_error
    assert off == pytest.approx(5, abs=0.5)
    assert score(held_out("control")[0], held_out("control")[0].target).outside_error is None
    assert mean_error(example.target, example.target // 2, np.zeros((64, 64), bool)) == 0


def test_an_output_of_another_size_is_refused() -> None:
    example = held_out("add")[0]
    with pytest.raises(ValueError, match=r"\(64, 64, 3\).*given .*\(32, 64, 3\)"):
        score(example, example.target[:32])
    with pytest.raises(ValueError, match=r"given .*float64"):
        score(example, example.target / 255)
