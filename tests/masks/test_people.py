"""Test try-on masks that are made from a photograph of a person. If these break, a face is painted
over, the old garment shows beside the new one, or a picture without anybody is taken for a person."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from ace_tasks.errors import BadMask, SettingsError, WeightsError
from ace_tasks.images import codec
from ace_tasks.images.codec import Picture, Pictures
from ace_tasks.masks import garment, masks
from ace_tasks.masks.person import Person
from ace_tasks.model import people
from ace_tasks.model.sources import with_vision
from ace_tasks.model.variants import find_variant
from ace_tasks.replica import inspect
from ace_tasks.replica.edit import PictureEdit
from ace_tasks.settings import ImageLimits, VisionSettings
from ace_tasks.specs import (
    AutoMask,
    PixelSettings,
    Source,
    Sources,
    WorkItem,
    parse_spec,
    work_item,
)
from tests.looks.masks import photograph

SIDE = 512  # of the astronaut
FACE = np.s_[70:160, 175:260]
HAIR = np.s_[30:70, 180:270]
SUIT = np.s_[300:400, 130:250]
FLAG = np.s_[:180, :60]


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    """A woman to the waist, who holds a helmet; the one photograph of a person that is at hand."""
    return photograph("astronaut").rgb


def _item(method: str, **row: Any) -> WorkItem:
    """Plan a row with this automatic mask, as a run does."""
    given = {"id": "a", "task": "fill", "image": "i", "prompt": "p", "mask": "auto"} | row
    settings = with_vision(PixelSettings(auto_mask=AutoMask.named(method)), VisionSettings())
    sources = Sources(image=Source(uri="i", sha256="0" * 64))
    return work_item(1, parse_spec(given), sources, find_variant("toy").identity(), settings)


def _draw(rgb: np.ndarray, part: garment.Part = "top") -> garment.Drawn:
    return garment.draw(np.ascontiguousarray(rgb), part, people.fingerprint())


def _share(mask: np.ndarray, where: Any) -> float:
    return float((mask[where] > 0).mean())


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return intersection over union."""
    return float(((one > 0) & (other > 0)).sum() / ((one > 0) | (other > 0)).sum())


# ---------------------------------------------------------------- a real photograph


def test_a_top_covers_suit_and_sleeves_and_leaves_face_and_hair(astronaut: np.ndarray) -> None:
    drawn = _draw(astronaut)
    mask = drawn.mask
    assert (mask.shape, mask.dtype, set(np.unique(mask))) == ((SIDE, SIDE), np.uint8, {0, 255})
    assert (_share(mask, FACE), _share(mask, HAIR), _share(mask, FLAG)) == (0, 0, 0)
    assert _share(mask, SUIT) == 1
    assert 0.35 < masks.coverage(mask) < 0.5
    assert drawn.hints == {}


@pytest.mark.parametrize("part", ["bottom", "dress"])
def test_a_picture_to_the_waist_has_no_place_for_a_garment_below(
    part: garment.Part, astronaut: np.ndarray
) -> None:
    with pytest.raises(BadMask, match=rf"person-{part}: outside the picture: .*hip.*; accepted"):
        _draw(astronaut, part)


def test_the_same_picture_has_the_same_mask_on_any_number_of_threads(
    astronaut: np.ndarray, threads_as_they_were: None
) -> None:
    """An item that is edited again must be the same picture."""
    small = np.ascontiguousarray(cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA))
    cv2.setNumThreads(1)
    expected = _draw(small).mask
    cv2.setNumThreads(2)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: _draw(small).mask, range(2)):
            assert np.array_equal(found, expected)


@pytest.fixture
def threads_as_they_were() -> Iterator[None]:
    count = cv2.getNumThreads()
    yield
    cv2.setNumThreads(count)


