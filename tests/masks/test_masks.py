"""Masks of every kind. If these break, the wrong part of a product picture is repainted, or all
of it."""

from __future__ import annotations

import io
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from ace_tasks.errors import BadMask, WeightsError
from ace_tasks.images import codec
from ace_tasks.images.codec import Picture
from ace_tasks.masks import masks
from ace_tasks.model.dnn import U2NET, shipped_sha256
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import (
    AutoMask,
    Box,
    Ellipse,
    MaskRules,
    MaskSteps,
    PixelSettings,
    Polygon,
    Resolved,
    Source,
    Sources,
    parse_spec,
    resolve,
)
from tests.looks.masks import photograph

WIDTH, HEIGHT = 80, 40
MODEL = find_variant("toy").identity()
FULL = Box(box=(0, 0, WIDTH, HEIGHT))


def _resolved(
    mask: Any, empty: bool = False, full: bool = False, auto: str = "", **row: Any
) -> Resolved:
    """Resolve a row with this mask, as a plan does."""
    given = {"id": "a", "task": "edit", "image": "i", "prompt": "p", "mask": mask} | row
    source = Source(uri="i", sha256="0" * 64)
    rules = MaskRules(allow_empty=empty, allow_full=full)
    how = AutoMask(method="model") if auto == "model" else AutoMask.named(auto)
    if auto == "u2net":
        how = AutoMask(method="u2net", model=shipped_sha256(U2NET))
    return resolve(
        parse_spec(given),
        Sources(image=source, mask=source if mask == "file" else None),
        MODEL,
        PixelSettings(masks=rules, auto_mask=how),
    )


