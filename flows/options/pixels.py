"""How pictures are made."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from ace_tasks.catalog.restyle import RowDefaults
from ace_tasks.specs import AutoMask, MaskRules, PasteSettings, PixelSettings
from ace_tasks.specs.columns import BACKGROUND
from flows.options.groups import NONE, Options
from flows.options.masking import MaskOptions, RowMasks

PresetName = Literal[
    "none",
    "white-1000",
    "white-1500",
    "white-2000",
    "white-2200",
    "packshot-2000",
    "portrait-1200x1600",
    "portrait-2048x2730",
]
_WHITE = "white"


class TaskOptions(Options):
    """What is done with each picture."""

    task: Literal["edit", "fill", "background"] = Field(
        "edit",
        description="edit: change the picture, or its masked part. fill: repaint the masked part "
        "from nothing. With a reference both put what it shows into the masked part. background: "
        "cut the product out and lay it on another ground, without a prompt.",
    )
    reference: str = Field(
        "",
        description="Pictures of what to put in: s3:// URIs, comma-separated. Needs a mask. Empty: "
        "none.",
    )
    shadow: bool = Field(
        False,
        description="With the task background: keep the product's shadow, where a plain ground "
        "shows it.",
    )


class RowOptions(Options):
    """What each row asks for that a flow writes itself."""

    format: Literal["source", "png", "jpeg", "webp", "avif"] = Field(
        "source",
        description="The format of the finished pictures. source: the format of the picture that "
        "is edited.",
    )
    steps: int = Field(0, ge=0, le=200, description="Denoising steps. 0: as the variant says.")
    seed: int = Field(
        -1,
        ge=-1,
        le=2**32 - 1,
        description="The noise seed of every picture. -1: each picture's own, from its content.",
    )
    adapter: str = Field(
        "", description="The LoRA adapter, such as portrait. Empty: chosen by the task."
    )

    def row_defaults(self, masking: RowMasks) -> RowDefaults:
        """Return what all rows of the run have in common."""
        return RowDefaults(
            masking.mask_invert,
            masking.mask_grow,
            masking.mask_label,
            self.format,
            self.steps,
            self.seed,
            self.adapter,
        )


class PixelOptions(Options):
    """How pictures are made, where their rows do not say it."""

    candidates: int = Field(
        1, ge=1, le=16, description="Pictures to try for each row. The best one is kept."
    )
    geometry: Literal["catalog", "reference"] = Field(
        "catalog",
        description="catalog: keep sizes, and all that is outside a mask. reference: do as ACE++'s "
        "own code does.",
    )
    preset: PresetName = Field(
        "none",
        description="Size and background of the finished pictures. none: a picture keeps its own.",
    )
    quality: int = Field(
        0,
        ge=0,
        le=100,
        description="Quality of JPEG, AVIF and WebP files. 0: 95, and WebP is lossless.",
    )

    def settings(self, masking: MaskOptions) -> PixelSettings:
        """Return what decides a pixel, and so which items are done. Raises SettingsError."""
        return PixelSettings(
            geometry=self.geometry,
            paste=PasteSettings(feather=masking.feather, crop_to_mask=masking.crop_to_mask),
            candidates=self.candidates,
            masks=MaskRules(
                allow_empty=masking.allow_empty_masks, allow_full=masking.allow_full_masks
            ),
            auto_mask=AutoMask.named("" if masking.auto_mask == NONE else masking.auto_mask),
            preset=None if self.preset == NONE else self.preset,
            quality=self.quality or None,
        )


class CatalogPixels(PixelOptions):
    """How pictures are made, where their rows do not say it."""

    background: Annotated[str, Field(pattern=BACKGROUND)] = Field(
        _WHITE,
        description="With the task background: what the product is laid on. white, transparent, "
        "or a colour as #rrggbb.",
    )

    def settings(self, masking: MaskOptions) -> PixelSettings:
        """Return what decides a pixel, and so which items are done. Raises SettingsError."""
        background = None if self.background == _WHITE else self.background
        return super().settings(masking).model_copy(update={"background": background})


class TryOnPixels(PixelOptions, RowOptions):
    """How pictures are made."""


class RestylePixels(CatalogPixels, RowOptions, TaskOptions):
    """What is done with each picture, and how pictures are made."""

    def row_defaults(self, masking: RowMasks) -> RowDefaults:
        """Return what all rows of the run have in common."""
        return replace(super().row_defaults(masking), shadow=self.shadow)
