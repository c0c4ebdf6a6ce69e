"""The pixels of one item, before the model and after it: pictures → canvas → finished picture.

Pure: no store, no Ray, no model. `prepare` on the way in, `finish` on the way out.

    picture → window → sRGB → control map → canvas
        … canvas → window → picture's profile → paste → alpha → preset (in sRGB)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ace_tasks.images import codec, colour, controls, ground, matting, paste, preset
from ace_tasks.images.codec import Picture, Pictures
from ace_tasks.images.paste import Difference, Window
from ace_tasks.lcu.canvas import LCU, Geometry, Inputs
from ace_tasks.lcu.policies import build_canvas, restore_target
from ace_tasks.masks import masks
from ace_tasks.specs import Resolved

NO_SHADOW = "shadow left out: its ground is too dark, too small or too uneven to tell it"
_OPAQUE = 255
_NEARLY_OPAQUE = 243  # 95 %


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the model sees of an item, and how its answer goes back into the picture.

    Where the mask selects nothing, which a run may allow, there is nothing for a model to do.
    """

    unit: LCU | None
    geometry: Geometry | None
    window: Window | None  # None: there is no picture to go back into
    mask: np.ndarray | None  # (H, W) uint8 of the whole picture
    feather_px: int = 0  # in the picture's own pixels
    shade: np.ndarray | None = None  # (H, W) uint8: the shadow that a product keeps
    hints: Mapping[str, str] = field(default_factory=dict)  # why a mask that was made may be wrong


@dataclass(frozen=True, eq=False)
class FinishedPicture:
    """An item's picture, in the colour space of its source; in sRGB, where a preset framed it."""

    rgb: np.ndarray  # (H, W, 3) uint8
    alpha: np.ndarray | None  # (H, W) uint8
    icc_profile: bytes | None
    difference: Difference | None  # of a picture that was repainted in a part
    placed: Window | None = None  # where a preset's frame holds it; None: there is no frame
    left_out: tuple[str, ...] = ()  # what was wanted and could not be had


def prepare(
    resolved: Resolved,
    pictures: Pictures,
    *,
    use_change: bool,
    segment: masks.Segment | None = None,
    estimate: controls.Estimate | None = None,
) -> Prepared:
    """`segment` makes the masks "auto" of a run that names a model, `estimate` draws the controls
    that need one. Raises BadImage and BadMask, also for what could not be written in the end.
    """
    _check_output(resolved, pictures.image)
    references = tuple(colour.to_srgb(each.rgb, each.icc_profile) for each in pictures.references)
    image, mask, window, feather_px = pictures.image, None, None, 0
    shown = shown_mask = None
    hints: dict[str, str] = {}
    if image is not None:
        mask = masks.build(resolved, image, pictures.mask, segment, hints)
        window = paste.whole(*image.size_px)
        if resolved.background is not None:
            return _cut_out(resolved, image, mask)
        if mask is not None and not masks.coverage(mask):
            return Prepared(None, None, window, mask, hints=hints)
        shown_mask = mask
        if mask is not None and resolved.paste:
            shall_change = mask
            if _is_ground(resolved, image):
                shall_change = _with_transparent(mask, image.alpha, _OPAQUE)
                # Where much of the white shows through that is laid under it, it tells nothing.
                shown_mask = _with_transparent(mask, image.alpha, _NEARLY_OPAQUE)
            window, feather_px = _window(resolved, shall_change, references)
        shown = colour.to_srgb(window.cut(image.rgb), image.icc_profile)
        shown_mask = None if shown_mask is None else window.cut(shown_mask)
        # Shown only: what the model makes is pasted into the picture itself.
        shown = controls.draw(resolved.control, shown, shown_mask, estimate)
    unit, geometry = build_canvas(
        Inputs(
            image=shown,
            mask=shown_mask,
            references=references,
            width=resolved.width or 0,
            height=resolved.height or 0,
            max_seq_len=resolved.max_seq_len,
            repainting_scale=resolved.repainting_scale,
            keep_pixels_rate=resolved.keep_pixels_rate,
            use_change=use_change,
            policy=resolved.geometry,
        )
    )
    return Prepared(unit, geometry, window, mask, feather_px, hints=hints)


