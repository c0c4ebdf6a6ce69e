"""What looks like a mistake about a mask file. If these break, a label map repaints the wrong thing
without a word; or good masks are called bad ones, and nobody reads the hints any more."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from ace_tasks.errors import BadMask
from ace_tasks.images import codec, levels
from ace_tasks.images.codec import Picture
from ace_tasks.masks import hints as mask_hints
from ace_tasks.masks import masks
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import MaskRules, PixelSettings, Resolved, Source, Sources, parse_spec, resolve

LIMITS = ImageLimits()
BOTH_ALLOWED = PixelSettings(masks=MaskRules(allow_empty=True, allow_full=True))
PHOTOS = Path(__file__).resolve().parents[2] / "infra/sample/photos"


def opened(image: Image.Image, kind: str = "PNG", orientation: int = 1, **options: Any) -> Picture:
    out = io.BytesIO()
    if orientation != 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    image.save(out, kind, **options)
    return codec.decode(out.getvalue(), LIMITS)


def photo(size: tuple[int, int], orientation: int = 1, kind: str = "JPEG") -> Picture:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return opened(Image.fromarray(noise), kind, orientation)


def resolved(mask: Any = "m.png", allowed: bool = False, **row: Any) -> Resolved:
    source = Source(uri="i", sha256="0" * 64)
    spec = parse_spec({"id": "a", "task": "fill", "image": "i", "prompt": "p", "mask": mask} | row)
    sources = Sources(image=source, mask=source if mask == "m.png" else None)
    pixels = BOTH_ALLOWED if allowed else PixelSettings()
    return resolve(spec, sources, find_variant("toy").identity(), pixels)


def hints(file: Picture, image: Picture | None = None, **row: Any) -> mask_hints.Hints:
    """As a replica finds them, or a look at the catalog."""
    image = image or photo(file.size_px)
    asked = resolved(**row)
    return mask_hints.find(asked, image, file, masks.build(asked, image, file))


def drawn(size: tuple[int, int] = (160, 120), shape: str = "ellipse") -> Image.Image:
    """A mask in black and white, with hard edges."""
    canvas = Image.new("L", size)
    width, height = size
    getattr(ImageDraw.Draw(canvas), shape)(
        (width // 5, height // 5, width // 2, height * 3 // 4), 255
    )
    return canvas


def classes(*colours: Any, mode: str = "RGB", size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A map of classes: a background, and boxes of the other colours, the last one the smallest."""
    canvas = Image.new(mode, size, colours[0])
    draw, step = ImageDraw.Draw(canvas), size[0] // (2 * len(colours))
    for number, each in enumerate(colours[1:]):
        draw.rectangle((number * 2 * step + 2, 10, number * 2 * step + 2 + step, 90), each)
    return canvas


GREYS = [0, 85, 170, 255]
VOC = [(0, 0, 0), (192, 128, 128), (224, 224, 192)]  # background, person, void


def palette(indices: Image.Image, colours: list[tuple[int, int, int]]) -> Image.Image:
    made = Image.fromarray(np.asarray(indices), "P")
    made.putpalette([level for each in colours for level in each])
    return made


# ---------------------------------------------------------------- good masks

