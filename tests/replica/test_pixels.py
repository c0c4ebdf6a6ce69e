"""One item's pixels, before the model and after it, on every kind of picture a catalog holds.

If these break, catalogs lose colour profiles, orientation or transparency, or change where nobody
asked for it.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from ace_tasks.errors import BadImage, BadMask
from ace_tasks.images import codec, colour, controls
from ace_tasks.images.codec import Picture, Pictures
from ace_tasks.model.variants import find_variant
from ace_tasks.replica.edit import EditedPixels, PictureEdit
from ace_tasks.settings import ImageLimits
from ace_tasks.specs import MaskRules, PixelSettings, Resolved, Source, Sources, parse_spec, resolve

MODEL = find_variant("toy").identity().model_copy(update={"max_seq_len": 1024})
BOX = {"box": [40, 30, 80, 60]}


def _noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def _decoded(array: np.ndarray, kind: str = "PNG", **options: Any) -> Picture:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **options)
    return codec.decode(out.getvalue(), ImageLimits())


def _resolved(pixel_settings: PixelSettings = PixelSettings(), **row: Any) -> Resolved:  # noqa: B008
    spec = parse_spec({"id": "a", "prompt": "red", **row})
    source = Source(uri="a", sha256="0" * 64)
    given = Sources(
        image=source if "image" in row else None,
        reference=(source,) if "reference" in row else (),
    )
    return resolve(spec, given, MODEL, pixel_settings)


def _answered(prepared: PictureEdit, answer: int | None = None) -> np.ndarray:
    """A model that repaints its mask in one grey, and gives the rest back as it saw it."""
    unit = prepared.unit
    assert unit.change_CHW is not None
    shown = unit.edit_CHW + unit.change_CHW
    if answer is not None:
        grey = answer / 127.5 - 1
        shown = shown * (1 - unit.mask_1HW) + grey * unit.mask_1HW
    return ((shown + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _run(resolved: Resolved, pictures: Pictures, answer: int | None = None) -> EditedPixels:
    prepared = PictureEdit.prepare(resolved, pictures, route="fft")
    return prepared.finish(_answered(prepared, answer))


def _p3() -> bytes:
    """A wide-gamut RGB profile: sRGB's with red and green moved out."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = int.from_bytes(profile[128:132], "big")
    moved = {
        b"rXYZ": (0.5151, 0.2412, -0.0011),
        b"gXYZ": (0.2919, 0.6922, 0.0419),
        b"bXYZ": (0.1572, 0.0666, 0.7841),
    }
    for number in range(tags):
        at = 132 + 12 * number
        where = int.from_bytes(profile[at + 4 : at + 8], "big")
        for index, value in enumerate(moved.get(bytes(profile[at : at + 4]), ())):
            fixed = round(value * 65536).to_bytes(4, "big", signed=True)
            profile[where + 8 + 4 * index : where + 12 + 4 * index] = fixed
    return bytes(profile)


P3 = _p3()


# ---------------------------------------------------------------- size and place


def test_a_window_is_where_it_is_recorded_to_be() -> None:
    picture = _decoded(_noise(1500, 1000))
    resolved = _resolved(task="edit", image="a", mask={"box": [1000, 700, 1100, 800]})
    prepared = PictureEdit.prepare(resolved, Pictures(picture, None, ()), route="fft")
    assert prepared.window is not None
    assert prepared.window.size[0] < 600
    out = _run(resolved, Pictures(picture, None, ()))  # the model gives all of it back
    assert np.array_equal(out.rgb, picture.rgb)  # at full resolution: not one bit


def test_a_reference_makes_a_picture_of_the_size_asked_for() -> None:
    resolved = _resolved(task="reference", reference="r", width=100, height=70)
    picture = _decoded(_noise(64, 64))
    out = _run(resolved, Pictures(None, None, (picture,)), answer=10)
    assert out.rgb.shape == (70, 100, 3)
    assert (out.rgb == 10).all()
    assert out.alpha is None