def _picture(pixels: np.ndarray) -> Picture:
    """Decode a real file of these pixels, as a mask comes from a catalog."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return codec.decode(out.getvalue(), ImageLimits())


def _photo(alpha: np.ndarray | None = None) -> Picture:
    rgb = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return _picture(rgb if alpha is None else np.dstack([rgb, alpha]))


def _build(
    mask: Any, file: Picture | None = None, photo: Picture | None = None, **more: Any
) -> np.ndarray:
    built = masks.build(_resolved(mask, **more), photo or _photo(), file)
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
    assert np.array_equal(_build(FULL, full=True), _area(0, HEIGHT, 0, WIDTH))
    assert np.array_equal(_build(Box(box=(7, 7, 8, 8))), _area(7, 8, 7, 8))


def test_a_box_in_fractions_scales_with_its_picture() -> None:
    assert np.array_equal(_build(Box(box=(0.25, 0.5, 0.75, 1))), _area(20, 40, 20, 60))
    whole = Box(box=(0, 0, 1, 1))
    assert np.array_equal(_build(whole, full=True), _area(0, HEIGHT, 0, WIDTH))


@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param((10, 4, 50, 36), id="pixels"),
        pytest.param((0.125, 0.1, 0.625, 0.9), id="fractions"),
    ],
)
def test_an_ellipse_fills_its_box_but_not_the_corners(bounds: Any) -> None:
    built = _build(Ellipse(ellipse=bounds))
    rows, columns = np.nonzero(built)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (4, 36, 10, 50)
    assert built[4, 10] == built[35, 49] == 0
    assert built[20, 30] == 255
    share = (built > 0).sum() / (32 * 40)
    assert abs(share - np.pi / 4) < 0.03


@pytest.mark.parametrize(
    "corners",
    [
        pytest.param(((10, 5), (50, 5), (10, 35)), id="pixels"),
        pytest.param(((0.125, 0.125), (0.625, 0.125), (0.125, 0.875)), id="fractions"),
    ],
)
def test_a_polygon_is_filled(corners: Any) -> None:
    built = _build(Polygon(polygon=corners))
    assert built[6, 11] == built[33, 10] == built[6, 46] == 255
    assert built[30, 40] == built[0, 0] == built[20, 5] == 0
    assert abs((built > 0).sum() / (40 * 30 / 2) - 1) < 0.1


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Box(box=(10, 10, WIDTH + 1, 20)), id="box too wide"),
        pytest.param(Box(box=(10, 10, 20, HEIGHT + 1)), id="box too high"),
        pytest.param(Ellipse(ellipse=(70, 10, 90, 20)), id="ellipse"),
        pytest.param(Polygon(polygon=((0, 0), (WIDTH + 5, 0), (0, 10))), id="polygon"),
    ],
)
def test_a_shape_outside_its_picture_is_refused(shape: Any) -> None:
    with pytest.raises(BadMask, match=f"outside its picture of {WIDTH}×{HEIGHT}"):
        masks.build(_resolved(shape), _photo(), None)


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
        masks.build(_resolved("file"), _photo(), turned)


def test_a_transparent_mask_is_refused() -> None:
    """Upstream drops its alpha, so a cut-out on black would repaint what it shows, or nothing."""
    white = _area(5, 20, 10, 30)
    cut_out = np.dstack([white, white, white, white])
    with pytest.raises(BadMask, match="without transparency"):
        masks.build(_resolved("file"), _photo(), _picture(cut_out))


@pytest.mark.parametrize("level", [0, 1, 128])
def test_a_mask_that_selects_nothing_is_refused(level: int) -> None:
    """Upstream would repaint everything."""
    with pytest.raises(BadMask, match="selects no pixel"):
        masks.build(
            _resolved("file"), _photo(), _picture(np.full((HEIGHT, WIDTH), level, np.uint8))
        )


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
        masks.build(_resolved("alpha"), _photo(), None)
    with pytest.raises(BadMask, match="selects no pixel"):
        masks.build(_resolved("alpha"), _photo(np.full((HEIGHT, WIDTH), 255, np.uint8)), None)


def test_no_mask_is_none() -> None:
    assert masks.build(_resolved(None), _photo(), None) is None


# ---------------------------------------------------------------- empty and full


@pytest.mark.parametrize("mask", [FULL, Box(box=(0, 0, 1, 1))], ids=["pixels", "fractions"])
def test_a_mask_that_selects_everything_is_refused(mask: Any) -> None:
    with pytest.raises(BadMask, match="selects every pixel"):
        _build(mask)


def test_a_run_may_allow_either_and_only_that() -> None:
    black = _picture(np.zeros((HEIGHT, WIDTH), np.uint8))
    assert not _build("file", black, empty=True).any()
    with pytest.raises(BadMask, match="selects no pixel"):
        _build("file", black, full=True)
    assert _build(FULL, full=True).all()
    with pytest.raises(BadMask, match="selects every pixel"):
        _build(FULL, empty=True)


def test_the_steps_decide_whether_a_mask_is_empty_or_full() -> None:
    small, large = Box(box=(10, 10, 16, 16)), Box(box=(1, 1, WIDTH - 1, HEIGHT - 1))
    with pytest.raises(BadMask, match="selects no pixel"):
        _build(small, mask_grow=-3)
    with pytest.raises(BadMask, match="selects every pixel"):
        _build(large, mask_grow=2)
    with pytest.raises(BadMask, match="selects no pixel"):
        _build(FULL, full=True, mask_invert=True)


# ---------------------------------------------------------------- steps


def test_an_inverted_mask_selects_what_it_left_out() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    grey[0, :2] = 128, 129  # at the threshold, too, a pixel is on one side
    plain, inverted = (
        _build("file", _picture(grey)),
        _build("file", _picture(grey), mask_invert=True),
    )
    assert np.array_equal(plain > 128, inverted == 0)


@pytest.mark.parametrize("by", [1, 7, -1, -7])
def test_a_mask_grows_and_shrinks_by_distance(by: int) -> None:
    """Every distance is measured here: a square brush would grow the corners by 41 % more."""
    shape = _area(12, 30, 20, 50)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    wanted = shape > 0
    far = wanted if by > 0 else ~wanted  # what the distance is measured to
    ys, xs = np.nonzero(far)
    distance = np.sqrt((y[..., None] - ys) ** 2 + (x[..., None] - xs) ** 2).min(axis=2)
    wanted = distance <= by if by > 0 else distance > -by
    built = _build(Box(box=(20, 12, 50, 30)), mask_grow=by)
    assert np.array_equal(built > 0, wanted)
    assert set(np.unique(built)) == {0, 255}


def test_the_edge_of_a_picture_is_no_outline() -> None:
    """Otherwise a shrunk background mask would leave a rim that nobody repaints."""
    assert np.array_equal(
        _build(Box(box=(0, 0, 40, HEIGHT)), mask_grow=-5), _area(0, HEIGHT, 0, 35)
    )
    blurred = _build(Box(box=(0, 0, 40, HEIGHT)), mask_blur=9)
    assert np.array_equal(blurred, _area(0, HEIGHT, 0, 40))


def test_a_blur_rounds_corners_and_closes_holes_and_keeps_straight_edges() -> None:
    holey = _area(4, 36, 10, 70)
    holey[20, 40] = 0
    built = _build("file", _picture(holey), mask_blur=3)
    assert set(np.unique(built)) == {0, 255}
    assert built[20, 40] == 255
    assert built[4, 10] == built[35, 69] == 0
    assert np.array_equal(built[:, 40], _area(4, 36, 0, 80)[:, 40])


@pytest.mark.parametrize("sigma", [9, 24])
def test_a_wide_blur_is_a_gaussian_too(sigma: int) -> None:
    """It is taken in a smaller picture, since at full size it takes minutes."""
    rng = np.random.default_rng(3)
    selected = np.zeros((300, 420), bool)
    for _ in range(6):
        y, x = rng.integers(0, 220, 2)
        selected[y : y + 90, x : x + 130] ^= True
    at = np.arange(-4 * sigma, 4 * sigma + 1)
    kernel = np.exp(-(at**2) / (2 * sigma**2))
    exact = np.pad(selected.astype(float), 4 * sigma, mode="edge")
    for axis in (0, 1):
        exact = np.apply_along_axis(np.convolve, axis, exact, kernel / kernel.sum(), "valid")
    built = masks.take_steps(selected.astype(np.uint8) * 255, MaskSteps(blur_px=sigma)) > 0
    clear = np.abs(exact - 0.5) > 0.01  # elsewhere a rounding may decide
    assert np.array_equal(built[clear], (exact > 0.5)[clear])
    assert clear.mean() > 0.95


def test_steps_come_in_their_order() -> None:
    """A mask is inverted first, so that growing always grows what is repainted."""
    box = Box(box=(20, 10, 60, 30))
    built = _build(box, mask_invert=True, mask_grow=4)
    assert np.array_equal(built == 0, _area(14, 26, 24, 56) > 0)


def test_the_widest_blur_of_a_large_picture_is_taken_in_a_small_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A blur at full size took minutes for 24 MP."""
    blurred: list[tuple[int, float]] = []
    blur = cv2.GaussianBlur

    def watched(grey: np.ndarray, size: Any, sigma: float, **options: Any) -> np.ndarray:
        blurred.append((grey.size, sigma))
        return blur(grey, size, sigma, **options)

    monkeypatch.setattr(cv2, "GaussianBlur", watched)
    mask = np.zeros((2000, 3000), np.uint8)
    mask[500:1500, 1000:2000] = 255
    steps = MaskSteps(invert=True, grow_px=1024, blur_px=256)
    assert masks.take_steps(mask, steps).shape == mask.shape
    ((pixels, sigma),) = blurred
    assert sigma <= 8
    assert pixels <= mask.size * (8 / 256) ** 2 * 1.01


