"""The settings of a run for all its rows that can change a published pixel."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from ace_tasks.errors import SettingsError
from ace_tasks.specs.columns import Background, Control, Frozen


class PasteSettings(Frozen):
    """The way a model's answer is pasted back into the picture."""

    feather: float = Field(
        0.01,
        ge=0,
        le=0.25,
        description="Width of the blend outside the mask, as a share of the longer side of what "
        "the model sees.",
    )
    crop_to_mask: bool = Field(
        True,
        description="Show the model a window around a mask that is small in a large picture.",
    )
    context: float = Field(
        0.5, ge=0, le=4, description="Margin of that window, as a multiple of the mask's side."
    )
    min_gain: float = Field(
        1.25, ge=1, description="How much sharper a window must be to justify less context."
    )


class MaskRules(Frozen):
    """The masks to accept although they are usually mistakes."""

    allow_empty: bool = Field(
        False, description="Accept a mask that selects nothing: the picture is published as it is."
    )
    allow_full: bool = Field(False, description="Accept a mask that selects everything.")


AutoMethod = Literal[
    "u2net", "grabcut", "border", "model", "person-top", "person-bottom", "person-dress"
]
AUTO_METHODS: tuple[str, ...] = get_args(AutoMethod)


class AutoMask(Frozen):
    """The way the mask "auto" is made."""

    method: AutoMethod = Field(
        description="u2net: the prominent object, found by a network in this package. grabcut: the "
        "object in the middle, found by its colours. border: everything that the colour of the "
        "picture's edge does not reach. model: what a segmentation model finds for the row's "
        "label. person-top, person-bottom, person-dress: where a person wears such a garment."
    )
    model: str | None = Field(
        None,
        description="Fingerprint (SHA-256) of the files of the model that makes it. For u2net: "
        "SHA-256 of its file.",
    )

    @property
    def garment(self) -> Literal["top", "bottom", "dress"] | None:
        """The garment that a person wears there. None: the mask is not of a person."""
        _, _, garment = self.method.partition("person-")
        return garment or None  # type: ignore[return-value]

    @classmethod
    def named(cls, name: str) -> AutoMask | None:
        """Return the way that a run's parameter names; None for "". Raises SettingsError."""
        if name and name not in AUTO_METHODS:
            accepted = ", ".join(AUTO_METHODS)
            raise SettingsError(f"auto_mask: accepted: {accepted}; given {name!r}")
        return cls.model_validate({"method": name}) if name else None


class Preset(Frozen):
    """A size and background for a marketplace. The picture is fitted in and padded."""

    name: str
    width_px: int = Field(ge=16, le=8192)
    height_px: int = Field(ge=16, le=8192)
    margin: float = Field(
        0.0, ge=0, lt=0.5, description="Free space on each side, as a share of the shorter side."
    )
    background: tuple[int, int, int] = Field((255, 255, 255), description="sRGB, 0-255.")


# What marketplaces ask of a main picture:
# Amazon   pure white (255, 255, 255), square; zoom from 1000 px, 2000 recommended; the product
#          fills 85 % of the frame (guides to Seller Central's rules)
# Google   1500×1500 or more; the product fills 75-90 % (support.google.com/merchants 6324350)
# Walmart  2200×2200, white (marketplacelearn.walmart.com, Image guidelines & requirements)
# Etsy     2000 px on the shorter side (guides)
# fashion  3:4, as Zalando's 2048×2730 (guides)
# A picture with its own surroundings is fitted edge to edge. `packshot` is for cut-outs that end
# at the product's outline.
PRESETS = {
    each.name: each
    for each in (
        Preset(name="white-1000", width_px=1000, height_px=1000),
        Preset(name="white-1500", width_px=1500, height_px=1500),
        Preset(name="white-2000", width_px=2000, height_px=2000),
        Preset(name="white-2200", width_px=2200, height_px=2200),
        Preset(name="packshot-2000", width_px=2000, height_px=2000, margin=0.075),
        Preset(name="portrait-1200x1600", width_px=1200, height_px=1600),
        Preset(name="portrait-2048x2730", width_px=2048, height_px=2730),
    )
}


class Shortcuts(Frozen):
    """The work that a fast edit leaves out. It changes a picture by more than rounding.

    Which steps are computed depends on their numbers alone, so an item's picture does not depend on
    the items that share its passes.
    """

    first_steps: int = Field(3, ge=2, description="Steps at the start that are all computed.")
    interval: int = Field(
        3, ge=1, description="After them one step in so many is computed. 1: all are."
    )
    last_steps: int = Field(1, ge=0, description="Steps at the end that are all computed.")
    order: int = Field(
        1, ge=0, le=2, description="Order of the Taylor series that the other steps come from."
    )
    precision: Literal["fp8"] = Field(
        "fp8",
        description="Number format in which the blocks multiply, on devices that multiply in it.",
    )

    def computed(self, steps: int) -> int:
        """Return how many of `steps` steps are computed."""
        return sum(self._is_computed(number, steps) for number in range(steps))

    def _is_computed(self, number: int, steps: int) -> bool:
        """Return whether diffusers' TaylorSeer computes a step; the first is number 0."""
        after = number - self.first_steps
        return after < 0 or (after - 1) % self.interval == 0 or number >= steps - self.last_steps


class PixelSettings(Frozen):
    """The settings of a run for all its rows."""

    geometry: Literal["catalog", "reference"] = Field(
        "catalog",
        description="catalog: keep sizes and everything outside a mask. reference: do what ACE++'s "
        "own code does.",
    )
    paste: PasteSettings = PasteSettings()
    masks: MaskRules = MaskRules()
    auto_mask: AutoMask | None = Field(None, description='None: the mask "auto" is refused.')
    control_models: dict[Control, str] = Field(
        {}, description="Fingerprint of the model's files, by control that needs a model."
    )
    clip_model: str | None = Field(
        None, description="Fingerprint of the model that helps to choose among candidates."
    )
    quality: int | None = Field(None, ge=1, le=100, description="For rows that name none.")
    preset: str | None = Field(None, description="For rows that name none.")
    candidates: int = Field(1, ge=1, le=16, description="For rows that name none.")
    background: Background | None = Field(
        None, description="For rows of task background that name none. None: white."
    )
    shortcuts: Shortcuts | None = Field(
        None, description="For rows that a model edits. None: no work is left out."
    )


DEFAULT_PIXELS = PixelSettings()