_LARGE = drawn((640, 480))
GOOD: dict[str, Callable[[], Picture]] = {
    "black and white": lambda: opened(drawn()),
    "bilevel": lambda: opened(drawn().convert("1")),
    "RGB": lambda: opened(drawn().convert("RGB")),
    "a box": lambda: opened(drawn(shape="rectangle")),
    "smooth edges": lambda: opened(_LARGE.resize((160, 120), Image.Resampling.LANCZOS)),
    "of a small picture": lambda: opened(_LARGE.resize((64, 48), Image.Resampling.LANCZOS)),
    "a box off the grid": lambda: opened(
        drawn((480, 360), "rectangle").resize((171, 127), Image.Resampling.BOX)
    ),
    "enlarged": lambda: opened(drawn((80, 60)).resize((640, 480), Image.Resampling.BICUBIC)),
    "JPEG": lambda: opened(drawn(), "JPEG"),
    "JPEG of low quality": lambda: opened(_LARGE, "JPEG", quality=20),
    "JPEG saved as PNG": lambda: opened(Image.fromarray(opened(_LARGE, "JPEG", quality=60).rgb)),
    "WebP": lambda: opened(_LARGE.convert("RGB"), "WEBP", quality=70),
    "WebP of low quality": lambda: opened(_LARGE.convert("RGB"), "WEBP", quality=10),
    "enlarged in steps": lambda: opened(
        _LARGE.resize((160, 120), Image.Resampling.BOX).resize((640, 480), Image.Resampling.NEAREST)
    ),
    "AVIF": lambda: opened(_LARGE.convert("RGB"), "AVIF", quality=70),
    "a narrow feather": lambda: opened(_LARGE.filter(ImageFilter.GaussianBlur(2))),
    "almost black and white": lambda: opened(drawn().point(lambda level: 250 if level else 3)),
    "two whites": lambda: opened(classes(0, 254, 255, mode="L")),
    "with specks": lambda: opened(
        Image.fromarray(
            np.maximum(
                np.asarray(drawn()), (np.indices((120, 160)).sum(0) % 37 == 0) * np.uint8(255)
            )
        )
    ),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_a_good_mask_has_no_hint(make: Callable[[], Picture]) -> None:
    assert hints(make()) == {}


# ---------------------------------------------------------------- levels and colours

MAPS: dict[str, tuple[Callable[[], Picture], str]] = {
    "a palette": (
        lambda: opened(palette(classes(0, 1, 2, mode="L"), VOC)),
        "its mask's 3 colours are #000000, #c08080 and #e0e0c0: a label map?",
    ),
    "colours": (
        lambda: opened(classes((255, 0, 0), (0, 0, 255), (255, 255, 255))),
        "its mask's 3 colours are #0000ff, #ff0000 and #ffffff: a label map?",
    ),
    "four levels": (
        lambda: opened(classes(*GREYS, mode="L")),
        "its mask's 4 levels are 0, 85, 170 and 255: a label map, or a soft mask?",
    ),
    "a trimap": (
        lambda: opened(classes(0, 128, 255, mode="L")),
        "its mask's 3 levels are 0, 128 and 255",
    ),
    "twenty classes": (
        lambda: opened(classes(*range(0, 200, 10), mode="L", size=(480, 120))),
        "its mask's 20 levels are 0, 10, 20, 30, 40, 50 … 190: a label map",
    ),
    "indices and a void": (
        lambda: opened(classes(0, 15, 255, mode="L")),
        "its mask's 3 levels are 0, 15 and 255",
    ),
    "near indices and a void": (
        lambda: opened(classes(0, 1, 2, 255, mode="L")),
        "its mask's 4 levels are 0, 1, 2 and 255",
    ),
    "smooth edges": (
        lambda: opened(
            classes(*VOC, (0, 128, 0), size=(640, 480)).resize((240, 180), Image.Resampling.LANCZOS)
        ),
        "its mask's 4 colours are #000000, #008000, #c08080 and #e0e0c0",
    ),
    "JPEG": (
        lambda: opened(classes(*GREYS, mode="L", size=(640, 480)), "JPEG", quality=80),
        "its mask's 4 levels are 0, 85, 170 and 255",
    ),
    "WebP": (lambda: opened(classes(*VOC, size=(640, 480)), "WEBP", quality=80), "3 colours are "),
    "large": (
        lambda: opened(classes(*GREYS, mode="L", size=(2400, 1600))),
        "its mask's 4 levels are 0, 85, 170 and 255",
    ),
}


@pytest.mark.parametrize(("make", "description"), MAPS.values(), ids=MAPS)
def test_a_label_map_is_reported_with_its_colours(
    make: Callable[[], Picture], description: str
) -> None:
    found = hints(make(), allowed=True)
    assert [*found] == ["label_map"]
    assert description in found["label_map"]
    assert "pixels lighter than 128 are repainted" in found["label_map"]


TWO: dict[str, tuple[Any, ...]] = {
    "0 and 200": ((0, 200), "L", "levels are 0 and 200"),
    "60 and 255": ((60, 255), "L", "levels are 60 and 255"),
    "red on black": (((0, 0, 0), (255, 0, 0)), "RGB", "colours are #000000 and #ff0000"),
    "white on red": (((255, 0, 0), (255, 255, 255)), "RGB", "colours are #ff0000 and #ffffff"),
    "0 and 1": ((0, 1), "L", "levels are 0 and 1"),
    "one grey": ((100, 100), "L", "only level is 100"),
}


@pytest.mark.parametrize(("colours", "mode", "description"), TWO.values(), ids=TWO)
def test_other_levels_than_black_and_white_are_reported(
    colours: tuple[Any, ...], mode: str, description: str
) -> None:
    found = hints(opened(classes(*colours, mode=mode)), allowed=True)
    assert [*found] == ["odd_levels"]
    assert f"its mask's {description}, not black and white" in found["odd_levels"]


def test_levels_from_one_to_many_are_named() -> None:
    named = {count: levels.name_colours([(n, n, n) for n in range(count)]) for count in (1, 2, 7)}
    assert named == {
        1: "only level is 0",
        2: "levels are 0 and 1",
        7: "7 levels are 0, 1, 2, 3, 4, 5 … 6",
    }


REFUSED: dict[str, tuple[Any, ...]] = {
    "0 and 1": (
        classes(0, 1, mode="L"),
        {},
        "no pixel .*: some above 128.; its levels are 0 and 1$",
    ),
    "0 and 1, inverted": (
        classes(0, 1, mode="L"),
        {"mask_invert": True},
        "every pixel .*; its levels are 0 and 1$",
    ),
    "indices": (
        classes(*range(20), mode="L", size=(480, 120)),
        {},
        "no pixel .*; its 20 levels are 0, 1, 2, 3, 4, 5 … 19$",
    ),
    "red": (
        classes((0, 0, 0), (255, 0, 0)),
        {},
        "no pixel .*; its colours are #000000 and #ff0000$",
    ),
    "all black": (Image.new("L", (64, 48)), {}, "no pixel .*; its only level is 0$"),
    "16 bits": (
        Image.fromarray(np.asarray(classes(0, 255, mode="L")).astype(np.uint16)),
        {},
        "no pixel .*; its only level is 0, after 16 bits were cut to 8$",
    ),
    "shrunk to nothing": (
        drawn(),
        {"mask_grow": -64},
        r"no pixel .*; it selected 1\d\.\d% before mask_grow -64",
    ),
}


@pytest.mark.parametrize(("image", "row", "message"), REFUSED.values(), ids=REFUSED)
def test_a_mask_that_selects_nothing_is_refused_with_what_it_holds(
    image: Image.Image, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadMask, match=message):
        hints(opened(image), **row)


# ---------------------------------------------------------------- pictures, soft masks, inverted


def gradient(size: tuple[int, int]) -> Image.Image:
    return Image.linear_gradient("L").resize(size)


def framed_photo() -> Image.Image:
    """A photograph on white, between black bars."""
    canvas = Image.open(PHOTOS / "coffee.jpg").convert("RGB")
    width, height = canvas.size
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, width // 3, height), "white")
    draw.rectangle((0, 0, width, height // 8), "black")
    draw.rectangle((0, height * 9 // 10, width, height), "gray")
    return canvas


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(lambda: opened(Image.open(PHOTOS / "coffee.jpg")), "grey_mask", id="photo"),
        pytest.param(lambda: opened(framed_photo()), "grey_mask", id="framed photo"),
        pytest.param(lambda: opened(gradient((160, 120))), "grey_mask", id="gradient"),
        pytest.param(lambda: opened(gradient((1200, 900))), "grey_mask", id="wide gradient"),
        pytest.param(lambda: opened(gradient((640, 480)), "JPEG"), "grey_mask", id="JPEG gradient"),
        pytest.param(
            lambda: opened(_LARGE.filter(ImageFilter.GaussianBlur(14))), "soft_mask", id="soft"
        ),
    ],
)
def test_a_picture_and_a_soft_mask_are_distinguished(
    make: Callable[[], Picture], code: str
) -> None:
    found = hints(make())
    assert code in found
    assert not found.keys() & {"label_map", "odd_levels"}


def test_an_inverted_mask_is_reported_unless_the_row_inverts_it() -> None:
    inverted = opened(Image.eval(drawn(), lambda level: 255 - level))
    assert [*hints(inverted)] == ["inverted_mask"]
    assert hints(inverted, mask_invert=True) == {}


@pytest.mark.parametrize("mask", [{"box": [0, 0, 1, 0.9]}, "alpha"], ids=["box", "alpha"])
def test_what_is_no_file_has_no_hint(mask: Any) -> None:
    rgba = np.full((48, 64, 4), 128, np.uint8)
    rgba[:40, :, 3] = 0
    image = opened(Image.fromarray(rgba), orientation=3)
    asked = resolved(mask)
    built = masks.build(asked, image, None)
    assert built is not None
    assert mask_hints.find(asked, image, None, built) == {}


# ---------------------------------------------------------------- EXIF orientation


def turned_mask(size: tuple[int, int], orientation: int = 1) -> Picture:
    return opened(drawn(size), "PNG", orientation)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_that_is_not_turned_as_its_picture_is_reported(orientation: int, kind: str) -> None:
    square = photo((64, 64), orientation, kind)
    found = hints(turned_mask((64, 64)), square)
    assert [*found] == ([] if orientation == 1 else ["unturned_mask"])
    if found:
        assert f"EXIF turns its picture (orientation {orientation})" in found["unturned_mask"]
    assert hints(turned_mask((64, 64), orientation), square) == {}
    upright = photo((64, 64))
    found = hints(turned_mask((64, 64), orientation), upright)
    assert [*found] == ([] if orientation == 1 else ["unturned_mask"])


@pytest.mark.parametrize("orientation", range(2, 9))
def test_sizes_that_fit_one_way_only_settle_it(orientation: int) -> None:
    picture = photo((96, 64), orientation)
    size = (64, 96) if orientation >= 5 else (96, 64)
    assert picture.size_px == size
    assert [*hints(turned_mask(size), picture)] == ([] if orientation >= 5 else ["unturned_mask"])
    if orientation >= 5:
        message = rf"64×96; given 96×64: EXIF turns its picture \(orientation {orientation}\)"
        with pytest.raises(BadMask, match=message):
            hints(turned_mask((96, 64)), picture)


def test_both_turned_but_otherwise_is_reported() -> None:
    found = hints(turned_mask((96, 64), 8), photo((96, 64), 6))
    assert (
        "EXIF turns its picture (orientation 6) differently from its mask (8)"
        in (found["unturned_mask"])
    )
    with pytest.raises(BadMask, match=r"EXIF turns the mask \(orientation 6\) but not its picture"):
        hints(turned_mask((96, 64), 6), photo((96, 64)))


def test_a_shape_on_the_stored_pixels_is_refused_with_the_turn() -> None:
    with pytest.raises(BadMask, match=r"64×96, turned upright by EXIF \(orientation 6\)"):
        masks.build(resolved({"box": [0, 0, 90, 60]}), photo((96, 64), 6), None)
