"""What a run decides for all its rows, as far as it can change a published pixel."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from ace_tasks.errors import SettingsError
from ace_tasks.specs.columns import Background, Control, Frozen


class PasteSettings(Frozen):
    """How a model's answer comes back into the picture it repaints a part of."""

    feather: float = Field(
        0.01,
        ge=0,
        le=0.25,
        description="Width of the blend outside the mask, in longer sides of what the model sees.",
    )
    crop_to_mask: bool = Field(
        True,
        description="Show the model a window round a mask that is small in a large picture.",
    )
    context: float = Field(
        0.5, ge=0, le=4, description="Margin of such a window, in sides of the mask."
    )
    min_gain: float = Field(
        1.25, ge=1, description="How much sharper a window must be to be worth less context."
    )


class MaskRules(Frozen):
    """Masks that are mistakes more often than meant."""

    allow_empty: bool = Field(
        False, description="A mask that selects nothing: the picture is published as it is."
    )
    allow_full: bool = Field(False, description="A mask that selects everything is meant.")


AutoMethod = Literal[
    "u2net", "grabcut", "border", "model", "person-top", "person-bottom", "person-dress"
]
AUTO_METHODS: tuple[str, ...] = get_args(AutoMethod)


class AutoMask(Frozen):
    """How the mask "auto" is made."""

    method: AutoMethod = Field(
        description="u2net: what stands out, by the network that comes with this package. grabcut: "
        "what stands out in the middle, by its colours. border: all that the colour of the "
        "picture's rim does not reach. model: what a segmentation model calls by the row's label. "
        "person-top, person-bottom, person-dress: where a person wears such a garment."
    )
    model: str | None = Field(
        None,
        description="Fingerprint (SHA-256) of the files of the model that makes it. Of u2net: "
        "SHA-256 of its file.",
    )

    @property
    def garment(self) -> Literal["top", "bottom", "dress"] | None:
        """What a person wears there; None: it is not of a person."""
        _, _, garment = self.method.partition("person-")
        return garment or None  # type: ignore[return-value]

    @classmethod
    def named(cls, name: str) -> AutoMask | None:
        """As a run's parameter names it; "" is None. Raises SettingsError."""
        if name and name not in AUTO_METHODS:
            accepted = ", ".join(AUTO_METHODS)
            raise SettingsError(f"auto_mask: accepted: {accepted}; given {name!r}")
        return cls.model_validate({"method": name}) if name else None


class Preset(Frozen):
    """A size and a background that a marketplace wants: the picture is fitted in and padded."""

    name: str
    width_px: int = Field(ge=16, le=8192)
    height_px: int = Field(ge=16, le=8192)
    margin: float = Field(0.0, ge=0, lt=0.5, description="Free on each side, in shorter sides.")
    background: tuple[int, int, int] = Field((255, 255, 255), description="sRGB, 0-255.")


# What marketplaces ask of a main picture:
# Amazon   pure white (255, 255, 255), square; zoom from 1000 px, 2000 recommended; the product
#          fills 85 % of the frame (guides to Seller Central's rules)
# Google   1500×1500 or more; the product fills 75-90 % (support.google.com/merchants 6324350)
# Walmart  2200×2200, white (marketplacelearn.walmart.com, Image guidelines & requirements)
# Etsy     2000 px on the shorter side (guides)
# fashion  3:4, as Zalando's 2048×2730 (guides)
# A picture that has its own surroundings is fitted edge to edge; `packshot` is for cut-outs that
# end where the product does.
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


class PixelSettings(Frozen):
    """What a run decides for all its rows."""

    geometry: Literal["catalog", "reference"] = Field(
        "catalog",
        description="catalog: sizes are kept, what is outside a mask stays. reference: as ACE++'s "
        "own code does it.",
    )
    paste: PasteSettings = PasteSettings()
    masks: MaskRules = MaskRules()
    auto_mask: AutoMask | None = Field(None, description='None: the mask "auto" is refused.')
    control_models: dict[Control, str] = Field(
        {}, description="Control that needs a model → fingerprint of that model's files."
    )
    clip_model: str | None = Field(
        None, description="Fingerprint of the model that helps to choose among candidates."
    )
    quality: int | None = Field(None, ge=1, le=100, description="Of rows that say none.")
    preset: str | None = Field(None, description="Of rows that name none.")
    candidates: int = Field(1, ge=1, le=16, description="Of rows that say none.")
    background: Background | None = Field(
        None, description="Of rows of task background that name none; None: white."
    )


DEFAULT_PIXELS = PixelSettings()
