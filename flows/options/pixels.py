"""Options for the edit, and for the finished pictures."""

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
    """The edit that is made to each picture."""

    task: Literal["edit", "fill", "background"] = Field(
        "edit",
        description="What to do with each picture. edit: change it, or its masked part. fill: "
        "repaint its masked part from nothing. With a reference, both put what it shows into the "
        "masked part. background: cut the product out and lay it on another background, "
        "without a prompt.",
    )
    reference: str = Field(
        "",
        description="Pictures of what to put in: s3:// URIs, comma-separated. They need a mask. "
        "Empty = none.",
    )
    shadow: bool = Field(
        False,
        description="With the task background: keep the product's shadow if the background it "
        "falls on is plain.",
    )


class RowOptions(Options):
    """Settings that a flow writes into each row that it generates."""

    format: Literal["source", "png", "jpeg", "webp", "avif"] = Field(
        "source",
        description="Format of the finished pictures. source: the format of the picture that is "
        "edited.",
    )
    steps: int = Field(
        0, ge=0, le=200, description="Number of denoising steps. 0 = the variant's own."
    )
    seed: int = Field(
        -1,
        ge=-1,
        le=2**32 - 1,
        description="Noise seed of every picture. -1 = each picture has its own, from its content.",
    )
    adapter: str = Field(
        "", description="Name of the LoRA adapter, such as portrait. Empty = chosen by the task."
    )

    def row_defaults(self, masking: RowMasks) -> RowDefaults:
        """Return the settings that all rows of the run share."""
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
    """Settings of the finished pictures, for rows that have none of their own."""

    candidates: int = Field(
        1, ge=1, le=16, description="Number of pictures to make for each row. The best one is kept."
    )
    geometry: Literal["catalog", "reference"] = Field(
        "catalog",
        description="How sizes and masks are handled. catalog: keep each picture's size, and "
        "everything outside its mask. reference: do as ACE++'s own code does.",
    )
    preset: PresetName = Field(
        "none",
        description="Size and background of the finished pictures. none: each keeps its own.",
    )
    quality: int = Field(
        0,
        ge=0,
        le=100,
        description="Quality of JPEG, AVIF and WebP files, up to 100. 0 = 95, and lossless WebP.",
    )

    def settings(self, masking: MaskOptions) -> PixelSettings:
        """Return the settings that decide pixels, and so which items are done.

        Raises SettingsError.
        """
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
    """Settings of the finished pictures, for rows that have none of their own."""

    background: Annotated[str, Field(pattern=BACKGROUND)] = Field(
        _WHITE,
        description="With the task background: the new background: white, "
        "transparent, or a colour as #rrggbb.",
    )

    def settings(self, masking: MaskOptions) -> PixelSettings:
        """Return the settings that decide pixels, and so which items are done.

        Raises SettingsError.
        """
        background = None if self.background == _WHITE else self.background
        return super().settings(masking).model_copy(update={"background": background})


class TryOnPixels(PixelOptions, RowOptions):
    """Settings of the finished pictures."""


class RestylePixels(CatalogPixels, RowOptions, TaskOptions):
    """The edit that is made to each picture, and settings of the finished pictures."""

    def row_defaults(self, masking: RowMasks) -> RowDefaults:
        """Return the settings that all rows of the run share."""
        return replace(super().row_defaults(masking), shadow=self.shadow)