def test_policy_reference_takes_the_models_answer_whole() -> None:
    settings = PixelSettings(geometry="reference")
    resolved = _resolved(settings, task="fill", image="a", mask=BOX)
    assert resolved.paste is None
    picture = _decoded(_noise(100, 90))
    out = _run(resolved, Pictures(picture, None, ()), answer=90)
    assert out.rgb.shape == (80, 96, 3)  # upstream's floor to whole tokens
    assert out.difference is None


# ---------------------------------------------------------------- controls


def test_a_control_is_shown_in_the_pictures_place_and_pasted_into_the_picture() -> None:
    """The original stays outside the mask, and the record compares with it."""
    picture = _decoded(_noise(96, 64))
    resolved = _resolved(task="edit", image="a", mask=BOX, control="gray")
    prepared = PictureEdit.prepare(resolved, Pictures(picture, None, ()), route="fft")
    shown, inside = _answered(prepared), np.s_[30:60, 40:80]
    assert np.array_equal(shown[inside], controls.gray(picture.rgb)[inside])
    outside = np.ones((64, 96), bool)
    outside[inside] = False
    assert np.array_equal(shown[outside], picture.rgb[outside])
    out = prepared.finish(np.full_like(shown, 90))
    assert out.difference is not None
    assert (out.rgb[inside] == 90).all()
    away = np.pad(np.zeros((32, 42), bool), ((29, 3), (39, 15)), constant_values=True)
    assert np.array_equal(out.rgb[away], picture.rgb[away])
    expected = np.abs(90 - picture.rgb[outside].astype(int)).mean()
    assert out.difference.model_outside_mean == pytest.approx(expected, abs=1e-3)


def test_a_control_without_a_mask_replaces_all_of_the_picture_in_srgb() -> None:
    rgb = np.full((64, 96, 3), (180, 60, 60), np.uint8)
    picture = _decoded(rgb, icc_profile=P3)
    resolved = _resolved(task="edit", image="a", control="gray")
    out = PictureEdit.prepare(resolved, Pictures(picture, None, ()), route="fft")
    assert np.array_equal(_answered(out), controls.gray(colour.to_srgb(rgb, P3)))


def test_a_control_is_drawn_of_the_window_that_the_model_sees() -> None:
    picture = _decoded(_noise(1500, 1000))
    settings = PixelSettings(control_models={"depth": "1" * 64})
    row = {"task": "edit", "image": "a", "mask": {"box": [1000, 700, 1100, 800]}}
    resolved = _resolved(settings, control="depth", **row)
    asked: list[np.ndarray] = []

    def estimate(control: str, shown: np.ndarray) -> np.ndarray:
        asked.append(shown)
        return np.full_like(shown, 7)

    given = Pictures(picture, None, ())
    prepared = PictureEdit.prepare(resolved, given, route="fft", estimate=estimate)
    (shown,) = asked
    assert prepared.window is not None
    assert np.array_equal(shown, prepared.window.cut(picture.rgb))
    assert prepared.unit.change_CHW is not None
    painted = prepared.unit.mask_1HW[0] > 0
    assert prepared.unit.change_CHW[:, painted].unique().tolist() == pytest.approx(
        [(7 / 255 - 0.5) / 0.5]
    )


# ---------------------------------------------------------------- colour


def test_the_wide_profile_is_a_real_one() -> None:
    red = np.full((1, 1, 3), (255, 0, 0), np.uint8)
    grey = np.full((1, 1, 3), 128, np.uint8)
    assert colour.usable(P3)
    assert colour.from_srgb(red, P3)[0, 0].tolist() != [255, 0, 0]  # sRGB's red lies inside
    assert np.abs(colour.to_srgb(grey, P3).astype(int) - 128).max() <= 1


