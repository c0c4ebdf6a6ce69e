"""Options and arguments that several commands take."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from ace_tasks.specs import AutoMask, MaskRules, PasteSettings, PixelSettings


class Geometry(enum.StrEnum):
    CATALOG = "catalog"
    REFERENCE = "reference"


Catalog = Annotated[str, typer.Argument(help="JSONL, CSV or Parquet, at s3:// or a local path.")]
Output = Annotated[str, typer.Argument(help="Where pictures and records go: s3://bucket/prefix.")]
FailedRun = Annotated[str, typer.Argument(help="The run's id, as under runs/.")]
VariantName = Annotated[
    str, typer.Option(help="The model variant, such as toy, or the place of a variant.json.")
]
AcceptLicense = Annotated[
    bool, typer.Option(help="I have read and accept the licence of the variant's weights (once).")
]
MaxFailed = Annotated[int, typer.Option(min=0, help="Failures a good run may have.")]
DryRun = Annotated[bool, typer.Option(help="Say what the run would do and take; edit nothing.")]
MaxReplicaHours = Annotated[
    float, typer.Option(min=0, help="Stop a run that takes more hours of replicas; 0: no limit.")
]
MaxCost = Annotated[
    float, typer.Option(min=0, help="The same in money, by ACE_PRICE_PER_HOUR; 0: no limit.")
]
Replicas = Annotated[int, typer.Option(min=0, help="0: one a GPU, or one on a CPU.")]

# What decides a pixel, and so which items are done: `edit` and `plan` take the same.
GeometryName = Annotated[
    Geometry, typer.Option(help="catalog: sizes kept. reference: as ACE++'s own code.")
]
Feather = Annotated[
    float, typer.Option(min=0, max=0.25, help="Width of the blend at a mask's edge, in sides.")
]
CropToMask = Annotated[
    bool, typer.Option(help="Work on a window where a mask is small in a large picture.")
]
Candidates = Annotated[
    int, typer.Option(min=1, max=16, help="Pictures to try for a row; the best is kept.")
]
AutoMaskName = Annotated[
    str, typer.Option(help='How the mask "auto" is made: grabcut, border or model. Empty: refused.')
]
AllowEmpty = Annotated[
    bool, typer.Option(help="A mask may select nothing: its picture is published as it is.")
]
AllowFull = Annotated[bool, typer.Option(help="A mask may select all of its picture.")]
PresetName = Annotated[
    str, typer.Option(help="Such as white-2000, of rows that name none. Empty: size kept.")
]
Quality = Annotated[
    int, typer.Option(min=0, max=100, help="Of rows that say none. 0: 95; WebP lossless.")
]


def pixel_settings(
    geometry: Geometry,
    feather: float,
    crop_to_mask: bool,
    candidates: int,
    auto_mask: str,
    allow_empty_masks: bool,
    allow_full_masks: bool,
    preset: str,
    quality: int,
) -> PixelSettings:
    """As the flow makes them of its parameters. Raises SettingsError."""
    return PixelSettings(
        geometry=geometry.value,
        paste=PasteSettings(feather=feather, crop_to_mask=crop_to_mask),
        candidates=candidates,
        masks=MaskRules(allow_empty=allow_empty_masks, allow_full=allow_full_masks),
        auto_mask=AutoMask.named(auto_mask),
        preset=preset or None,
        quality=quality or None,
    )