def test_a_larger_picture_has_the_same_mask_larger(astronaut: np.ndarray) -> None:
    large = cv2.resize(astronaut, (1536, 1536), interpolation=cv2.INTER_CUBIC)
    mask = _draw(large).mask
    assert mask.shape == (1536, 1536)
    smaller = cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA) > 127
    assert _overlap(smaller, _draw(astronaut).mask) > 0.93


def test_a_picture_that_exif_turns_is_masked_upright(astronaut: np.ndarray) -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: turn it clockwise to look at it
    Image.fromarray(np.rot90(astronaut)).save(out, "PNG", exif=exif)
    picture = codec.decode(out.getvalue(), ImageLimits())
    built = masks.build(_item("person-top").resolved, picture, None)
    assert built is not None
    assert np.array_equal(built, _draw(astronaut).mask)


def test_of_two_people_one_is_masked_and_both_are_reported(astronaut: np.ndarray) -> None:
    drawn = _draw(np.concatenate([astronaut, astronaut[:, ::-1]], axis=1))
    halves = sorted((_share(drawn.mask, np.s_[:, :SIDE]), _share(drawn.mask, np.s_[:, SIDE:])))
    assert halves[0] == 0
    assert halves[1] > 0.3
    assert "at least 2 people" in drawn.hints["several_people"]


def test_a_person_who_is_cut_off_at_the_elbows_is_reported(astronaut: np.ndarray) -> None:
    drawn = _draw(astronaut[:260])
    assert "the picture's edge cuts the person off" in drawn.hints["cut_off_person"]
    assert "elbow" in drawn.hints["cut_off_person"]
    assert _share(drawn.mask, FACE) == 0


# ---------------------------------------------------------------- nobody


def _stick_figure() -> np.ndarray:
    image = Image.new("RGB", (384, 512), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((142, 40, 242, 140), outline="black", width=6)
    for x, y, to_x, to_y in (
        (192, 140, 192, 320),
        (192, 180, 90, 260),
        (192, 180, 290, 260),
        (192, 320, 120, 480),
        (192, 320, 260, 480),
    ):
        draw.line((x, y, to_x, to_y), fill="black", width=6)
    return np.asarray(image)


NOBODY = [
    *(
        pytest.param(lambda name=name: photograph(name).rgb, id=name)
        for name in ("brick", "chelsea", "china", "coffee", "flower", "gravel", "rocket")
    ),
    pytest.param(_stick_figure, id="stick-figure"),
    pytest.param(lambda: np.full((300, 200, 3), 200, np.uint8), id="plain"),
    pytest.param(lambda: np.zeros((16, 16, 3), np.uint8), id="smallest"),
    pytest.param(lambda: np.full((16, 900, 3), 90, np.uint8), id="wide-strip"),
    pytest.param(lambda: np.full((900, 16, 3), 90, np.uint8), id="high-strip"),
    pytest.param(
        lambda: np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8),
        id="noise",
    ),
]


@pytest.mark.parametrize("picture", NOBODY)
def test_nobody_is_no_person(picture: Any) -> None:
    """The cat and the dahlia look like a person to one of the networks."""
    with pytest.raises(BadMask, match="no person was found; accepted: a photograph of one person"):
        _draw(picture())


def test_a_person_without_a_head_or_on_its_side_is_refused(astronaut: np.ndarray) -> None:
    for wrong in (astronaut[190:], np.rot90(astronaut)):
        with pytest.raises(BadMask, match="accepted"):
            _draw(wrong)


# ---------------------------------------------------------------- a body that is known

# x, y of a figure in a picture of 300 × 600, arms hanging: it looks at us, so its left is our
# right.
FIGURE = {
    0: (150, 70),
    2: (160, 60),
    5: (140, 60),
    7: (172, 66),
    8: (128, 66),
    9: (158, 84),
    10: (142, 84),
    11: (200, 140),
    12: (100, 140),
    13: (215, 215),
    14: (85, 215),
    15: (220, 285),
    16: (80, 285),
    17: (224, 305),
    18: (76, 305),
    19: (220, 308),
    20: (80, 308),
    21: (212, 300),
    22: (88, 300),
    23: (175, 290),
    24: (125, 290),
    25: (175, 410),
    26: (125, 410),
    27: (175, 530),
    28: (125, 530),
    29: (175, 545),
    30: (125, 545),
    31: (180, 565),
    32: (120, 565),
}


