"""Options for the part of a picture that is repainted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ace_tasks.errors import SettingsError
from ace_tasks.specs import AutoMethod, PasteSettings
from ace_tasks.specs.run_settings import AUTO_METHODS
from flows.options.groups import NONE, Options

AutoMaskName = Annotated[
    Literal["none", AutoMethod],
    Field(
        description='How to make the mask "auto". u2net: the product, found by a small network '
        "that comes with this project. grabcut: the object in the middle, found by its colours. "
        "border: everything but the plain background that touches the edges. model: what the "
        "worker's segmentation model finds for the row's label. person-top, person-bottom, "
        "person-dress: where a person wears such a garment. none: such rows are rejected."
    ),
]


class MaskOptions(Options):
    """Options for making and using masks."""

    auto_mask: AutoMaskName = "u2net"
    feather: float = Field(
        PasteSettings().feather,
        ge=0,
        le=0.25,
        description="Width of the blend around a mask, as a fraction of the longer side of the "
        "picture or window that is edited. 0 = no blend.",
    )
    crop_to_mask: bool = Field(
        True,
        description="Edit a window around a mask that is small in a large picture. Off = always "
        "edit the whole picture.",
    )
    allow_empty_masks: bool = Field(
        False,
        description="Publish a picture unchanged if its mask selects nothing. Off = the row fails.",
    )
    allow_full_masks: bool = Field(
        False,
        description="Repaint the whole picture if its mask selects all of it. Off = the row fails.",
    )

    def check(self, column: str, masks: str) -> None:
        """Raise SettingsError if every row would be rejected because no auto_mask is set.

        `column` is the parameter whose value is `masks`.
        """
        if masks == "auto" and self.auto_mask == NONE:
            raise SettingsError(
                f"auto_mask: accepted with {column} auto: {', '.join(AUTO_METHODS)}; given none"
            )


class RowMasks(MaskOptions):
    """Options for making and using masks."""

    mask_invert: bool = Field(
        False,
        description="Repaint what is outside the mask. With a mask of the product, that is its "
        "background.",
    )
    mask_grow: int = Field(
        0,
        ge=-1024,
        le=1024,
        description="Grow each mask by N pixels. Negative = shrink it. 0 = leave it as it is.",
    )
    mask_label: str = Field(
        "",
        description="With the auto_mask model: the label of what to repaint, as that model names "
        "it. Empty = everything but the background.",
    )


class TryOnMasks(RowMasks):
    """Options for making and using masks."""

    auto_mask: AutoMaskName = "none"  # no method suits every garment