def finish(
    resolved: Resolved, pictures: Pictures, prepared: Prepared, canvas: np.ndarray | None
) -> FinishedPicture:
    """The model's canvas (H, W, 3) uint8 → the picture to publish. Raises BadImage."""
    return framed(resolved, repaint(resolved, pictures, prepared, canvas))


def framed(resolved: Resolved, finished: FinishedPicture) -> FinishedPicture:
    """A finished picture as its preset wants it, or as it is. Raises BadImage."""
    if resolved.preset is None:
        return finished
    # Marketplaces ask for sRGB, and show a picture in another space as if it were.
    srgb = colour.to_srgb(finished.rgb, finished.icc_profile)
    rgb, placed = preset.fit(srgb, finished.alpha, resolved.preset)
    return replace(finished, rgb=rgb, alpha=None, icc_profile=None, placed=placed)


def repaint(
    resolved: Resolved, pictures: Pictures, prepared: Prepared, canvas: np.ndarray | None
) -> FinishedPicture:
    """The model's canvas (H, W, 3) uint8 → the picture in its source's size, without a preset.

    Without a canvas, where the mask selects nothing, it is the source's. Raises BadImage.
    """
    image = pictures.image
    if resolved.background is not None:
        assert image is not None
        return _laid(resolved, image, prepared)
    if canvas is None or prepared.geometry is None:
        assert image is not None
        untouched = image.rgb if image.straight is None else image.straight
        return FinishedPicture(untouched, image.alpha, image.icc_profile, None)
    made = restore_target(canvas, prepared.geometry)
    if image is None:
        return FinishedPicture(made, None, None, None)
    made = colour.from_srgb(made, image.icc_profile)
    if made.shape != image.rgb.shape and prepared.window == paste.whole(*image.size_px):
        # Policy `reference` gives back another size, which the source's alpha would not fit.
        return FinishedPicture(made, None, image.icc_profile, None)
    window, mask = prepared.window, prepared.mask
    assert window is not None
    if resolved.paste is None or mask is None:
        alpha, rgb = image.alpha, made
        if alpha is not None and _is_ground(resolved, image):
            return FinishedPicture(made, _opaque(alpha), image.icc_profile, None)
        if alpha is not None and image.straight is not None:
            rgb = _unflattened(made, alpha)
        return FinishedPicture(rgb, alpha, image.icc_profile, None)
    return _pasted(resolved, image, window, mask, prepared.feather_px, made)


def _cut_out(resolved: Resolved, image: Picture, mask: np.ndarray | None) -> Prepared:
    """The product's opacity in place of its mask, and its shadow if it is wanted and seen."""
    assert mask is not None
    seen = colour.to_srgb(image.rgb, image.icc_profile)
    opacity = matting.soften(seen, mask > paste.THRESHOLD)
    if image.alpha is not None:  # what is transparent stays so
        opacity = np.minimum(opacity, image.alpha)
    shade = ground.shadow(seen, opacity) if resolved.shadow else None
    return Prepared(None, None, paste.whole(*image.size_px), opacity, shade=shade)


def _laid(resolved: Resolved, image: Picture, prepared: Prepared) -> FinishedPicture:
    """The product on its new ground."""
    opacity, shade = prepared.mask, prepared.shade
    assert opacity is not None
    rgb = image.rgb if image.straight is None else image.straight
    product = ground.own_colours(rgb, opacity)
    left_out = (NO_SHADOW,) if resolved.shadow and shade is None else ()
    if resolved.background == "transparent":
        straight, alpha = ground.on_nothing(product, opacity, shade)
        return FinishedPicture(straight, alpha, image.icc_profile, None, left_out=left_out)
    background = colour.from_srgb(
        np.full((1, 1, 3), resolved.background, np.uint8), image.icc_profile
    )
    flat = ground.laid(product, opacity, background[0, 0], shade)
    return FinishedPicture(flat, None, image.icc_profile, None, left_out=left_out)


def _check_output(resolved: Resolved, image: Picture | None) -> None:
    """Now, not when a GPU has worked for it. Other sizes are chosen, within every format's."""
    if image is not None and resolved.preset is None and resolved.format != "source":
        codec.check_side(*image.size_px, resolved.format)


