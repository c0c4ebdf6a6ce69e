"""The pixels of one item, before the model and after it: pictures → canvas → finished picture.

This module is pure: no store, no Ray, no loaded model. Replicas, `reproduce`, trainings,
evaluations and `Editor` all edit with it:

    edit = PictureEdit.prepare(resolved, pictures, route=…)     jobs = edit.jobs()
    … the model makes a canvas of each job …                    pixels = edit.finish(canvas)

    picture → window → sRGB → control map → canvas
        … canvas → window → picture's profile → paste → alpha → preset (in sRGB)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ace_tasks.images import codec, colour, controls, ground, matting, paste, preset
from ace_tasks.images.codec import Picture, Pictures
from ace_tasks.images.paste import Difference, Window
from ace_tasks.lcu.canvas import LCU, Geometry, Inputs
from ace_tasks.lcu.policies import build_canvas, restore_target
from ace_tasks.masks import hints as mask_hints
from ace_tasks.masks import masks
from ace_tasks.model.ace import ModelJob
from ace_tasks.specs import Resolved, candidate_seeds

NO_SHADOW = "shadow left out: the background is too dark, too small or too uneven to make it out"
_OPAQUE = 255
_NEARLY_OPAQUE = 243  # 95 %

Route = Literal["lora", "fft"]  # 384 channels, or 448: masked content has channels of its own


@dataclass(frozen=True, eq=False)
class EditedPixels:
    """An item's picture, in the colour space of its source, or in sRGB if a preset framed it."""

    rgb: np.ndarray  # (H, W, 3) uint8
    alpha: np.ndarray | None = None  # (H, W) uint8
    icc_profile: bytes | None = None
    difference: Difference | None = None  # None, unless only a part was repainted
    placed: Window | None = None  # its place in the preset's frame; None: there is no frame
    left_out: tuple[str, ...] = ()  # sentences about what was asked for and could not be made


