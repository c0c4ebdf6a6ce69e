"""Automatic scores, on a photograph and defects made on purpose. If these break, the worst of
several candidates is published, a black picture goes to the shop, or good ones wait for a person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from ace_tasks.images import codec, scores
from ace_tasks.images.paste import THRESHOLD, blend, feathered
from ace_tasks.images.scores import ScoreInputs, score, total
from ace_tasks.provenance.record import Scores
from ace_tasks.replica.publisher import reasons_to_hold
from ace_tasks.settings import ImageLimits, ReviewSettings
from infra.sample.make import HERE

FEATHER_PX = 3


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    data = (HERE / "photos" / "coffee.jpg").read_bytes()
    rgb = codec.decode(data, ImageLimits()).rgb
    return np.asarray(cv2.resize(rgb, (320, 240), interpolation=cv2.INTER_AREA))


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    mask = np.zeros((240, 320), np.uint8)
    cv2.ellipse(mask, (150, 120), (70, 60), 0, 0, 360, 255, -1)
    return mask


@pytest.fixture(scope="module")
def good(photo: np.ndarray, mask: np.ndarray) -> ScoreInputs:
    """The right answer but for its grain: as a good model repaints what was there."""
    grain = np.random.default_rng(0).normal(0, 2, photo.shape)
    return repainted(photo, mask, np.clip(photo + grain, 0, 255).astype(np.uint8))


def repainted(photo: np.ndarray, mask: np.ndarray, answer: np.ndarray) -> ScoreInputs:
    made = blend(photo, answer, feathered(mask, FEATHER_PX))
    return ScoreInputs(made, photo, mask, feather_px=FEATHER_PX)


def shifted(photo: np.ndarray, levels: tuple[int, int, int]) -> np.ndarray:
    return np.clip(photo.astype(np.int16) + levels, 0, 255).astype(np.uint8)


def noise(photo: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, photo.shape).astype(np.uint8)


DEFECTS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], float]] = {
    # what is done to the answer, the score that tells, and the sign of its move
    "blur": ("sharpness", lambda p: cv2.GaussianBlur(p, (0, 0), 4), -1),
    "noise": ("sharpness", noise, +1),
    "blown out": ("clipping", lambda p: shifted(p, (150, 150, 150)), +1),
    "crushed": ("clipping", lambda p: shifted(p, (-200, -200, -200)), +1),
    "black": ("blankness", lambda p: np.zeros_like(p), +1),
    "one colour": ("blankness", lambda p: np.full_like(p, (0, 200, 60)), +1),
    "a pasted seam": ("seam", lambda p: np.roll(p, 90, axis=1), +1),
    "another exposure": ("seam", lambda p: shifted(p, (60, 60, 60)), +1),
    "a colour cast": ("colour_shift", lambda p: shifted(p, (40, 0, -40)), +1),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_moves_its_score_and_the_total_down(
    photo: np.ndarray, mask: np.ndarray, good: ScoreInputs, defect: str
) -> None:
    name, spoil, sign = DEFECTS[defect]
    before = score(good, outside=1.0)
    after = score(repainted(photo, mask, spoil(photo)), outside=1.0)
    moved = sign * (getattr(after, name) - getattr(before, name))
    assert moved > 0.1 * max(1.0, abs(getattr(before, name)))
    assert after.total < before.total - 0.02


def test_a_good_repair_scores_high_and_an_untouched_picture_does_not(
    photo: np.ndarray, mask: np.ndarray, good: ScoreInputs
) -> None:
    scores = score(good, outside=0.5)
    assert scores.total > 0.8
    assert 0.5 < scores.sharpness < 2  # type: ignore[operator]
    assert (scores.clipping, scores.blankness) == pytest.approx((0, 0), abs=0.001)
    assert scores.seam < 2  # type: ignore[operator]
    assert scores.colour_shift is not None
    untouched = score(replace(good, made=photo), outside=0)
    assert untouched.change == 0
    assert untouched.total == 0


def test_what_the_model_did_outside_the_mask_counts(good: ScoreInputs) -> None:
    totals = [score(good, outside=levels).total for levels in (5, 20, 50)]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 3


def test_likeness_reveals_the_reference_that_was_used(photo: np.ndarray, mask: np.ndarray) -> None:
    red, blue = (np.full((60, 60, 3), 255, np.uint8) for _ in range(2))
    red[10:50, 10:50], blue[10:50, 10:50] = (200, 30, 30), (30, 30, 200)
    inputs = repainted(photo, mask, np.full_like(photo, (200, 30, 30)))
    alike, unlike = (score(replace(inputs, references=[each])).likeness for each in (red, blue))
    assert alike is not None and unlike is not None  # noqa: PT018
    assert alike > 0.8 > 0.2 > unlike


def test_a_slightly_other_colour_is_still_like(photo: np.ndarray, mask: np.ndarray) -> None:
    """The edges of a histogram's bins must not matter; another colour stays unlike."""
    likenesses = []
    for blue in range(150, 240, 6):
        reference = np.full((60, 60, 3), 255, np.uint8)
        reference[10:50, 10:50] = (30, 60, blue)
        inputs = repainted(photo, mask, np.full_like(photo, (38, 66, blue + 12)))
        likenesses.append(score(replace(inputs, references=[reference])).likeness or 0)
        other = repainted(photo, mask, np.full_like(photo, (200, 40, 40)))
        assert (score(replace(other, references=[reference])).likeness or 0) < 0.05
    assert min(likenesses) > 0.5, likenesses