# ---------------------------------------------------------------- auto


def _product(label: bool = False, noise: float = 1.5) -> tuple[Picture, np.ndarray]:
    """A red mug on lit paper, through a JPEG; and where it is. The label is white, too."""
    y, x = np.mgrid[:240, :320]
    where = (np.abs(x - 150) < 60) & (np.abs(y - 130) < 70)
    rgb = np.empty((240, 320, 3), float)
    rgb[:] = np.array((240, 240, 236)) - (y / 24)[..., None]
    rgb[where] = (170, 40, 30)
    if label:
        rgb[(np.abs(x - 150) < 20) & (np.abs(y - 130) < 20)] = (240, 240, 236)
    rgb += np.random.default_rng(0).normal(0, noise, rgb.shape)
    out = io.BytesIO()
    Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return codec.decode(out.getvalue(), ImageLimits()), where


def _overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return intersection over union."""
    return float((found & wanted).sum() / (found | wanted).sum())


@pytest.mark.parametrize("method", ["border", "grabcut"])
def test_auto_selects_the_product_and_inverted_its_background(method: str) -> None:
    photo, where = _product()
    built = masks.build(_resolved("auto", auto=method), photo, None)
    assert built is not None
    assert _overlap(built > 0, where) > 0.94
    background = masks.build(_resolved("auto", auto=method, mask_invert=True), photo, None)
    assert np.array_equal(background == 0, built > 0)


def test_a_white_label_on_white_ground_is_the_products() -> None:
    """Selecting only what differs from the background would leave a hole where the brand stands."""
    photo, where = _product(label=True)
    built = masks.build(_resolved("auto", auto="border"), photo, None)
    assert built is not None
    assert _overlap(built > 0, where) > 0.94


@pytest.mark.parametrize("method", ["u2net", "grabcut"])
@pytest.mark.parametrize("name", ["flower", "coffee"])
def test_what_stands_out_in_a_photograph_is_found(name: str, method: str) -> None:
    """The dahlia, and the cup with its saucer, each but for a few percent."""
    photo = photograph(name)
    width, height = photo.size_px
    bounds = {"flower": (0.268, 0.2, 0.698, 0.84), "coffee": (0.128, 0.16, 0.806, 0.955)}[name]
    rough = _draw_ellipse((width, height), bounds)
    if name == "coffee":
        rough |= _draw_ellipse((width, height), (0.29, 0.045, 0.683, 0.5))
    built = masks.build(_resolved("auto", auto=method), photo, None)
    assert built is not None
    assert _overlap(built > 0, rough) > 0.93


def _draw_ellipse(size: tuple[int, int], bounds: Any) -> np.ndarray:
    y, x = np.mgrid[: size[1], : size[0]]
    left, top, right, bottom = np.multiply(bounds, (*size, *size))
    across, down = (
        (x - (left + right) / 2) / (right - left),
        (y - (top + bottom) / 2) / (bottom - top),
    )
    return np.asarray(across**2 + down**2 < 0.25)


def test_border_wants_plain_ground_and_says_so() -> None:
    for name in ("coffee", "chelsea", "rocket"):
        with pytest.raises(BadMask, match="a picture on a plain background"):
            masks.build(_resolved("auto", auto="border"), photograph(name), None)


def test_u2net_finds_who_wears_the_suit_where_colours_do_not() -> None:
    """Before a flag and a shuttle: GrabCut takes half of the background along (IoU 0.57)."""
    photo = photograph("astronaut")
    width, height = photo.size_px
    suit = _drawn(
        (width, height),
        (
            (0.28, 0.16),
            (0.35, 0.02),
            (0.5, 0.02),
            (0.56, 0.16),
            (0.58, 0.34),
            (0.78, 0.42),
            (0.9, 0.62),
            (0.92, 1),
            (0.02, 1),
            (0.05, 0.62),
            (0.14, 0.45),
            (0.33, 0.36),
        ),
    )
    built = masks.build(_resolved("auto", auto="u2net"), photo, None)
    assert built is not None
    assert _overlap(built > 0, suit) > 0.8


def _drawn(size: tuple[int, int], corners: Any) -> np.ndarray:
    canvas = Image.new("1", size)
    ImageDraw.Draw(canvas).polygon([(x * size[0], y * size[1]) for x, y in corners], fill=1)
    return np.asarray(canvas)


def test_another_network_than_a_plan_was_made_with_makes_no_mask() -> None:
    resolved = _resolved("auto", auto="u2net")
    assert resolved.auto_mask is not None
    other = resolved.auto_mask.model_copy(update={"model": "0" * 64})
    with pytest.raises(WeightsError, match="the plan was made with 0000"):
        masks.build(resolved.model_copy(update={"auto_mask": other}), _photo(), None)


def test_u2net_gives_the_same_mask_with_one_thread_and_with_two() -> None:
    """Larger than what the outline is worked on, so that each step is taken."""
    photo = photograph("coffee")
    large = cv2.resize(photo.rgb, (1500, 1000), interpolation=cv2.INTER_CUBIC)
    resolved = _resolved("auto", auto="u2net")
    before, built = cv2.getNumThreads(), []
    try:
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            built.append(masks.build(resolved, Picture(large, None, "jpeg", None), None))
    finally:
        cv2.setNumThreads(before)
    assert built[0] is not None
    assert built[0].any()
    assert np.array_equal(built[0], built[1])


@pytest.mark.parametrize("method", ["border", "grabcut", "u2net"])
def test_nothing_on_plain_ground_is_no_mask(method: str) -> None:
    plain = _picture(np.full((64, 96, 3), 230, np.uint8))
    with pytest.raises(BadMask, match=r"selects (no|every) pixel"):
        masks.build(_resolved("auto", auto=method), plain, None)


@pytest.mark.parametrize("method", ["border", "grabcut"])
def test_auto_gives_the_same_mask_every_time_on_every_thread(method: str) -> None:
    """An item that is edited again must be the same picture; GrabCut draws random numbers."""
    noisy = _product(noise=9)[0].rgb[::3, ::3]
    photo = Picture(noisy, None, "jpeg", None)
    resolved = _resolved("auto", auto=method)
    with ThreadPoolExecutor(2) as pool:
        built = [*pool.map(lambda _: masks.build(resolved, photo, None), range(4))]
    assert all(np.array_equal(each, built[0]) for each in built)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 900), (900, 16), (17, 23)])
def test_auto_of_the_smallest_pictures_is_a_mask_or_a_reason(height: int, width: int) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    flat = np.full((height, width, 3), 200, np.uint8)
    flat[height // 2, width // 2] = 0
    for rgb, method in itertools.product((noise, flat), ("border", "grabcut")):
        try:
            built = masks.build(_resolved("auto", auto=method), _picture(rgb), None)
        except BadMask:
            continue
        assert built is not None
        assert built.shape == (height, width)


@pytest.mark.parametrize("method", ["border", "grabcut"])
def test_auto_of_a_large_picture_is_bounded_and_as_good(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GrabCut takes up to a minute a step over a megapixel, so it decides a narrow band only."""
    unsure: list[int] = []
    cut = cv2.grabCut

    def watched(picture: np.ndarray, labels: np.ndarray, *more: Any) -> Any:
        decided = np.isin(labels, (cv2.GC_BGD, cv2.GC_FGD))
        unsure.append(
            picture[..., 0].size if more[-1] == cv2.GC_INIT_WITH_RECT else (~decided).sum()
        )
        return cut(picture, labels, *more)

    monkeypatch.setattr(cv2, "grabCut", watched)
    photo, where = _product()
    large = Image.fromarray(photo.rgb).resize((1280, 960), Image.Resampling.BICUBIC)
    built = masks.build(
        _resolved("auto", auto=method), Picture(np.asarray(large), None, "jpeg", None), None
    )
    assert built is not None
    assert _overlap(built > 0, where.repeat(4, axis=0).repeat(4, axis=1)) > 0.94
    assert len(unsure) == (2 if method == "grabcut" else 0)
    assert all(pixels <= 70_000 for pixels in unsure)


def test_a_model_is_shown_srgb_and_the_rows_label() -> None:
    asked: list[tuple[np.ndarray, str | None]] = []

    def segment(rgb: np.ndarray, label: str | None) -> np.ndarray:
        asked.append((rgb, label))
        found = np.zeros((HEIGHT, WIDTH), np.uint8)
        found[5:20, 10:30] = 255
        return found

    resolved = _resolved("auto", auto="model", mask_label="shirt", mask_grow=2)
    built = masks.build(resolved, _photo(), None, segment)
    assert built is not None
    assert built[3:22, 12:28].all()
    assert not built[24:].any()
    assert asked[0][1] == "shirt"
    assert np.array_equal(asked[0][0], _photo().rgb)
    with pytest.raises(BadMask, match="none is loaded"):
        masks.build(resolved, _photo(), None)