@pytest.fixture(scope="module")
def figure() -> Person:
    points = np.zeros((33, 2), np.float32)
    for landmark, place in FIGURE.items():
        points[landmark] = place
    outline = Image.new("L", (300, 600), 0)
    draw = ImageDraw.Draw(outline)
    draw.ellipse((110, 20, 190, 115), fill=255)
    draw.polygon([(90, 130), (210, 130), (190, 300), (110, 300)], fill=255)
    for joints in ((11, 13, 15, 19), (12, 14, 16, 20), (23, 25, 27, 31), (24, 26, 28, 32)):
        draw.line([FIGURE[each] for each in joints], fill=255, width=34)
    mask = np.asarray(outline, np.float32) / 255
    return Person(mask, points, np.ones(33, np.float32), score=1.0, face=None, people=1)


def _at(mask: np.ndarray, *landmarks: int) -> list[bool]:
    return [bool(mask[FIGURE[each][1], FIGURE[each][0]]) for each in landmarks]


GREY = np.full((600, 300, 3), 128, np.uint8)


@pytest.mark.parametrize(
    ("part", "covered", "free"),
    [
        ("top", (11, 12, 13, 14, 23, 24), (0, 7, 9, 19, 20, 25, 26, 27, 31)),
        ("bottom", (23, 24, 25, 26), (0, 11, 12, 13, 14, 19, 20, 29, 31, 32)),
        ("dress", (11, 13, 14, 23, 25, 26), (0, 7, 9, 19, 20, 31, 32)),
    ],
    ids=garment.PARTS,
)
def test_each_garment_covers_its_part_of_the_body(
    part: garment.Part, covered: tuple[int, ...], free: tuple[int, ...], figure: Person
) -> None:
    mask = garment.of_person(figure, GREY, part)
    assert all(_at(mask, *covered))
    assert not any(_at(mask, *free))


def test_a_mask_is_wider_than_the_garment_that_is_worn(figure: Person) -> None:
    """Else the new garment could only be as wide as the old one."""
    mask = garment.of_person(figure, GREY, "top") > 0
    beside = mask & (figure.mask == 0)
    assert beside.sum() > 0.2 * mask.sum()


def test_a_skirt_has_room_between_the_legs(figure: Person) -> None:
    assert garment.of_person(figure, GREY, "dress")[480, 150]
    assert garment.of_person(figure, GREY, "bottom")[400, 150]


def test_long_hair_is_left_where_its_colour_shows_it(figure: Person) -> None:
    rgb = np.full((600, 300, 3), (240, 240, 235), np.uint8)
    rgb[130:310, 60:240] = (40, 60, 160)
    hair = np.zeros((600, 300), bool)
    hair[15:190, 112:130] = hair[15:190, 170:188] = hair[15:50, 112:188] = True
    rgb[hair] = (70, 40, 20)
    long_hair = Person(
        np.maximum(figure.mask, hair), figure.points, figure.visibility, 1.0, None, 1
    )
    assert _share(garment.of_person(long_hair, rgb, "top"), hair) < 0.08
    rgb[130:310, 60:240][~hair[130:310, 60:240]] = (70, 40, 20)  # a garment of the same colour
    assert _share(garment.of_person(long_hair, rgb, "top"), hair) > 0.2