def test_the_purest_colours_are_like_themselves(photo: np.ndarray, mask: np.ndarray) -> None:
    """They lie beyond 100 in Lab, where a histogram may end."""
    for colour in ((0, 0, 255), (0, 255, 0), (255, 0, 255), (0, 0, 240)):
        reference = np.full((60, 60, 3), 255, np.uint8)
        reference[10:50, 10:50] = colour
        inputs = repainted(photo, mask, np.full_like(photo, colour))
        likeness = score(replace(inputs, references=[reference])).likeness or 0
        assert likeness > 0.8, colour


def test_a_clip_score_joins_where_there_is_one(good: ScoreInputs) -> None:
    def clip(picture: np.ndarray, prompt: str) -> float:
        assert picture is good.made
        return {"a cup": 0.3, "a horse": 0.1}[prompt]

    scores = [score(good, prompt=prompt, clip=clip) for prompt in ("a cup", "a horse")]
    assert [each.clip for each in scores] == [0.3, 0.1]
    assert scores[0].total > scores[1].total
    assert score(good).clip is None


def test_the_same_picture_has_the_same_scores(good: ScoreInputs) -> None:
    assert score(good) == score(replace(good, made=good.made.copy()))


# ---------------------------------------------------------------- what is held back


def held(scores: Scores, **settings: float) -> list[str]:
    return reasons_to_hold(scores, ReviewSettings(**settings))  # type: ignore[arg-type]


def test_a_black_picture_is_held_back_and_a_plain_one_is_not(
    photo: np.ndarray, mask: np.ndarray, good: ScoreInputs
) -> None:
    black = repainted(photo, mask, np.zeros_like(photo))
    (reason,) = held(score(black))
    assert "blank: 1, accepted: at most 0.9" in reason
    assert held(score(good)) == []
    whole = ScoreInputs(np.zeros_like(photo), photo)
    assert held(score(whole))
    assert held(score(black), max_blankness=1) == []


def test_a_large_blank_picture_is_as_blank_as_a_small_one() -> None:
    """Four million levels add up to more than float32 can tell apart."""
    original = np.random.default_rng(3).integers(0, 256, (2000, 2000, 3), np.uint8)
    scores = score(ScoreInputs(np.full_like(original, 101), original))
    assert scores.blankness == 1
    assert held(scores)


def test_of_a_large_picture_a_sample_shows_the_change(photo: np.ndarray) -> None:
    large = cv2.resize(photo, (1280, 960))
    inputs = ScoreInputs(shifted(large, (40, 0, -40)), large)
    sampled = score(inputs).change
    close = scores.close_up(inputs)
    every = scores._lab(close.made) - scores._lab(large)
    assert sampled == pytest.approx(np.linalg.norm(every, axis=2).mean(), rel=0.01)