def test_a_wide_picture_stays_wide_and_the_model_sees_srgb() -> None:
    rgb = np.full((64, 96, 3), (180, 60, 60), np.uint8)
    picture = _decoded(rgb, icc_profile=P3)
    resolved = _resolved(task="edit", image="a", mask=BOX)
    prepared = PictureEdit.prepare(resolved, Pictures(picture, None, ()), route="fft")
    shown = _answered(prepared)[0, 0]
    expected = colour.to_srgb(rgb, P3)[0, 0]
    assert shown.tolist() == expected.tolist() != [180, 60, 60]
    out = prepared.finish(_answered(prepared))
    assert out.icc_profile == P3
    assert np.array_equal(out.rgb[:10], rgb[:10])
    assert np.abs(out.rgb.astype(int) - rgb).max() <= 1  # there and back
    whole = _run(_resolved(task="edit", image="a"), Pictures(picture, None, ()))
    assert whole.icc_profile == P3
    assert np.abs(whole.rgb.astype(int) - rgb).max() <= 1


def test_references_are_shown_in_srgb_too() -> None:
    rgb = np.full((64, 64, 3), (180, 60, 60), np.uint8)
    resolved = _resolved(task="reference", reference="r", width=64, height=64)
    given = Pictures(None, None, (_decoded(rgb, icc_profile=P3),))
    shown = _answered(PictureEdit.prepare(resolved, given, route="fft"))
    assert shown[32, 32].tolist() == colour.to_srgb(rgb, P3)[0, 0].tolist()


# ---------------------------------------------------------------- alpha


def _cutout() -> np.ndarray:
    rgba = _noise(96, 64, 4)
    rgba[:, :, 3] = 255
    rgba[:, :20, 3] = 0
    rgba[:, 20:24, 3] = 100
    return rgba


def test_a_cutout_keeps_its_alpha_and_its_pixels_outside_the_mask() -> None:
    rgba = _cutout()
    out = _run(_resolved(task="fill", image="a", mask=BOX), Pictures(_decoded(rgba), None, ()), 90)
    assert out.alpha is not None
    assert np.array_equal(out.alpha, rgba[:, :, 3])
    assert np.array_equal(out.rgb[:, :30], rgba[:, :30, :3])  # what is transparent, too
    assert (out.rgb[40:50, 50:70] == 90).all()


def test_what_is_transparent_becomes_the_painted_background() -> None:
    rgba = _cutout()
    out = _run(
        _resolved(task="fill", image="a", mask="alpha"), Pictures(_decoded(rgba), None, ()), 90
    )
    assert out.alpha is not None
    assert (out.alpha[:, :24] == 255).all()
    assert (out.rgb[:, :20] == 90).all()
    assert np.array_equal(out.rgb[:, 40:], rgba[:, 40:, :3])