SHOULDERS, HIPS, KNEES = (11, 12), (23, 24), (25, 26)
OUTSIDE = (150, 900)
UNSEEN: dict[str, tuple[garment.Part, dict[int, tuple[int, int]], tuple[int, ...], str]] = {
    "shoulder-outside": ("top", {11: OUTSIDE}, (), "outside the picture: left shoulder"),
    "shoulders-hidden": ("dress", {}, SHOULDERS, "the shoulders are hidden"),
    "hip-outside": ("bottom", {24: OUTSIDE}, (), "outside the picture: right hip"),
    "knees-outside": ("bottom", {25: OUTSIDE, 26: OUTSIDE}, (), "left knee, right knee"),
    "hips-hidden": ("bottom", {}, HIPS, "the hips are hidden"),
}


def _with(figure: Person, places: dict[int, tuple[int, int]], hidden: tuple[int, ...]) -> Person:
    points, visibility = figure.points.copy(), figure.visibility.copy()
    for landmark, place in places.items():
        points[landmark] = place
    visibility[list(hidden)] = 0
    return dataclasses.replace(figure, points=points, visibility=visibility)


@pytest.mark.parametrize("name", UNSEEN)
def test_what_a_garment_hangs_on_must_be_seen(figure: Person, name: str) -> None:
    part, places, hidden, words = UNSEEN[name]
    garment._check(figure, part)
    with pytest.raises(BadMask, match=f"person-{part}: .*{words}.*; accepted: "):
        garment._check(_with(figure, places, hidden), part)


def test_one_shoulder_one_hip_and_one_knee_are_enough(figure: Person) -> None:
    half = _with(figure, {26: OUTSIDE}, (12, 24))
    garment._check(half, "dress")
    hints = garment._hints(half, "dress")
    assert "guesses for hidden joints" in hints["hidden_pose"]
    assert "right shoulder" in hints["hidden_pose"]
    assert "right knee" in hints["cut_off_person"]
    assert garment._hints(figure, "dress") == {}
    turned = {landmark: (y // 2, 300 - x) for landmark, (x, y) in FIGURE.items()}
    found = garment._hints(_with(figure, turned, ()), "dress")
    assert found == {"turned_person": "the person does not stand upright: is the picture turned?"}


# ---------------------------------------------------------------- in a run


def test_the_networks_are_a_part_of_an_items_identity() -> None:
    item = _item("person-top")
    auto = item.resolved.auto_mask
    assert auto is not None
    assert (auto.garment, auto.model) == ("top", people.fingerprint())
    ids = {_item(f"person-{part}").item_id for part in garment.PARTS} | {_item("border").item_id}
    assert len(ids) == 4
    with pytest.raises(SettingsError, match="person-top, person-bottom, person-dress"):
        AutoMask.named("person-hat")


def test_other_networks_than_planned_are_refused(astronaut: np.ndarray) -> None:
    with pytest.raises(WeightsError, match="the plan was made with networks 0000"):
        garment.draw(astronaut, "top", "0" * 64)


def test_hints_reach_a_look_at_the_catalog_and_the_run(astronaut: np.ndarray) -> None:
    to_the_elbows = np.ascontiguousarray(astronaut[:260])
    picture, item = Picture(to_the_elbows, None, "png", None), _item("person-top")
    found = inspect.judge(item, picture, None)
    assert found.problem is None
    assert any("cuts the person off" in each for each in found.hints)
    prepared = PictureEdit.prepare(item.resolved, Pictures(picture, None, ()), route="lora")
    assert "cut_off_person" in prepared.hints
    nobody = inspect.judge(item, photograph("gravel"), None)
    assert str(nobody.problem).startswith("bad_mask: no person was found")


def test_the_steps_of_a_mask_apply(astronaut: np.ndarray) -> None:
    """A person's background, by one more column."""
    picture = Picture(astronaut, None, "png", None)
    upright = masks.build(_item("person-top").resolved, picture, None)
    inverted = masks.build(_item("person-top", mask_invert=True).resolved, picture, None)
    assert upright is not None
    assert inverted is not None
    assert np.array_equal(inverted == 0, upright > 0)
