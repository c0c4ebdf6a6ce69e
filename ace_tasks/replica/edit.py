"""The pixels of one item, before the model and after it: pictures → canvas → finished picture.

Pure: no store, no Ray, no loaded model. Replicas, `reproduce`, trainings, evaluations and
`Editor` all edit by it:

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

NO_SHADOW = "shadow left out: its ground is too dark, too small or too uneven to tell it"
_OPAQUE = 255
_NEARLY_OPAQUE = 243  # 95 %

Route = Literal["lora", "fft"]  # 384 channels, or 448: masked content has channels of its own


@dataclass(frozen=True, eq=False)
class EditedPixels:
    """An item's picture, in the colour space of its source; in sRGB, where a preset framed it."""

    rgb: np.ndarray  # (H, W, 3) uint8
    alpha: np.ndarray | None = None  # (H, W) uint8
    icc_profile: bytes | None = None
    difference: Difference | None = None  # of a picture that was repainted in a part
    placed: Window | None = None  # where a preset's frame holds it; None: there is no frame
    left_out: tuple[str, ...] = ()  # what was wanted and could not be had


@dataclass(frozen=True, eq=False)
class PictureEdit:
    """One edit: what the model sees of it, and how its answer goes back into the picture.

    `prepare` makes one. Without a `unit` there is nothing for a model to do: the mask selects
    nothing, which a run may allow, or the row only asks for another ground.
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
        """Lay an item out for the model.

        `segment` makes the masks "auto" of a run that names a model, `estimate` draws the controls
        that need one. Raises BadImage and BadMask, also for what could not be written in the end.
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
        """The seeds of its candidates; the row's own where there is nothing for a model to do."""
        if self.unit is None:
            return (self.resolved.seed,)
        return candidate_seeds(self.resolved.seed, self.resolved.candidates)

    @property
    def token_steps(self) -> int:
        """Tokens × steps of all its candidates; 0 where there is nothing for a model to do."""
        if self.geometry is None:
            return 0
        return self.geometry.tokens * self.resolved.steps * self.resolved.candidates

    def jobs(self, seeds: Sequence[int] | None = None) -> list[ModelJob]:
        """What a model is asked: one job a seed, none where there is nothing for it to do.

        `seeds`: in place of its candidates' own.
        """
        if self.unit is None:
            return []
        asked = self.resolved
        return [
            ModelJob(self.unit, asked.prompt, seed, asked.steps, asked.guidance, asked.adapter)
            for seed in (self.seeds if seeds is None else seeds)
        ]

    def _with_cut_out(self) -> PictureEdit:
        """The product's opacity in place of its mask, and its shadow if it is wanted and seen."""
        image, mask = self._image, self._mask
        seen = colour.to_srgb(image.rgb, image.icc_profile)
        opacity = matting.soften(seen, mask > paste.THRESHOLD)
        if image.alpha is not None:  # what is transparent stays so
            opacity = np.minimum(opacity, image.alpha)
        shade = ground.shadow(seen, opacity) if self.resolved.shadow else None
        return replace(self, mask=opacity, shade=shade)

    def _with_window(self) -> PictureEdit:
        """The part of the picture that the model sees, and how wide its answer is blended in."""
        settings = self.resolved.paste
        if self.mask is None or settings is None:
            return self
        beside = [each.size_px for each in self.pictures.references]
        window = paste.window_of(self.resolved, self._changes, beside)
        return replace(self, window=window, feather_px=paste.feather_px(settings, window))

    def _with_canvas(self, route: Route, estimate: controls.Estimate | None) -> PictureEdit:
        asked = self.resolved
        image, mask = self._shown(estimate)
        beside = self.pictures.references
        inputs = Inputs(
            image=image,
            mask=mask,
            references=tuple(colour.to_srgb(each.rgb, each.icc_profile) for each in beside),
            width=asked.width or 0,
            height=asked.height or 0,
            max_seq_len=asked.max_seq_len,
            repainting_scale=asked.repainting_scale,
            keep_pixels_rate=asked.keep_pixels_rate,
            use_change=route == "fft",
            policy=asked.geometry,
        )
        unit, geometry = build_canvas(inputs)
        return replace(self, unit=unit, geometry=geometry)

    def _shown(
        self, estimate: controls.Estimate | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What the model is shown of the picture, in sRGB, and of its mask: of the window."""
        if self.window is None:
            return None, None
        image, mask = self._image, self._shown_mask
        if mask is not None:
            mask = self.window.cut(mask)
        rgb = colour.to_srgb(self.window.cut(image.rgb), image.icc_profile)
        # Shown only: what the model makes is pasted into the picture itself.
        return controls.draw(self.resolved.control, rgb, mask, estimate), mask

    # ------------------------------------------------------------ after the model

    def finish(self, canvas: np.ndarray | None) -> EditedPixels:
        """The model's canvas (H, W, 3) uint8 → the picture to publish. Raises BadImage.

        None where there was nothing for a model to do.
        """
        return self.framed(self.repaint(canvas))

    def framed(self, made: EditedPixels) -> EditedPixels:
        """A repainted picture as its preset wants it, or as it is. Raises BadImage."""
        if self.resolved.preset is None:
            return made
        # Marketplaces ask for sRGB, and show a picture in another space as if it were.
        srgb = colour.to_srgb(made.rgb, made.icc_profile)
        rgb, placed = preset.fit(srgb, made.alpha, self.resolved.preset)
        return replace(made, rgb=rgb, alpha=None, icc_profile=None, placed=placed)

    def repaint(self, canvas: np.ndarray | None) -> EditedPixels:
        """The model's canvas (H, W, 3) uint8 → the picture in its source's size, without a preset.

        Without a canvas, where the mask selects nothing, it is the source's. Raises BadImage.
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
        """The model's answer, with the picture's own transparency."""
        image = self._image
        alpha, rgb = image.alpha, made
        if alpha is not None and self._is_ground:
            alpha = _opaque(alpha)
        elif alpha is not None and image.straight is not None:
            rgb = _unflattened(made, alpha)
        return EditedPixels(rgb, alpha, image.icc_profile)

    def _laid(self) -> EditedPixels:
        """The product on its new ground."""
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
        """The original, and in the window's mask and feather the model's answer."""
        image, window = self._image, self._window
        touched = paste.touched(window.cut(self._mask), self.feather_px)

        def part(pixels: np.ndarray) -> np.ndarray:  # what may change, of a whole picture
            return touched.cut(window.cut(pixels))

        weights = paste.feathered(part(self._mask), self.feather_px)
        seen = image.rgb.copy()
        part(seen)[:] = paste.blend(part(image.rgb), touched.cut(made), weights)
        difference = self._difference(seen, made)
        if image.alpha is None:
            return EditedPixels(seen, None, image.icc_profile, difference)
        # What is transparent stays so, unless it was the very thing to be painted.
        assert image.straight is not None
        alpha, rgb = image.alpha, image.straight.copy()
        changed = weights > 0
        part(rgb)[changed] = _unflattened(part(seen), part(alpha))[changed]
        return EditedPixels(rgb, alpha, image.icc_profile, difference)

    def _on_new_ground(self, made: np.ndarray) -> EditedPixels:
        """The picture laid on what the model made of its transparent part; it is opaque.

        A soft edge, a shadow and glass let the new ground through as far as they are transparent,
        in and outside the mask.
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
        """Between the picture and what became of it, outside what was to change."""
        window, mask = self._window, self._changes
        outside = mask.size - int((mask > paste.THRESHOLD).sum())
        rgb, kept = window.cut(self._image.rgb), window.cut(seen)
        return paste.difference(rgb, kept, made, window.cut(mask), outside)

    # ------------------------------------------------------------ parts that are there

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
        """Whether what is transparent is what is painted, so that nothing of it is left."""
        steps = self.resolved.mask_steps
        inverted = steps is not None and steps.invert
        return self.resolved.mask == "alpha" and not inverted and self._image.alpha is not None

    @property
    def _changes(self) -> np.ndarray:
        """What may change of the whole picture, its feather aside: (H, W) uint8."""
        return self._with_transparent(_OPAQUE) if self._is_ground else self._mask

    @property
    def _shown_mask(self) -> np.ndarray | None:
        """What the model is to paint, of the whole picture: (H, W) uint8."""
        if self.mask is None or self.resolved.paste is None or not self._is_ground:
            return self.mask
        # Where much of the white shows through that is laid under it, it tells nothing.
        return self._with_transparent(_NEARLY_OPAQUE)

    def _with_transparent(self, opaque: int) -> np.ndarray:
        """What the mask selects, and all whose alpha is below `opaque`: (H, W) uint8."""
        alpha = self._image.alpha
        assert alpha is not None
        return np.where(alpha < opaque, 255, self._mask).astype(np.uint8)


def _check_output(resolved: Resolved, image: Picture) -> None:
    """Now, not when a GPU has worked for it. Other sizes are chosen, within every format's."""
    if resolved.preset is None and resolved.format != "source":
        codec.check_side(*image.size_px, resolved.format)


def _opaque(alpha: np.ndarray) -> np.ndarray:
    return np.full(alpha.shape, _OPAQUE, np.uint8)


def _unflattened(flat: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours as seen on white → those that, at this alpha, are seen so on white."""
    opacity = np.maximum(alpha, 1)[..., None].astype(np.float32) / 255
    straight = 255 - (255 - flat.astype(np.float32)) / opacity
    return np.where(alpha[..., None] > 0, np.clip(np.round(straight), 0, 255), flat).astype(
        np.uint8
    )