def test_what_was_blank_may_be_blank(mask: np.ndarray) -> None:
    """A product taken off a white backdrop leaves white; a hole was of one colour before."""
    shop = np.full((240, 320, 3), 255, np.uint8)
    product = shop.copy()
    product[90:150, 110:190] = np.random.default_rng(2).integers(0, 256, (60, 80, 3))
    removed = ScoreInputs(shop, product, mask, feather_px=FEATHER_PX)
    assert held(score(removed)) == []
    recoloured = repainted(shop, mask, np.full_like(shop, (10, 20, 30)))
    assert held(score(recoloured)) == []


def test_a_floor_on_the_total_is_a_choice(good: ScoreInputs) -> None:
    scores = score(good, outside=1.0)
    assert held(scores) == []
    (reason,) = held(scores, below=1.0)
    assert reason == f"its total score is {scores.total:g}, accepted: at least 1"


# ---------------------------------------------------------------- odd shapes


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((0, 0, 320, 240), id="all"),
        pytest.param((0, 0, 1, 1), id="the first pixel"),
        pytest.param((319, 239, 320, 240), id="the last pixel"),
        pytest.param((0, 100, 320, 101), id="a line"),
    ],
)
@pytest.mark.parametrize("erased", [True, False])
def test_any_mask_has_finite_scores(
    photo: np.ndarray, box: tuple[int, int, int, int], erased: bool
) -> None:
    left, top, right, bottom = box
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[top:bottom, left:right] = THRESHOLD + 1
    inputs = replace(repainted(photo, mask, noise(photo)), erased=erased)
    values = score(inputs, outside=0.0).model_dump(exclude_none=True)
    assert all(np.isfinite(each) for each in values.values())
    assert 0 <= values["total"] <= 1


@pytest.mark.parametrize("seed", range(6))
def test_specks_that_a_smaller_copy_would_lose_are_judged_too(
    photo: np.ndarray, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask of two pixels in far corners of a large picture made the item fail."""
    monkeypatch.setattr(scores, "_MAX_PX", 500)
    rng = np.random.default_rng(seed)
    mask = np.zeros(photo.shape[:2], np.uint8)
    height, width = mask.shape
    mask[rng.integers(8), rng.integers(8)] = 255
    mask[height - 1 - rng.integers(8), width - 1 - rng.integers(8)] = 255
    found = score(ScoreInputs(made=255 - photo, original=photo, mask=mask))
    assert all(np.isfinite(each) for each in found.model_dump().values() if each is not None)


def test_an_empty_mask_leaves_nothing_to_judge(photo: np.ndarray) -> None:
    assert score(ScoreInputs(photo, photo, np.zeros(photo.shape[:2], np.uint8))) == Scores(
        total=1.0
    )


def test_a_new_picture_is_judged_beside_its_references(photo: np.ndarray) -> None:
    scores = score(ScoreInputs(photo, references=[photo[:, ::-1]]))
    assert scores.sharpness == pytest.approx(1, abs=0.1)
    assert scores.likeness > 0.5  # type: ignore[operator]
    assert (scores.seam, scores.colour_shift, scores.change) == (None, None, None)
    assert held(score(ScoreInputs(np.zeros_like(photo), references=[photo])))


def test_a_large_picture_is_scored_by_a_copy_that_fits(
    photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 megapixels must not cost gigabytes."""
    monkeypatch.setattr(scores, "_MAX_PX", 20_000)
    close = scores.close_up(ScoreInputs(photo, photo, references=[photo]))
    for each in (close.made, close.original, *close.references):
        assert each is not None
        height, width = each.shape[:2]
        assert 19_000 < height * width < 20_200
        assert width / height == pytest.approx(320 / 240, rel=0.01)


def test_one_hopeless_quality_makes_the_total_nothing() -> None:
    whole = {"sharpness": 1.0, "clipping": 0.0, "blankness": 0.0}
    assert total(whole) == 1  # type: ignore[arg-type]
    assert total(whole | {"blankness": 1.0}) == 0  # type: ignore[arg-type]


def test_no_detail_at_all_is_a_number_too() -> None:
    """A ratio that rounds to 0 once failed its item, instead of holding its picture back."""
    assert 0 < total({"sharpness": 0.0}) < 0.5
