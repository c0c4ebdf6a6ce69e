"""Which part of a picture is repainted."""

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
        description='How the mask "auto" is made. u2net: what stands out, by a small network that '
        "comes with this project. grabcut: what stands out in the middle, by its colours. border: "
        "everything that the colour of the picture's rim does not reach. model: what the worker's "
        "segmentation model calls by the row's label. person-top, person-bottom, person-dress: "
        "where a person wears such a garment. none: such rows are rejected."
    ),
]


class MaskOptions(Options):
    """How masks are made and used."""

    auto_mask: AutoMaskName = "u2net"
    feather: float = Field(
        PasteSettings().feather,
        ge=0,
        le=0.25,
        description="Width of the blend at a mask's edge, in sides of the picture.",
    )
    crop_to_mask: bool = Field(
        True, description="Work on a window where the mask is small in a large picture."
    )
    allow_empty_masks: bool = Field(
        False, description="Publish a picture unchanged where its mask selects nothing. Off: fail."
    )
    allow_full_masks: bool = Field(
        False, description="Repaint all of a picture where its mask selects all of it. Off: fail."
    )

    def check(self, column: str, masks: str) -> None:
        """Raises SettingsError where every row would be refused for want of an auto_mask.

        `column` is the parameter that says `masks`.
        """
        if masks == "auto" and self.auto_mask == NONE:
            raise SettingsError(
                f"auto_mask: accepted with {column} auto: {', '.join(AUTO_METHODS)}; given none"
            )


class RowMasks(MaskOptions):
    """How masks are made and used."""

    mask_invert: bool = Field(
        False,
        description="Repaint what the mask leaves out: with a mask of the product, its background.",
    )
    mask_grow: int = Field(
        0, ge=-1024, le=1024, description="Grow each mask by N pixels. Negative: shrink it."
    )
    mask_label: str = Field(
        "",
        description="With auto_mask model: what is repainted, as that model calls it. Empty: all.",
    )


class TryOnMasks(RowMasks):
    """How masks are made and used."""

    auto_mask: AutoMaskName = "none"  # no method suits every garment