def _soft() -> np.ndarray:
    """A product whose edge takes 24 pixels, with a shadow and a speck that is nearly opaque."""
    rgba = _noise(96, 64, 4)
    rgba[:, :, 3] = np.clip(np.arange(96) * 255 // 24 - 255, 0, 255).astype(np.uint8)
    rgba[60:, 60:90, 3] = 200
    rgba[2, 90, 3] = 254
    return rgba


@pytest.mark.parametrize("geometry", ["catalog", "reference"])
@pytest.mark.parametrize(
    "steps",
    [{}, {"mask_grow": 3}, {"mask_grow": -3}, {"mask_blur": 2}],
    ids=["as drawn", "grown", "shrunk", "smoothed"],
)
def test_nothing_is_left_transparent_on_a_new_ground(geometry: Any, steps: dict[str, Any]) -> None:
    """Else a page shows through round the product: a dark line, or a pale one."""
    rgba = _soft()
    resolved = _resolved(
        PixelSettings(geometry=geometry), task="fill", image="a", mask="alpha", **steps
    )
    out = _run(resolved, Pictures(_decoded(rgba), None, ()), 90)
    assert out.alpha is None or (out.alpha == 255).all()


def test_a_soft_part_lets_the_new_ground_through_as_far_as_it_is_transparent() -> None:
    rgba = _soft()
    resolved = _resolved(task="fill", image="a", mask="alpha")
    out = _run(resolved, Pictures(_decoded(rgba), None, ()), 90)
    alpha = rgba[..., 3:].astype(float) / 255
    laid = alpha * rgba[..., :3] + (1 - alpha) * 90
    glass = np.s_[60:, 62:88]  # far from the mask and its feather
    assert np.abs(out.rgb[glass] - laid[glass]).max() <= 0.5 + 1e-6
    assert (out.rgb[:, :24] == 90).all()
    opaque = rgba[..., 3] == 255
    opaque[:, :60] = False
    assert np.array_equal(out.rgb[opaque], rgba[..., :3][opaque])


def test_an_inverted_alpha_paints_the_product_and_leaves_the_rest_transparent() -> None:
    rgba = _cutout()
    resolved = _resolved(task="fill", image="a", mask="alpha", mask_invert=True)
    out = _run(resolved, Pictures(_decoded(rgba), None, ()), 90)
    assert out.alpha is not None
    assert np.array_equal(out.alpha, rgba[:, :, 3])
    assert (out.rgb[:, 30:] == 90).all()
    assert np.array_equal(out.rgb[:, :16], rgba[:, :16, :3])


# ---------------------------------------------------------------- empty and full masks


@pytest.mark.parametrize("geometry", ["catalog", "reference"])
def test_an_allowed_empty_mask_leaves_the_picture_and_asks_no_model(geometry: Any) -> None:
    settings = PixelSettings(geometry=geometry, masks=MaskRules(allow_empty=True))
    rgba = _cutout()
    pictures = Pictures(_decoded(rgba), _decoded(np.zeros((64, 96), np.uint8)), ())
    resolved = _resolved(settings, task="fill", image="a", mask=BOX)
    resolved = resolved.model_copy(update={"mask": "file"})
    prepared = PictureEdit.prepare(resolved, pictures, route="fft")
    assert prepared.unit is None
    out = prepared.finish(None)
    assert np.array_equal(out.rgb, rgba[:, :, :3])  # what is transparent, too
    assert np.array_equal(out.alpha, rgba[:, :, 3])


def test_an_allowed_full_mask_repaints_it_all() -> None:
    settings = PixelSettings(masks=MaskRules(allow_full=True))
    resolved = _resolved(settings, task="fill", image="a", mask={"box": [0, 0, 1, 1]})
    out = _run(resolved, Pictures(_decoded(_noise(96, 64)), None, ()), answer=90)
    assert (out.rgb == 90).all()


def test_a_whole_picture_edit_keeps_the_alpha_and_the_look() -> None:
    rgba = _cutout()
    picture = _decoded(rgba)
    out = _run(_resolved(task="edit", image="a"), Pictures(picture, None, ()))
    assert out.alpha is not None
    assert np.array_equal(out.alpha, rgba[:, :, 3])
    seen = codec.on_white(out.rgb, out.alpha)
    assert np.abs(seen.astype(int) - picture.rgb).max() <= 2  # as it was seen on white


@pytest.mark.parametrize("format_", ["png", "webp", "avif"])
def test_alpha_survives_the_file(format_: codec.ImageFormat) -> None:
    rgba = _cutout()
    data = codec.encode(rgba[:, :, :3], format_, None, rgba[:, :, 3])
    back = codec.decode(data, ImageLimits())
    assert back.alpha is not None
    assert np.abs(back.alpha.astype(int) - rgba[:, :, 3]).max() <= (2 if format_ == "avif" else 0)
    if codec.is_lossless(format_, None):
        assert back.straight is not None
        assert np.array_equal(back.straight, rgba[:, :, :3])


# ---------------------------------------------------------------- what a hostile mask may do


def test_a_mask_of_another_size_is_refused_before_the_model() -> None:
    mask = _decoded(np.full((64, 95), 255, np.uint8))
    resolved = _resolved(task="fill", image="a", mask=BOX).model_copy(update={"mask": "file"})
    with pytest.raises(BadMask, match="accepted: a mask of its picture's size"):
        PictureEdit.prepare(resolved, Pictures(_decoded(_noise(96, 64)), mask, ()), route="fft")


# ---------------------------------------------------------------- presets and formats


def test_a_preset_is_the_last_step_and_records_where_the_picture_lies() -> None:
    slope = np.linspace(20, 220, 96).astype(np.uint8)
    picture = _decoded(np.broadcast_to(slope[None, :, None], (64, 96, 3)), icc_profile=P3)
    row = {"task": "fill", "image": "a", "mask": BOX}
    bare = _run(_resolved(**row), Pictures(picture, None, ()), answer=90)
    out = _run(_resolved(**row, preset="portrait-1200x1600"), Pictures(picture, None, ()), 90)
    assert out.rgb.shape == (1600, 1200, 3)
    assert out.placed is not None
    assert out.placed.bounds == (0, 400, 1200, 1200)
    assert (out.rgb[:400] == 255).all()
    assert (bare.icc_profile, out.icc_profile) == (P3, None)  # marketplaces ask for sRGB
    assert out.difference == bare.difference  # measured before it
    assert bare.placed is None
    small = np.asarray(
        Image.fromarray(out.placed.cut(out.rgb)).resize((96, 64), Image.Resampling.BOX)
    )
    assert np.abs(small.astype(int) - colour.to_srgb(bare.rgb, P3)).mean() < 1


def test_a_preset_makes_srgb_of_a_wide_picture_that_looks_the_same() -> None:
    wide = np.full((64, 96, 3), (30, 200, 60), np.uint8)
    pictures = Pictures(_decoded(wide, icc_profile=P3), None, ())
    out = _run(_resolved(task="fill", image="a", mask=BOX, preset="white-1000"), pictures, 90)
    corner = out.placed.cut(out.rgb)[2, 2]  # type: ignore[union-attr]  # outside the mask
    assert np.abs(corner.astype(int) - colour.to_srgb(wide[:1, :1], P3)[0, 0]).max() <= 1
    assert np.abs(corner.astype(int) - wide[0, 0]).max() > 5
    assert (out.rgb[0] == 255).all()


def test_a_preset_makes_alpha_vanish() -> None:
    pictures = Pictures(_decoded(_cutout()), None, ())
    out = _run(_resolved(task="edit", image="a", preset="white-1000"), pictures)
    assert out.alpha is None
    assert (out.rgb[500, :150] == 255).all()  # what was transparent, off the scaled edge


def test_a_preset_is_for_new_pictures_too() -> None:
    row = {"task": "reference", "reference": "r", "width": 100, "height": 70}
    given = Pictures(None, None, (_decoded(_noise(64, 64)),))
    out = _run(_resolved(**row, preset="white-1000"), given, answer=10)
    assert out.rgb.shape == (1000, 1000, 3)
    assert (out.rgb[150:850] == 10).all()
    assert (out.rgb[:150] == 255).all()


def test_a_runs_preset_and_quality_are_those_of_rows_that_name_none() -> None:
    run = PixelSettings(preset="white-1000", quality=70)
    plain = _resolved(run, task="edit", image="a")
    assert (plain.preset and plain.preset.name, plain.quality) == ("white-1000", 70)
    own = _resolved(run, task="edit", image="a", preset="white-2000", quality=90)
    assert (own.preset and own.preset.name, own.quality) == ("white-2000", 90)


def test_what_could_not_be_written_is_refused_before_the_model() -> None:
    wide = Pictures(_decoded(np.zeros((16, 16_384, 3), np.uint8)), None, ())
    with pytest.raises(BadImage, match="sides of at most 16383 px"):
        PictureEdit.prepare(_resolved(task="edit", image="a", format="webp"), wide, route="fft")
    row = {"task": "edit", "image": "a", "format": "webp", "preset": "white-1000"}
    assert PictureEdit.prepare(_resolved(**row), wide, route="fft")