@dataclass(frozen=True, eq=False)
class PictureEdit:
    """One edit: the model's input, and how its output goes back into the picture.

    `prepare` makes one. Without a `unit` there is nothing for a model to do: the mask selects
    nothing, which a run may allow, or the row asks only for another background.
    """

    resolved: Resolved
    pictures: Pictures
    unit: LCU | None = None
    geometry: Geometry | None = None
    window: Window | None = None  # None: there is no picture to go back into
    mask: np.ndarray | None = None  # (H, W) uint8 of the whole picture
    feather_px: int = 0  # in the picture's own pixels
    shade: np.ndarray | None = None  # (H, W) uint8: the shadow that a product keeps
    hints: Mapping[str, str] = field(default_factory=dict)  # about its mask: code → sentence

    @classmethod
    def prepare(
        cls,
        resolved: Resolved,
        pictures: Pictures,
        *,
        route: Route,
        segment: masks.Segment | None = None,
        estimate: controls.Estimate | None = None,
    ) -> PictureEdit:
        """Prepare an item for the model.

        `segment` makes the masks "auto" of a run that names a model, and `estimate` draws the
        controls that need one. Raises BadImage and BadMask, also for a picture that could not be
        written in the end.
        """
        image = pictures.image
        if image is None:
            return cls(resolved, pictures)._with_canvas(route, estimate)
        _check_output(resolved, image)
        hints: dict[str, str] = {}
        mask = masks.build(resolved, image, pictures.mask, segment, hints)
        hints |= mask_hints.find(resolved, image, pictures.mask, mask)
        whole = paste.whole(*image.size_px)
        edit = cls(resolved, pictures, window=whole, mask=mask, hints=hints)
        if resolved.background is not None:
            return edit._with_cut_out()
        if mask is not None and not masks.coverage(mask):
            return edit
        return edit._with_window()._with_canvas(route, estimate)

    # ------------------------------------------------------------ before the model

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its candidates, or the row's own if there is nothing for a model to do."""
        if self.unit is None:
            return (self.resolved.seed,)
        return candidate_seeds(self.resolved.seed, self.resolved.candidates)

    @property
    def token_steps(self) -> int:
        """Tokens × steps of all its candidates, or 0 if there is nothing for a model to do."""
        if self.geometry is None:
            return 0
        return self.geometry.tokens * self.resolved.steps * self.resolved.candidates

    def jobs(self, seeds: Sequence[int] | None = None) -> list[ModelJob]:
        """Return the jobs for the model, one a seed; none if there is nothing for it to do.

        `seeds` replaces the seeds of the candidates.
        """
        if self.unit is None:
            return []
        resolved = self.resolved
        return [
            ModelJob(
                self.unit,
                resolved.prompt,
                seed,
                resolved.steps,
                resolved.guidance,
                resolved.adapter,
                resolved.shortcuts,
            )
            for seed in (self.seeds if seeds is None else seeds)
        ]

    def _with_cut_out(self) -> PictureEdit:
        """Replace the mask by the product's opacity, and add the shadow if wanted and seen."""
        image, mask = self._image, self._mask
        seen = colour.to_srgb(image.rgb, image.icc_profile)
        opacity = matting.soften(seen, mask > paste.THRESHOLD)
        if image.alpha is not None:  # transparent parts stay so
            opacity = np.minimum(opacity, image.alpha)
        shade = ground.shadow(seen, opacity) if self.resolved.shadow else None
        return replace(self, mask=opacity, shade=shade)

    def _with_window(self) -> PictureEdit:
        """Add the part of the picture that the model sees, and the width of the blending."""
        settings = self.resolved.paste
        if self.mask is None or settings is None:
            return self
        beside = [each.size_px for each in self.pictures.references]
        window = paste.window_of(self.resolved, self._changes, beside)
        return replace(self, window=window, feather_px=paste.feather_px(settings, window))

    def _with_canvas(self, route: Route, estimate: controls.Estimate | None) -> PictureEdit:
        resolved = self.resolved
        image, mask = self._shown(estimate)
        beside = self.pictures.references
        inputs = Inputs(
            image=image,
            mask=mask,
            references=tuple(colour.to_srgb(each.rgb, each.icc_profile) for each in beside),
            width=resolved.width or 0,
            height=resolved.height or 0,
            max_seq_len=resolved.max_seq_len,
            repainting_scale=resolved.repainting_scale,
            keep_pixels_rate=resolved.keep_pixels_rate,
            use_change=route == "fft",
            policy=resolved.geometry,
        )
        unit, geometry = build_canvas(inputs)
        return replace(self, unit=unit, geometry=geometry)

    def _shown(
        self, estimate: controls.Estimate | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return the picture's window, in sRGB, and the mask's, as the model is shown them."""
        if self.window is None:
            return None, None
        image, mask = self._image, self._shown_mask
        if mask is not None:
            mask = self.window.cut(mask)
        rgb = colour.to_srgb(self.window.cut(image.rgb), image.icc_profile)
        # The control is only shown: the model's output is pasted into the picture itself.
        return controls.draw(self.resolved.control, rgb, mask, estimate), mask

    # ------------------------------------------------------------ after the model

    def finish(self, canvas: np.ndarray | None) -> EditedPixels:
        """Turn the model's canvas, (H, W, 3) uint8, into the picture to publish. Raises BadImage.

        `canvas` is None if there was nothing for a model to do.
        """
        return self.framed(self.repaint(canvas))

    def framed(self, made: EditedPixels) -> EditedPixels:
        """Fit a repainted picture into the frame of its preset, if it has one. Raises BadImage."""
        if self.resolved.preset is None:
            return made
        # Marketplaces ask for sRGB, and show a picture in another space as if it were sRGB.
        srgb = colour.to_srgb(made.rgb, made.icc_profile)
        rgb, placed = preset.fit(srgb, made.alpha, self.resolved.preset)
        return replace(made, rgb=rgb, alpha=None, icc_profile=None, placed=placed)

    def repaint(self, canvas: np.ndarray | None) -> EditedPixels:
        """Turn the model's canvas, (H, W, 3) uint8, into a picture of the source's size.

        No preset is applied. Without a canvas, because the mask selects nothing, the picture is the
        source's. Raises BadImage.
        """
        if self.resolved.background is not None:
            return self._laid()
        if canvas is None or self.geometry is None:
            return self._untouched()
        made = restore_target(canvas, self.geometry)
        image = self.pictures.image
        if image is None:
            return EditedPixels(made)
        made = colour.from_srgb(made, image.icc_profile)
        if made.shape != image.rgb.shape and self.window == paste.whole(*image.size_px):
            # Policy `reference` gives back another size, which the source's alpha would not fit.
            return EditedPixels(made, None, image.icc_profile)
        if self.resolved.paste is None or self.mask is None:
            return self._taken_whole(made)
        return self._on_new_ground(made) if self._is_ground else self._pasted(made)

    def _untouched(self) -> EditedPixels:
        image = self._image
        rgb = image.rgb if image.straight is None else image.straight
        return EditedPixels(rgb, image.alpha, image.icc_profile)

    def _taken_whole(self, made: np.ndarray) -> EditedPixels:
        """Return the model's output with the picture's own transparency."""
        image = self._image
        alpha, rgb = image.alpha, made
        if alpha is not None and self._is_ground:
            alpha = _opaque(alpha)
        elif alpha is not None and image.straight is not None:
            rgb = _unflattened(made, alpha)
        return EditedPixels(rgb, alpha, image.icc_profile)

    def _laid(self) -> EditedPixels:
        """Return the product on its new background."""
        image, opacity, background = self._image, self._mask, self.resolved.background
        rgb = image.rgb if image.straight is None else image.straight
        product = ground.own_colours(rgb, opacity)
        left_out = (NO_SHADOW,) if self.resolved.shadow and self.shade is None else ()
        if background == "transparent":
            straight, alpha = ground.on_nothing(product, opacity, self.shade)
            return EditedPixels(straight, alpha, image.icc_profile, left_out=left_out)
        colour_11C = colour.from_srgb(np.full((1, 1, 3), background, np.uint8), image.icc_profile)
        flat = ground.laid(product, opacity, colour_11C[0, 0], self.shade)
        return EditedPixels(flat, None, image.icc_profile, left_out=left_out)

    def _pasted(self, made: np.ndarray) -> EditedPixels:
        """Return the original with the model's output in the window's mask and feather."""
        image, window = self._image, self._window
        touched = paste.touched(window.cut(self._mask), self.feather_px)

        def part(pixels: np.ndarray) -> np.ndarray:  # cuts the part that may change
            return touched.cut(window.cut(pixels))

        weights = paste.feathered(part(self._mask), self.feather_px)
        seen = image.rgb.copy()
        part(seen)[:] = paste.blend(part(image.rgb), touched.cut(made), weights)
        difference = self._difference(seen, made)
        if image.alpha is None:
            return EditedPixels(seen, None, image.icc_profile, difference)
        # Transparent parts stay so, unless they were what had to be painted.
        assert image.straight is not None
        alpha, rgb = image.alpha, image.straight.copy()
        changed = weights > 0
        part(rgb)[changed] = _unflattened(part(seen), part(alpha))[changed]
        return EditedPixels(rgb, alpha, image.icc_profile, difference)

    def _on_new_ground(self, made: np.ndarray) -> EditedPixels:
        """Return the picture laid on the background that the model painted, opaque.

        The picture's transparent part was painted. A soft edge, a shadow and glass let the new
        background through as far as they are transparent, inside and outside the mask.
        """
        image, window = self._image, self._window
        assert image.alpha is not None
        assert image.straight is not None
        touched = paste.touched(window.cut(self._changes), self.feather_px)

        def part(pixels: np.ndarray) -> np.ndarray:
            return touched.cut(window.cut(pixels))

        seen = image.straight.copy()
        painted = touched.cut(made)
        part(seen)[:] = paste.over(part(image.straight), part(image.alpha), painted)
        weights = paste.feathered(part(self._mask), self.feather_px)
        part(seen)[:] = paste.blend(part(seen), painted, weights)
        difference = self._difference(seen, made)
        return EditedPixels(seen, _opaque(image.alpha), image.icc_profile, difference)

    def _difference(self, seen: np.ndarray, made: np.ndarray) -> Difference:
        """Return the difference of the picture and its result, outside what was to change."""
        window, mask = self._window, self._changes
        outside = mask.size - int((mask > paste.THRESHOLD).sum())
        rgb, kept = window.cut(self._image.rgb), window.cut(seen)
        return paste.difference(rgb, kept, made, window.cut(mask), outside)

    @property
    def _image(self) -> Picture:
        assert self.pictures.image is not None
        return self.pictures.image

    @property
    def _window(self) -> Window:
        assert self.window is not None
        return self.window

    @property
    def _mask(self) -> np.ndarray:
        assert self.mask is not None
        return self.mask

    @property
    def _is_ground(self) -> bool:
        """Return whether the transparent part is painted, so that none of it is left."""
        steps = self.resolved.mask_steps
        inverted = steps is not None and steps.invert
        return self.resolved.mask == "alpha" and not inverted and self._image.alpha is not None

    @property
    def _changes(self) -> np.ndarray:
        """The part of the whole picture that may change, without the feather: (H, W) uint8."""
        return self._with_transparent(_OPAQUE) if self._is_ground else self._mask

    @property
    def _shown_mask(self) -> np.ndarray | None:
        """The part of the whole picture that the model is to paint: (H, W) uint8."""
        if self.mask is None or self.resolved.paste is None or not self._is_ground:
            return self.mask
        # Where much of the white laid under the picture shows through, the picture says nothing.
        return self._with_transparent(_NEARLY_OPAQUE)

    def _with_transparent(self, opaque: int) -> np.ndarray:
        """Return the mask with every pixel added whose alpha is below `opaque`: (H, W) uint8."""
        alpha = self._image.alpha
        assert alpha is not None
        return np.where(alpha < opaque, 255, self._mask).astype(np.uint8)


def _check_output(resolved: Resolved, image: Picture) -> None:
    """Check that the format can hold the picture, before a GPU works for it.

    Sizes that we choose ourselves fit every format.
    """
    if resolved.preset is None and resolved.format != "source":
        codec.check_side(*image.size_px, resolved.format)


def _opaque(alpha: np.ndarray) -> np.ndarray:
    return np.full(alpha.shape, _OPAQUE, np.uint8)


def _unflattened(flat: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return the colours that, at this alpha, look on white like `flat`."""
    opacity = np.maximum(alpha, 1)[..., None].astype(np.float32) / 255
    straight = 255 - (255 - flat.astype(np.float32)) / opacity
    return np.where(alpha[..., None] > 0, np.clip(np.round(straight), 0, 255), flat).astype(
        np.uint8
    )