def _window(
    resolved: Resolved, mask: np.ndarray, references: tuple[np.ndarray, ...]
) -> tuple[Window, int]:
    assert resolved.paste is not None
    beside = [(each.shape[1], each.shape[0]) for each in references]
    window = paste.window_of(resolved, mask, beside)
    return window, paste.feather_px(resolved.paste, window)


def _pasted(
    resolved: Resolved,
    image: Picture,
    window: Window,
    mask: np.ndarray,
    feather_px: int,
    made: np.ndarray,
) -> FinishedPicture:
    """The original, and in the window's mask and feather the model's answer."""
    if _is_ground(resolved, image):
        return _on_new_ground(image, window, mask, feather_px, made)
    touched = paste.touched(window.cut(mask), feather_px)

    def part(pixels: np.ndarray) -> np.ndarray:  # what may change, of a whole picture
        return touched.cut(window.cut(pixels))

    weights = paste.feathered(part(mask), feather_px)
    seen = image.rgb.copy()
    part(seen)[:] = paste.blend(part(image.rgb), touched.cut(made), weights)
    difference = _difference(image, seen, window, mask, made)
    if image.alpha is None:
        return FinishedPicture(seen, None, image.icc_profile, difference)
    # What is transparent stays so, unless it was the very thing to be painted.
    assert image.straight is not None
    alpha, rgb = image.alpha, image.straight.copy()
    changed = weights > 0
    part(rgb)[changed] = _unflattened(part(seen), part(alpha))[changed]
    return FinishedPicture(rgb, alpha, image.icc_profile, difference)


def _is_ground(resolved: Resolved, image: Picture) -> bool:
    """Whether what is transparent is what is painted, so that nothing of it is left."""
    inverted = resolved.mask_steps is not None and resolved.mask_steps.invert
    return resolved.mask == "alpha" and not inverted and image.alpha is not None


def _on_new_ground(
    image: Picture, window: Window, mask: np.ndarray, feather_px: int, made: np.ndarray
) -> FinishedPicture:
    """The picture laid on what the model made of its transparent part; it is opaque.

    A soft edge, a shadow and glass let the new ground through as far as they are transparent, in
    and outside the mask.
    """
    assert image.alpha is not None
    assert image.straight is not None
    changes = _with_transparent(mask, image.alpha, _OPAQUE)
    touched = paste.touched(window.cut(changes), feather_px)

    def part(pixels: np.ndarray) -> np.ndarray:
        return touched.cut(window.cut(pixels))

    seen = image.straight.copy()
    ground = touched.cut(made)
    part(seen)[:] = paste.over(part(image.straight), part(image.alpha), ground)
    weights = paste.feathered(part(mask), feather_px)
    part(seen)[:] = paste.blend(part(seen), ground, weights)
    difference = _difference(image, seen, window, changes, made)
    return FinishedPicture(seen, _opaque(image.alpha), image.icc_profile, difference)


def _opaque(alpha: np.ndarray) -> np.ndarray:
    return np.full(alpha.shape, _OPAQUE, np.uint8)


def _with_transparent(mask: np.ndarray, alpha: np.ndarray | None, opaque: int) -> np.ndarray:
    """What a mask selects, and all whose alpha is below `opaque`."""
    assert alpha is not None
    return np.where(alpha < opaque, 255, mask).astype(np.uint8)


def _difference(
    image: Picture, seen: np.ndarray, window: Window, mask: np.ndarray, made: np.ndarray
) -> Difference:
    """Between a picture and what became of it, outside its mask."""
    outside = mask.size - int((mask > paste.THRESHOLD).sum())
    return paste.difference(
        window.cut(image.rgb), window.cut(seen), made, window.cut(mask), outside
    )


def _unflattened(flat: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours as seen on white → those that, at this alpha, are seen so on white."""
    opacity = np.maximum(alpha, 1)[..., None].astype(np.float32) / 255
    straight = 255 - (255 - flat.astype(np.float32)) / opacity
    return np.where(alpha[..., None] > 0, np.clip(np.round(straight), 0, 255), flat).astype(
        np.uint8
    )
